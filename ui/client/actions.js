/**
 * Actions of a page: send to an input of a run, trigger a task.
 *
 * Several components may use one action. Its state (pending, error, result) is stored here by key,
 * so that all of them render the same.
 */

import { mixedContentHint } from "./platform.js";

/** @typedef {{isPending: boolean, count: number, error: {code: string, message: string}|null, handle: {id: string, access_token: string}|null}} ActionState */

/** Maximum number of pending calls of one action; a further call is rejected. */
export const MAX_PENDING = 32;

const RESPONSE_TIMEOUT_MS = 60_000;

/** @type {ActionState} */
export const IDLE_ACTION = Object.freeze({ isPending: false, count: 0, error: null, handle: null });

/**
 * The actions of a page, by key. The calls of one key run one at a time, in order.
 *
 * - `isPending`: a call is executing or queued.
 * - `count`, `handle`: number of successful calls, and the result of the last one.
 * - `error`: the error of the last failed call. The next call that starts while none is pending
 *   clears it; a later success does not, and cannot hide it.
 */
export class Actions {
  /** @type {Map<string, ActionState>} */
  #states = new Map();
  /** @type {Map<string, Set<() => void>>} */
  #listeners = new Map();
  /** Pending calls, oldest first. @type {Map<string, {work: Function, identity: unknown}[]>} */
  #calls = new Map();

  /** @param {string} key */
  stateOf = (key) => this.#states.get(key) ?? IDLE_ACTION;

  /** Call the listener at each change. Returns a function that removes it. */
  subscribe = (key, listener) => {
    const listeners = this.#listeners.get(key) ?? new Set();
    this.#listeners.set(key, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#dropIfUnused(key, listeners);
    };
  };

  // A remount in the same task adds a listener again, so the check runs in a microtask.
  #dropIfUnused(key, listeners) {
    queueMicrotask(() => {
      if (listeners.size > 0 || this.#listeners.get(key) !== listeners) return;
      this.#listeners.delete(key);
      if (!this.stateOf(key).isPending) this.#states.delete(key);
    });
  }

  /**
   * Run a call after the pending calls of the same key. A double click is one call: a call is
   * dropped if the previous call has the same identity and is still pending.
   *
   * @param {string} key
   * @param {() => Promise<ActionState["handle"]|undefined>} work
   * @param {unknown} [identity] equal for two calls with the same effect
   */
  async run(key, work, identity = work) {
    const calls = this.#calls.get(key) ?? [];
    if (calls.length > 0 && calls.at(-1).identity === identity) return;
    if (calls.length >= MAX_PENDING) {
      const code = "too_many_pending";
      const message = `${MAX_PENDING} calls are pending, which is the limit: this one was not made. Try again once they are answered`;
      this.#set(key, { error: toProblem({ code, message }) });
      return;
    }
    calls.push({ work, identity });
    if (calls.length === 1) await this.#runQueue(key, calls);
  }

  async #runQueue(key, calls) {
    this.#calls.set(key, calls);
    this.#set(key, { isPending: true, error: null });
    while (calls.length > 0) {
      const change = await this.#execute(key, calls[0].work);
      calls.shift();
      this.#set(key, { ...change, isPending: calls.length > 0 });
    }
    this.#calls.delete(key);
    if (!this.#listeners.has(key)) this.#states.delete(key);
  }

  async #execute(key, work) {
    try {
      const handle = (await work()) ?? null;
      return { handle, count: this.stateOf(key).count + 1 };
    } catch (error) {
      return { error: toProblem(error) };
    }
  }

  #set(key, change) {
    this.#states.set(key, Object.freeze({ ...this.stateOf(key), ...change }));
    for (const listener of this.#listeners.get(key) ?? []) listener();
  }
}

// Errors of the gateway have a text as their code; errors of the browser a number, or none.
function toProblem({ code: given, message }) {
  const code = typeof given === "string" ? given : "network";
  console.warn(`Realtime Streams: ${message} (${code})`);
  return { code, message };
}

/** A rejection by the gateway, with its code. */
export class GatewayError extends Error {
  /** @param {{code: string, message: string}} frame */
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

/**
 * One action of a page without React. `snapshot` has the state of its calls.
 *
 * A failed call sets `snapshot.error`; it throws nothing.
 */
export class Action {
  #actions = new Actions();

  constructor() {
    this.#actions.subscribe("", () => {}); // keeps the state without listeners
  }

  /** @returns {ActionState} */
  get snapshot() {
    return this.#actions.stateOf("");
  }

  /**
   * Call the listener with the current state, and at each change.
   *
   * @param {(snapshot: ActionState) => void} listener
   * @returns {() => void} removes the listener
   */
  subscribe(listener) {
    const unsubscribe = this.#actions.subscribe("", () => listener(this.snapshot));
    listener(this.snapshot);
    return unsubscribe;
  }

  /** Run a call after the pending ones; see `Actions.run`. */
  call(work, identity) {
    return this.#actions.run("", work, identity);
  }
}

const httpUrl = (path, url) => {
  const address = new URL(path, url);
  address.protocol = address.protocol.replace(/^ws/, "http");
  return address;
};

/**
 * Trigger a task over HTTP.
 *
 * @param {typeof fetch} fetch
 * @param {string} url URL of the gateway's WebSocket
 * @param {{task: string, token: string, payload: object}} request
 */
export const trigger = (fetch, url, { task, token, payload }) =>
  post(fetch, httpUrl(`tasks/${encodeURIComponent(task)}/trigger`, url), token, { payload });

/**
 * Request the cancellation of a run and its descendants.
 *
 * @param {typeof fetch} fetch
 * @param {string} url URL of the gateway's WebSocket
 * @param {{run: string, token: string}} request
 * @returns {Promise<object>} the run, after the request
 */
export const cancel = (fetch, url, { run, token }) =>
  post(fetch, httpUrl(`runs/${encodeURIComponent(run)}/cancel`, url), token, {});

async function post(fetch, address, token, content) {
  const request = {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal: AbortSignal.timeout(RESPONSE_TIMEOUT_MS), // later calls of the key wait for this one
  };
  const response = await fetch(address.href, request).catch(({ message: cause }) => {
    const reason = cause + mixedContentHint(address.href);
    throw new GatewayError({ code: "network", message: `no gateway answers at ${address}: ${reason}` });
  });
  const { status } = response;
  const body = await response.json().catch(() => null);
  if (response.ok && body?.id) return body;
  if (body?.code && body.message) throw new GatewayError(body);
  const message = `${address} answered with status ${status}, as no gateway does`;
  throw new GatewayError({ code: `http_${status}`, message });
}
