/**
 * What a page does: send to an input of a run, trigger a task.
 *
 * Each place of use on a page is a component of its own, so the state of an action (pending, error,
 * what came of it) lives here by key, and all of them see the same.
 */

/** @typedef {{isPending: boolean, count: number, error: {code: string, message: string}|null, handle: {id: string, access_token: string}|null}} ActionState */

/** @type {ActionState} */
export const RESTING = Object.freeze({ isPending: false, count: 0, error: null, handle: null });

/** The actions of a page, by key. */
export class Actions {
  /** @type {Map<string, ActionState>} */
  #states = new Map();
  /** @type {Map<string, Set<() => void>>} */
  #listeners = new Map();

  /** @param {string} key */
  stateOf = (key) => this.#states.get(key) ?? RESTING;

  /** Hear of changes; call the result to hear no more. */
  subscribe = (key, listener) => {
    const listeners = this.#listeners.get(key) ?? new Set();
    this.#listeners.set(key, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#forget(key, listeners);
    };
  };

  // A remount finds the set again; what nobody shows and nothing waits for is dropped.
  #forget(key, listeners) {
    queueMicrotask(() => {
      if (listeners.size > 0 || this.#listeners.get(key) !== listeners) return;
      this.#listeners.delete(key);
      if (!this.stateOf(key).isPending) this.#states.delete(key);
    });
  }

  /**
   * Do something once: while it is under way, another call of the same key is ignored, so that a
   * double click sends once.
   *
   * @param {string} key
   * @param {() => Promise<ActionState["handle"]|undefined>} work
   */
  async run(key, work) {
    if (this.stateOf(key).isPending) return;
    this.#set(key, { isPending: true, error: null });
    try {
      const handle = (await work()) ?? null;
      this.#set(key, { isPending: false, handle, count: this.stateOf(key).count + 1 });
    } catch (error) {
      const { code = "network", message } = error;
      this.#set(key, { isPending: false, error: { code, message } });
    }
  }

  #set(key, change) {
    this.#states.set(key, Object.freeze({ ...this.stateOf(key), ...change }));
    for (const listener of this.#listeners.get(key) ?? []) listener();
  }
}

/** A refusal of the gateway, as an error with its code. */
export class Refusal extends Error {
  /** @param {{code: string, message: string}} frame */
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

/**
 * Trigger a task over HTTP.
 *
 * @param {typeof fetch} fetch
 * @param {string} url of the gateway's WebSocket
 * @param {{task: string, token: string, payload: object}} request
 */
export async function trigger(fetch, url, { task, token, payload }) {
  const address = new URL(`tasks/${encodeURIComponent(task)}/trigger`, url);
  address.protocol = address.protocol.replace(/^ws/, "http");
  const answer = await fetch(address.href, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ payload }),
  });
  const body = await answer.json().catch(() => ({
    code: `http_${answer.status}`,
    message: `the gateway answered with status ${answer.status}`,
  }));
  if (!answer.ok) throw new Refusal(body);
  return body;
}
