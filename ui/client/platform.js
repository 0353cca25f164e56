/**
 * Time, randomness, sockets and HTTP of a page. Tests replace them, and never sleep.
 *
 * @typedef {object} Platform
 * @property {new (url: string) => WebSocket} WebSocket
 * @property {typeof fetch} [fetch] used where WebSockets are blocked
 * @property {(action: () => void, ms: number) => unknown} setTimeout
 * @property {(handle: unknown) => void} clearTimeout
 * @property {() => number} now a monotonic clock in milliseconds
 * @property {() => number} random
 * @property {typeof import("./response_slots.js").acquireSlot} [acquireSlot] left out:
 *   every tab may hold a streaming response
 * @property {string} [remedy] end of the error message when no gateway is found
 * @property {(listener: () => void) => void} onWake calls the listener when the page may have been
 *   asleep or offline, so that its timers and its socket are unreliable
 */

import { acquireSlot } from "./response_slots.js";

/** @returns {Platform} the platform of a browser or of Node */
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

/** Return why the browser blocks this URL on this page; "" if it does not. */
export const mixedContentHint = (url) =>
  globalThis.location?.protocol === "https:" && /^(http|ws):/.test(url)
    ? "; this page came by https, so that its gateway needs https too"
    : "";

function onWake(listener) {
  if (typeof document === "undefined") return; // Node or a worker: never hidden
  for (const type of ["focus", "online", "pageshow"]) window.addEventListener(type, listener);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") listener();
  });
}

/** A timer that can be restarted and stopped. */
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

  /** Run the action after `ms`. A pending action is canceled. */
  start(ms, action) {
    this.stop();
    this.#dueMs = this.#platform.now() + ms;
    this.#handle = this.#platform.setTimeout(() => {
      this.stop();
      action();
    }, ms);
  }

  /** Run the action after `ms`, unless a pending one is due earlier. */
  startNoLater(ms, action) {
    if (this.#platform.now() + ms < this.#dueMs) this.start(ms, action);
  }

  stop() {
    if (this.#handle !== null) this.#platform.clearTimeout(this.#handle);
    this.#handle = null;
    this.#dueMs = Infinity;
  }
}
