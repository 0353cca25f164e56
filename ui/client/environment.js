/**
 * What the client needs of its surroundings. Time, chance and sockets come in from here, so that
 * tests hand in their own and never sleep.
 *
 * @typedef {object} Environment
 * @property {new (url: string) => WebSocket} WebSocket
 * @property {typeof fetch} [fetch] for where WebSockets are blocked
 * @property {(action: () => void, ms: number) => unknown} setTimeout
 * @property {(handle: unknown) => void} clearTimeout
 * @property {() => number} now milliseconds that never run backwards
 * @property {() => number} random
 * @property {typeof import("./places.js").takePlace} [takePlace] left out: every answer over HTTP may
 *   go on
 * @property {string} [advice] what to do when no gateway is found
 * @property {(listener: () => void) => void} onWake calls the listener whenever the page may have
 *   slept or lost its network: its timers and its socket can no longer be believed
 */

import { takePlace } from "./places.js";

/** @returns {Environment} the environment of a page in a browser, or of Node */
export function browserEnvironment() {
  return {
    WebSocket: globalThis.WebSocket,
    fetch: (url, options) => fetch(url, options),
    setTimeout: (action, ms) => setTimeout(action, ms),
    clearTimeout: (handle) => clearTimeout(handle),
    now: () => performance.now(),
    random: Math.random,
    takePlace: typeof location === "undefined" ? undefined : takePlace, // Node has no such limit
    onWake,
  };
}

/** What keeps this page from a gateway, whatever that answers; "" if nothing is known to. */
export const obstacleTo = (url) =>
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
  #environment;
  #handle = null;
  #dueMs = Infinity;

  /** @param {Environment} environment */
  constructor(environment) {
    this.#environment = environment;
  }

  get running() {
    return this.#handle !== null;
  }

  /** Run the action once after `ms`, in place of what was waiting before. */
  start(ms, action) {
    this.stop();
    this.#dueMs = this.#environment.now() + ms;
    this.#handle = this.#environment.setTimeout(() => {
      this.stop();
      action();
    }, ms);
  }

  /** Run the action within `ms`: what is due earlier stays. */
  startNoLater(ms, action) {
    if (this.#environment.now() + ms < this.#dueMs) this.start(ms, action);
  }

  stop() {
    if (this.#handle !== null) this.#environment.clearTimeout(this.#handle);
    this.#handle = null;
    this.#dueMs = Infinity;
  }
}
