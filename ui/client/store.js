/**
 * All subscriptions of a page, outside of any component.
 *
 * Components that ask for the same thing share one entry: one subscription, each value once. What a
 * component shows is found by its key, so another run can never show the values of the one before.
 */

import { Connection } from "./connection.js";
import { CacheEntry } from "./cache_entry.js";
import { Timer } from "./platform.js";
import { DEFAULT_LIMIT, MAX_LIMIT, appendFrame } from "./protocol.js";
import { CONNECTING, IDLE } from "./snapshot.js";

const LINGER_MS = 1_000; // an entry without a component stays this long, so that a remount finds it

/**
 * @typedef {object} Options
 * @property {string|null} url of the gateway's WebSocket
 * @property {string|null} runId
 * @property {string|null} stream null: the run itself
 * @property {{tag: string}|{tags: string[]}|{batch: string}|{parent: string}} [runs] a set of runs,
 *   in place of a run
 * @property {number} [limit] how many runs of the set, and how many more at a time
 * @property {string[]} [skip] fields of runs that are left out
 * @property {import("./protocol.js").Start} [start]
 * @property {number|"latest"|null} [attempt] of a stream: of what its own run wrote, only that of
 *   this attempt; `latest`: only that of the newest that has written
 * @property {string|null} [token] null or an empty one is awaited; left out, none is needed
 * @property {number} [throttleMs]
 * @property {number|null} [maxRecords] null: all
 * @property {boolean} [enabled]
 * @property {boolean} [parts] assemble AI parts
 * @property {boolean} [partsBySource] assemble them for each run that writes
 * @property {import("./views.js").ViewSpec} [view] keep this view of the stream
 * @property {string} [handlerKey] handlers under one key are called once, however many carry them
 * @property {(value: unknown, meta: {offset: number, time_ms: number, source: string|null, attempt: number}) => void} [onRecord]
 * @property {(reason: string) => void} [onEnd]
 * @property {(run: object) => void} [onComplete] of a run: it is over, however it went
 * @property {(error: {code: string, message: string}) => void} [onError]
 * @property {() => void} [onTokenExpiring] the token is near its end: give another one
 */

const DEFAULTS = {
  runId: null,
  stream: null,
  runs: null,
  limit: DEFAULT_LIMIT,
  skip: [],
  start: "beginning",
  attempt: null,
  throttleMs: 50,
  maxRecords: 1000,
};

/**
 * Name what a component asks for; null when it asks for nothing yet.
 *
 * @param {Options} options
 * @returns {string|null}
 */
export function keyOf(options) {
  const { url, token, enabled = true } = options;
  if (!url || !enabled || token === null || token === "") return null;
  const { runId, stream, runs, limit, skip, start, attempt } = { ...DEFAULTS, ...options };
  if (runs) return isNamed(runs) ? JSON.stringify([url, "runs", runs, limit, skip]) : null;
  return runId ? JSON.stringify([url, runId, stream, start, skip, attempt]) : null;
}

// A page may know its tags or its batch later only.
const isNamed = (runs) => Object.values(runs).every((id) => id && id.length > 0);

/** One component's share in one entry; a component whose key changes gets a new one. */
export class Observer {
  /** @type {Required<Options>} */
  options = DEFAULTS;
  notify = () => {};
  #store;

  /** @param {Store} store @param {string|null} key */
  constructor(store, key) {
    this.#store = store;
    this.key = key;
  }

  /** Take the options as they are now; cheap when they are as before. @param {Options} options */
  configure(options) {
    const before = this.options;
    this.options = { ...DEFAULTS, ...options };
    this.#store.updateOptions(this, before);
  }

  /** Join the entry; call the result to leave it. */
  subscribe = (notify) => {
    this.notify = notify;
    this.#store.addObserver(this);
    return () => this.#store.removeObserver(this);
  };

  getSnapshot = () => this.#store.snapshotOf(this.key);
}

export class Store {
  #platform;
  /** @type {Map<string, Connection>} */
  #connections = new Map();
  /** @type {Map<string, CacheEntry>} */
  #entries = new Map();
  #lingering = new Map();

  /** @param {import("./platform.js").Platform} platform */
  constructor(platform) {
    this.#platform = platform;
  }

  /** @param {string|null} key */
  snapshotOf(key) {
    if (key === null) return IDLE;
    return this.#entries.get(key)?.snapshot ?? CONNECTING;
  }

  /** @param {Observer} observer */
  addObserver(observer) {
    if (observer.key === null) return;
    this.#lingering.get(observer.key)?.stop();
    const known = this.#entries.get(observer.key);
    const entry = known ?? this.#newEntry(observer);
    entry.observers.add(observer);
    entry.enable(observer.options);
    const connection = this.#connection(observer.options.url);
    if (!known) {
      if (entry.optionError === null) connection.add(entry.subscription);
      else entry.error({ code: "invalid_value", message: entry.optionError });
      return;
    }
    this.#applyOptions(entry, observer.options);
    // A component that comes back asks anew; one beside others sees the error that they see.
    const isRefused = entry.subscription.outcome === "failed";
    if (isRefused && entry.observers.size === 1) connection.restart(entry.subscription);
  }

  /** @param {Observer} observer */
  removeObserver(observer) {
    const entry = this.#entries.get(observer.key);
    if (!entry?.observers.delete(observer) || entry.observers.size > 0) return;
    const timer = new Timer(this.#platform);
    this.#lingering.set(observer.key, timer);
    timer.start(LINGER_MS, () => this.#discard(observer));
  }

  /** Carry a change of an observer's options over to its entry. */
  updateOptions(observer, before) {
    const entry = this.#entries.get(observer.key);
    if (!entry?.observers.has(observer)) return;
    const { token, throttleMs } = observer.options;
    entry.enable(observer.options);
    if (token !== before.token || throttleMs !== before.throttleMs) this.#applyOptions(entry, observer.options);
  }

  // The newest token counts, and the smallest throttle.
  #applyOptions(entry, { url, token, throttleMs }) {
    if (entry.optionError !== null) return;
    const { subscription } = entry;
    const connection = this.#connection(url);
    if (token !== subscription.token) connection.replaceToken(subscription, token);
    else if (!subscription.isOver) entry.tokenAccepted(); // the one in force, after another was refused
    if (throttleMs >= subscription.throttleMs) return;
    subscription.throttleMs = throttleMs;
    if (!subscription.isOver) connection.restart(subscription);
  }

  #newEntry(observer) {
    const { url, runId, ...asked } = observer.options;
    const { stream, runs, limit, skip, start, attempt, throttleMs, token } = asked;
    const request = { run: runId, stream, runs, limit, skip, start, throttleMs, token };
    const entry = new CacheEntry(request, this.#platform, attempt);
    this.#entries.set(observer.key, entry);
    if (runs) entry.setLoadMore(() => this.#loadMore(url, entry, limit));
    return entry;
  }

  // The longer list comes whole, as of one moment: what is there already may have changed meanwhile.
  #loadMore(url, { subscription, snapshot }, count) {
    if (snapshot.isFull || subscription.limit >= MAX_LIMIT || subscription.isOver) return;
    subscription.limit = Math.min(MAX_LIMIT, subscription.limit + count);
    this.#connection(url).restart(subscription);
  }

  #discard({ key, options }) {
    const entry = this.#entries.get(key);
    this.#entries.delete(key);
    this.#lingering.delete(key);
    entry.discard();
    this.#connection(options.url).remove(entry.subscription);
  }

  /**
   * Append one value to a stream; a lost connection is waited for, and the value is written once.
   *
   * @param {{url: string, run: string, stream: string, value: unknown, token: string|null}} request
   */
  append({ url, ...request }) {
    const writer = Array.from({ length: 4 }, () =>
      Math.floor(this.#platform.random() * 2 ** 32).toString(36),
    ).join("");
    return this.#connection(url).request((id) => appendFrame({ id, writer, ...request }));
  }

  /** Carry a subscription that has a sink of its own. */
  addSubscription(url, subscription) {
    this.#connection(url).add(subscription);
  }

  /** Carry it no more; it keeps its position. */
  removeSubscription(url, subscription) {
    this.#connection(url).remove(subscription);
  }

  /** Replace its token in place. */
  replaceToken(url, subscription, token) {
    this.#connection(url).replaceToken(subscription, token);
  }

  #connection(url) {
    const known = this.#connections.get(url);
    if (known) return known;
    const connection = new Connection(url, this.#platform);
    this.#connections.set(url, connection);
    return connection;
  }
}
