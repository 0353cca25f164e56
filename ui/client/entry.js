/**
 * What is known of one stream or run, as snapshots for a user interface.
 *
 * An entry is the sink of one subscription. However many components show it, each record is folded
 * in once, and they are told at most once per window.
 */

import { Timer } from "./environment.js";
import { NO_PARTS, NO_SOURCES, PartsAssembler, SourcesAssembler } from "./parts.js";
import { mergePatch } from "./protocol.js";
import { Subscription } from "./subscription.js";

const FRAME_MS = 16; // telling more often than the screen is drawn helps nobody

/**
 * @typedef {object} Snapshot never changed once handed out
 * @property {"idle"|"connecting"|"live"|"reconnecting"|"ended"|"error"} status
 * @property {object[]} records the newest ones, at most `maxRecords`
 * @property {unknown[]} data their values
 * @property {unknown} latest the last value, or null
 * @property {string} text all strings seen, joined; also of records no longer kept
 * @property {number} count how many records were seen
 * @property {number} dropped how many of them are no longer in `records`
 * @property {object|null} run the run, when the subscription is to a run
 * @property {object} parts see `parts.js`; empty unless someone asked for it
 * @property {{source: string|null, parts: object}[]} partsBySource the same for each run that
 *   writes into the stream; empty unless someone asked for it
 * @property {{from: string, to: string, reason: string}[]} gaps
 * @property {string|null} position
 * @property {string|null} endReason
 * @property {{code: string, message: string}|null} error
 */

const NOTHING_SEEN = {
  records: Object.freeze([]),
  data: Object.freeze([]),
  latest: null,
  text: "",
  count: 0,
  dropped: 0,
  run: null,
  parts: NO_PARTS,
  partsBySource: NO_SOURCES,
  gaps: Object.freeze([]),
  position: null,
  endReason: null,
  error: null,
};

/** @type {Snapshot} */
export const IDLE = Object.freeze({ ...NOTHING_SEEN, status: "idle" });
/** @type {Snapshot} */
export const CONNECTING = Object.freeze({ ...NOTHING_SEEN, status: "connecting" });

/** @implements {import("./subscription.js").Sink} */
export class Entry {
  snapshot = CONNECTING;
  /** The components that show it. @type {Set<import("./store.js").User>} */
  users = new Set();
  #environment;
  #changes = {};
  #pending = [];
  #assembler = null;
  #sourcesAssembler = null;
  #flushTimer;
  #flushedAt = -Infinity;
  #wasLive = false;

  /**
   * @param {{run: string, stream: string|null, start: import("./protocol.js").Start,
   *   throttleMs: number, token: string|null}} request
   * @param {import("./environment.js").Environment} environment
   */
  constructor(request, environment) {
    this.#environment = environment;
    this.#flushTimer = new Timer(environment);
    this.subscription = new Subscription(request, this);
  }

  /** Assemble parts from now on, beginning with the values that are kept. */
  wantParts() {
    if (this.#assembler !== null) return;
    this.#assembler = new PartsAssembler();
    this.#assembler.add(this.snapshot.data);
    this.#change({ parts: this.#assembler.value });
  }

  /** The same, for each run that writes into the stream. */
  wantPartsBySource() {
    if (this.#sourcesAssembler !== null) return;
    this.#sourcesAssembler = new SourcesAssembler(this.subscription.run);
    this.#sourcesAssembler.add(this.snapshot.records);
    this.#change({ partsBySource: this.#sourcesAssembler.value });
  }

  /** Stop telling anyone: the last component has left. */
  discard() {
    this.#flushTimer.stop();
  }

  subscribed(run) {
    this.#wasLive = true;
    this.#change({ status: "live", error: null, ...(run && { run }) });
  }

  records(records) {
    if (this.subscription.isRun) this.#patchRun(records);
    else for (const record of records) this.#pending.push(record);
    this.#flushSoon();
  }

  gap(gap) {
    this.#change({ gaps: [...this.snapshot.gaps, gap] });
  }

  reset() {
    this.#flush(); // handlers hear of what came before
    if (this.#assembler !== null) this.#assembler = new PartsAssembler();
    if (this.#sourcesAssembler !== null) {
      this.#sourcesAssembler = new SourcesAssembler(this.subscription.run);
    }
    this.#change(NOTHING_SEEN);
  }

  end(reason) {
    this.#change({ status: "ended", endReason: reason });
    this.#tellHandlers("onEnd", [[reason]]);
  }

  error({ code, message }) {
    const error = Object.freeze({ code, message });
    this.#change({ status: "error", error });
    this.#tellHandlers("onError", [[error]]);
  }

  lost() {
    this.#change({ status: this.#wasLive ? "reconnecting" : "connecting" });
  }

  #patchRun(records) {
    const before = this.#changes.run ?? this.snapshot.run;
    this.#changes.run = records.reduce((run, record) => mergePatch(run, record.data), before);
  }

  // The first change is shown at once, those that follow at the end of the window.
  #flushSoon() {
    if (this.#flushTimer.running) return;
    const windowMs = Math.max(FRAME_MS, this.subscription.throttleMs);
    const sinceMs = this.#environment.now() - this.#flushedAt;
    this.#flushTimer.start(Math.max(0, windowMs - sinceMs), () => {
      this.#flushedAt = this.#environment.now();
      this.#flush();
    });
  }

  #change(changes) {
    Object.assign(this.#changes, changes);
    this.#flush();
  }

  #flush() {
    this.#flushTimer.stop();
    const records = this.#pending;
    this.#pending = [];
    const changes = { ...this.#changes, ...this.#folded(records) };
    this.#changes = {};
    const { position } = this.subscription;
    this.snapshot = Object.freeze({ ...this.snapshot, ...changes, position });
    for (const user of this.users) user.notify();
    this.#tellHandlers("onRecord", records.map(handlerArguments));
  }

  #folded(records) {
    if (records.length === 0) return {};
    const before = this.snapshot;
    const values = records.map((record) => record.data);
    const max = this.#maxRecords();
    const kept = keepNewest(before.records, records, max);
    const count = before.count + records.length;
    this.#assembler?.add(values);
    this.#sourcesAssembler?.add(records);
    return {
      records: kept,
      data: keepNewest(before.data, values, max),
      latest: values.at(-1),
      text: before.text + values.filter((value) => typeof value === "string").join(""),
      count,
      dropped: count - kept.length,
      parts: this.#assembler?.value ?? NO_PARTS,
      partsBySource: this.#sourcesAssembler?.value ?? NO_SOURCES,
    };
  }

  // The largest that anyone asks for; null is without bound.
  #maxRecords() {
    const wanted = [...this.users].map((user) => user.options.maxRecords);
    return wanted.includes(null) ? null : Math.max(0, ...wanted);
  }

  // Ten components that show the result of one Python hook carry one handler ten times: the
  // handler's key says so, and it is called once.
  #tellHandlers(name, calls) {
    if (calls.length === 0) return;
    const handlers = new Map();
    for (const { options } of this.users) {
      if (options[name]) handlers.set(options.handlerKey, options[name]);
    }
    for (const handler of handlers.values()) {
      for (const call of calls) callSafely(handler, call);
    }
  }
}

function keepNewest(before, added, max) {
  const all = before.concat(added);
  return max === null || all.length <= max ? all : all.slice(all.length - max);
}

const handlerArguments = ({ data, offset, time_ms, source = null }) => [
  data,
  { offset, time_ms, source },
];

// One handler that throws must not keep the others, or the next record, from being told.
function callSafely(handler, call) {
  try {
    handler(...call);
  } catch (error) {
    console.error(error);
  }
}
