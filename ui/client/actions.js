/**
 * What a page does: send to an input of a run, trigger a task.
 *
 * Each place of use on a page is a component of its own, so the state of an action (pending, error,
 * what came of it) lives here by key, and all of them see the same.
 */

import { mixedContentHint } from "./platform.js";

/** @typedef {{isPending: boolean, count: number, error: {code: string, message: string}|null, handle: {id: string, access_token: string}|null}} ActionState */

/** Calls of one action that may be under way or wait for their turn; a further one is refused. */
export const MAX_PENDING = 32;

const ANSWER_MS = 60_000; // an answer that takes longer is no longer waited for

/** @type {ActionState} */
export const IDLE_ACTION = Object.freeze({ isPending: false, count: 0, error: null, handle: null });

/**
 * The actions of a page, by key. The calls of one key are carried out one at a time, in order.
 *
 * - `isPending`: a call is under way or waits for its turn.
 * - `count`, `handle`: how many calls succeeded, and what the last of them gave.
 * - `error`: of the last call that failed. It stays until a call is made while none is pending, so
 *   that the success of a later one does not hide it.
 */
export class Actions {
  /** @type {Map<string, ActionState>} */
  #states = new Map();
  /** @type {Map<string, Set<() => void>>} */
  #listeners = new Map();
  /** The calls that are not over, oldest first. @type {Map<string, {work: Function, identity: unknown}[]>} */
  #calls = new Map();

  /** @param {string} key */
  stateOf = (key) => this.#states.get(key) ?? IDLE_ACTION;

  /** Hear of changes; call the result to hear no more. */
  subscribe = (key, listener) => {
    const listeners = this.#listeners.get(key) ?? new Set();
    this.#listeners.set(key, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#dropIfUnused(key, listeners);
    };
  };

  // A remount finds the set again; what nobody shows and nothing waits for is dropped.
  #dropIfUnused(key, listeners) {
    queueMicrotask(() => {
      if (listeners.size > 0 || this.#listeners.get(key) !== listeners) return;
      this.#listeners.delete(key);
      if (!this.stateOf(key).isPending) this.#states.delete(key);
    });
  }

  /**
   * Do something, after all that was asked for before under the same key. A double click is one
   * call: a call with the identity of the one right before it, which is not over yet, is left out.
   *
   * @param {string} key
   * @param {() => Promise<ActionState["handle"]|undefined>} work
   * @param {unknown} [identity] equal for two calls that do the same
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

// For the page and its console. What a browser throws has a number as its code, or none.
function toProblem({ code: given, message }) {
  const code = typeof given === "string" ? given : "network";
  console.warn(`Realtime Streams: ${message} (${code})`);
  return { code, message };
}

/** A refusal of the gateway, as an error with its code. */
export class GatewayError extends Error {
  /** @param {{code: string, message: string}} frame */
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

/**
 * One action of a page without React: what is known of its calls, in `snapshot`, and the calls.
 *
 * A call that fails is in `snapshot.error`; it throws nothing.
 */
export class Action {
  #actions = new Actions();

  constructor() {
    this.#actions.subscribe("", () => {}); // so that what is known stays while nobody listens
  }

  /** @returns {ActionState} */
  get snapshot() {
    return this.#actions.stateOf("");
  }

  /**
   * Hear of changes: the listener is called with what is known now, and at each change.
   *
   * @param {(snapshot: ActionState) => void} listener
   * @returns {() => void} call it to hear no more
   */
  subscribe(listener) {
    const leave = this.#actions.subscribe("", () => listener(this.snapshot));
    listener(this.snapshot);
    return leave;
  }

  /** Make a call after those before it; see `Actions.run`. */
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
 * @param {string} url of the gateway's WebSocket
 * @param {{task: string, token: string, payload: object}} request
 */
export const trigger = (fetch, url, { task, token, payload }) =>
  post(fetch, httpUrl(`tasks/${encodeURIComponent(task)}/trigger`, url), token, { payload });

/**
 * Ask for a run, and the runs below it, to be canceled.
 *
 * @param {typeof fetch} fetch
 * @param {string} url of the gateway's WebSocket
 * @param {{run: string, token: string}} request
 * @returns {Promise<object>} the run after the request
 */
export const cancel = (fetch, url, { run, token }) =>
  post(fetch, httpUrl(`runs/${encodeURIComponent(run)}/cancel`, url), token, {});

async function post(fetch, address, token, content) {
  const request = {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal: AbortSignal.timeout(ANSWER_MS), // else all later calls would wait behind it for good
  };
  const answer = await fetch(address.href, request).catch(({ message: cause }) => {
    const why = cause + mixedContentHint(address.href);
    throw new GatewayError({ code: "network", message: `no gateway answers at ${address}: ${why}` });
  });
  const { status } = answer;
  const body = await answer.json().catch(() => null);
  if (answer.ok && body?.id) return body;
  if (body?.code && body.message) throw new GatewayError(body);
  const message = `${address} answered with status ${status}, as no gateway does`;
  throw new GatewayError({ code: `http_${status}`, message });
}
