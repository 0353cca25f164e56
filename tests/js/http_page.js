import { Store } from "../../ui/client/store.js";
import { Component } from "./components.js";
import { FakePage } from "./fakes.js";

export const WELCOME = { type: "welcome", protocol: 1, connection: "c_1", ping_ms: 20_000, limits: {} };

// Microtasks read the bodies; one iteration of the event loop runs all of them.
export const settled = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

/** A page whose WebSockets and HTTP requests are controlled by the test. */
export class HttpPage extends FakePage {
  requests = [];
  #more;

  /** @param {object} [more] further members of its platform */
  constructor(more = {}) {
    super();
    this.#more = more;
  }

  get platform() {
    const fetch = (url, options) => this.#answer(url, options);
    return { ...super.platform, fetch, ...this.#more };
  }

  #answer(url, { body, signal }) {
    const request = { url, frames: body.split("\n").map((line) => JSON.parse(line)), signal };
    this.requests.push(request);
    const stream = new ReadableStream({ start: (controller) => (request.controller = controller) });
    signal.addEventListener("abort", () => {
      try {
        request.controller.error(signal.reason);
      } catch {} // it has ended already
    });
    const headers = { "Content-Type": "text/event-stream" };
    return Promise.resolve(new Response(stream, { headers }));
  }

  get request() {
    return this.requests.at(-1);
  }

  async send(...frames) {
    const text = frames.map((frame) => `data: ${JSON.stringify(frame)}\n\n`).join("");
    this.request.controller.enqueue(new TextEncoder().encode(text));
    await settled();
  }

  async close(code) {
    const text = `event: close\ndata: {"code":${code},"reason":""}\n\n`;
    this.request.controller.enqueue(new TextEncoder().encode(text));
    this.request.controller.close();
    await settled();
  }

  async pass(ms) {
    this.clock.advance(ms);
    await settled();
  }
}

/** A page whose WebSocket was rejected, so that it uses HTTP, and a component on it. */
export async function httpPage(more) {
  const page = new HttpPage(more);
  const component = new Component(new Store(page.platform));
  page.socket.drop(1006);
  await page.pass(500);
  await page.pass(0);
  await page.send(WELCOME);
  await page.pass(0);
  return { page, component };
}
