/**
 * What the client needs of its surroundings. Time, chance and sockets come in from here, so that
 * tests hand in their own and never sleep.
 *
 * @typedef {object} Platform
 * @property {new (url: string) => WebSocket} WebSocket
 * @property {typeof fetch} [fetch] for where WebSockets are blocked
 * @property {(action: () => void, ms: number) => unknown} setTimeout
 * @property {(handle: unknown) => void} clearTimeout
 * @property {() => number} now milliseconds that never run backwards
 * @property {() => number} random
 * @property {typeof import("./response_slots.js").acquireSlot} [acquireSlot] left out: every answer over HTTP may
 *   go on
 * @property {string} [remedy] what to do when no gateway is found
 * @property {(listener: () => void) => void} onWake calls the listener whenever the page may have
 *   slept or lost its network: its timers and its socket can no longer be believed
 */

import { acquireSlot } from "./response_slots.js";

/** @returns {Platform} the platform of a page in a browser, or of Node */
export function browserPlatform() {
  return {
    WebSocket: globalThis.WebSocket,
    fetch: (url, options) => fetch(url, options),
    setTimeout: (action, ms) => setTimeout(action, ms),
    clearTimeout: (handle) => clearTimeout(handle),
    now: () => performance.now(),
    random: Math.random,
    acquireSlot: typeof location === "undefined" ? undefined : acquireSlot, // Node has no such limit
    onWake,
  };
}

/** What keeps this page from a gateway, whatever that answers; "" if nothing is known to. */
export const mixedContentHint = (url) =>
  globalThis.location?.protocol === "https:" && /^(http|ws):/.test(url)
    ? "; this page came by https, so that its gateway needs https too"
    : "";

function onWake(listener) {
  if (typeof document === "undefined") return; // Node, or a worker: nobody hides it
  for (const type of ["focus", "online", "pageshow"]) window.addEventListener(type, listener);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") listener();
  });
}

/** One timer that can be started again and stopped at any time. */
export class Timer {
  #platform;
  #handle = null;
  #dueMs = Infinity;

  /** @param {Platform} platform */
  constructor(platform) {
    this.#platform = platform;
  }

  get running() {
    return this.#handle !== null;
  }

  /** Run the action once after `ms`, in place of what was waiting before. */
  start(ms, action) {
    this.stop();
    this.#dueMs = this.#platform.now() + ms;
    this.#handle = this.#platform.setTimeout(() => {
      this.stop();
      action();
    }, ms);
  }

  /** Run the action within `ms`: what is due earlier stays. */
  startNoLater(ms, action) {
    if (this.#platform.now() + ms < this.#dueMs) this.start(ms, action);
  }

  stop() {
    if (this.#handle !== null) this.#platform.clearTimeout(this.#handle);
    this.#handle = null;
    this.#dueMs = Infinity;
  }
}
