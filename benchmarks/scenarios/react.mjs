/**
 * Send many values through the real hook into a React component, in jsdom. Run by
 * `benchmarks.scenarios.browser`.
 *
 *     node react.mjs FOLDER_WITH_REACT_AND_JSDOM THROTTLE_MS MAX_RECORDS
 *
 * Prints one JSON object: CPU seconds, renders, and the number of values kept and dropped.
 */

import { createRequire, registerHooks } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, throttle, max] = process.argv.slice(2);
const throttleMs = Number(throttle);
const maxRecords = max === "all" ? null : Number(max);

const VALUES = 50_000;
const FRAME_RECORDS = 100;
const FRAME_EVERY_MS = 10; // 10,000 values a second

const there = pathToFileURL(join(folder, "index.js")).href;
const require = createRequire(there);
const REFLEX = {
  "$/env.json": `export default { EVENT: "ws://localhost:8000/_event" };`,
  "$/utils/state": `export const getBackendURL = (url) => new URL(url);`,
};
registerHooks({
  resolve(specifier, context, next) {
    if (specifier in REFLEX) {
      const url = `data:text/javascript,${encodeURIComponent(REFLEX[specifier])}`;
      return { url, shortCircuit: true };
    }
    const isReact = /^react(-dom)?(\/|$)/.test(specifier);
    return next(specifier, isReact ? { ...context, parentURL: there } : context);
  },
});

const { JSDOM } = require("jsdom");
const { window } = new JSDOM("<div id=root></div>", { pretendToBeVisual: true });
Object.assign(globalThis, { window, document: window.document });

/** A fake gateway that sends the values at a fixed rate, in frames as on the wire. */
class Gateway {
  constructor() {
    setTimeout(() => {
      this.onopen({});
      this.#emit({ type: "welcome", protocol: 1, connection: "c", ping_ms: 25_000, limits: {} });
    });
  }

  send(text) {
    const { type, id } = JSON.parse(text);
    if (type === "subscribe") {
      this.#emit({ type: "subscribed", id, position: position(0) });
      this.#sendValues(id, performance.now());
    }
  }

  #sendValues(id, began) {
    let offset = 0;
    const timer = setInterval(() => {
      const due = Math.floor((performance.now() - began) / FRAME_EVERY_MS) * FRAME_RECORDS;
      for (; offset < Math.min(due, VALUES); offset += FRAME_RECORDS) {
        const records = Array.from({ length: FRAME_RECORDS }, (_, i) => recordAt(offset + i));
        const end = position(offset + FRAME_RECORDS);
        this.#emit({ type: "records", id, records, position: end });
      }
      if (offset >= VALUES) clearInterval(timer);
    }, FRAME_EVERY_MS);
  }

  #emit(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  close() {}
}

const position = (offset) => `019aab37c2f1a3d4_${String(offset).padStart(16, "0")}`;
const recordAt = (offset) => ({
  offset,
  time_ms: 1,
  data: { current: offset, total: VALUES, status: "a record of about one hundred bytes, in all" },
});

globalThis.WebSocket = Gateway;
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useRealtimeStream } = await import("../../ui/client/hooks.js");

let renders = 0;
const { promise: isDone, resolve: finish } = Promise.withResolvers();

function Shown() {
  const stream = useRealtimeStream({ runId: "run_a", stream: "s", token: "t", throttleMs, maxRecords });
  renders += 1;
  if (stream.count === VALUES) finish(stream);
  return createElement("p", null, stream.data.length);
}

const before = process.cpuUsage();
createRoot(document.getElementById("root")).render(createElement(Shown));
const { data, count, dropped } = await isDone;
const { observer, system } = process.cpuUsage(before);
const cpu_s = (observer + system) / 1e6;
console.log(JSON.stringify({ cpu_s, renders, count, kept: data.length, dropped }));
process.exit(0);
