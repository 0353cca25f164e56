/**
 * All subscriptions of a page, independent of its components.
 *
 * Components with the same key share one cache entry and one subscription. A component reads its
 * snapshot by key, so after a change of the run it never renders the values of the previous one.
 */

import { Connection } from "./connection.js";
import { CacheEntry } from "./cache_entry.js";
import { Timer } from "./platform.js";
import { DEFAULT_LIMIT, MAX_LIMIT, appendFrame } from "./protocol.js";
import { CONNECTING, IDLE } from "./snapshot.js";

const LINGER_MS = 1_000; // an entry without observers stays this long, so that a remount can reuse it

/**
 * @typedef {object} Options
 * @property {string|null} url URL of the gateway's WebSocket
 * @property {string|null} runId
 * @property {string|null} stream null: the run itself
 * @property {{tag: string}|{tags: string[]}|{batch: string}|{parent: string}} [runs] a set of runs,
 *   in place of a run
 * @property {number} [limit] number of runs of the set, and how many `loadMore` adds
 * @property {string[]} [skip] fields of runs to leave out
 * @property {import("./protocol.js").Start} [start]
 * @property {number|"latest"|null} [attempt] the attempt whose records a stream shows; `latest`: the
 *   newest attempt that has written
 * @property {string|null} [token] null or "": the subscription waits; left out: none is needed
 * @property {number} [throttleMs]
 * @property {number|null} [maxRecords] null: all
 * @property {boolean} [enabled]
 * @property {boolean} [parts] assemble AI parts
 * @property {boolean} [partsBySource] assemble AI parts for each run that writes
 * @property {import("./views.js").ViewSpec} [view] maintain this view of the stream
 * @property {string} [handlerKey] of several observers with one key, the handlers of one are called
 * @property {(value: unknown, meta: {offset: number, time_ms: number, source: string|null, attempt: number}) => void} [onRecord]
 * @property {(reason: string) => void} [onEnd]
 * @property {(run: object) => void} [onComplete] called when a run has ended, with any result
 * @property {(error: {code: string, message: string}) => void} [onError]
 * @property {() => void} [onTokenExpiring] called when the token will expire soon
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
 * Return the key of a cache entry; null while the options are incomplete or disabled.
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

// The value of a tag or a batch may not be known yet.
const isNamed = (runs) => Object.values(runs).every((id) => id && id.length > 0);

/** Connects one component to one cache entry. A component with a new key needs a new observer. */
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

  /** Set the current options; cheap if they are unchanged. @param {Options} options */
  configure(options) {
    const before = this.options;
    this.options = { ...DEFAULTS, ...options };
    this.#store.updateOptions(this, before);
  }

  /** Attach to the entry. Returns a function that detaches. */
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
    // The only observer of a failed entry retries. With others, it shares their error.
    const hasFailed = entry.subscription.outcome === "failed";
    if (hasFailed && entry.observers.size === 1) connection.restart(entry.subscription);
  }

  /** @param {Observer} observer */
  removeObserver(observer) {
    const entry = this.#entries.get(observer.key);
    if (!entry?.observers.delete(observer) || entry.observers.size > 0) return;
    const timer = new Timer(this.#platform);
    this.#lingering.set(observer.key, timer);
    timer.start(LINGER_MS, () => this.#discard(observer));
  }

  /** Apply changed options of an observer to its entry. */
  updateOptions(observer, before) {
    const entry = this.#entries.get(observer.key);
    if (!entry?.observers.has(observer)) return;
    const { token, throttleMs } = observer.options;
    entry.enable(observer.options);
    if (token === before.token && throttleMs === before.throttleMs) return;
    this.#applyOptions(entry, observer.options);
  }

  // The entry uses the newest token and the smallest throttle of its observers.
  #applyOptions(entry, { url, token, throttleMs }) {
    if (entry.optionError !== null) return;
    const { subscription } = entry;
    const connection = this.#connection(url);
    if (token !== subscription.token) connection.replaceToken(subscription, token);
    else if (!subscription.isOver) entry.tokenAccepted(); // the accepted token, again after a rejected one
    if (throttleMs >= subscription.throttleMs) return;
    subscription.throttleMs = throttleMs;
    if (!subscription.isOver) connection.restart(subscription);
  }

  #newEntry(observer) {
    const { url, runId, ...options } = observer.options;
    const { stream, runs, limit, skip, start, attempt, throttleMs, token } = options;
    const request = { run: runId, stream, runs, limit, skip, start, throttleMs, token };
    const entry = new CacheEntry(request, this.#platform, attempt);
    this.#entries.set(observer.key, entry);
    if (runs) entry.setLoadMore(() => this.#loadMore(url, entry, limit));
    return entry;
  }

  // The gateway sends the longer list as a new snapshot, as known runs may have changed meanwhile.
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
   * Append one value to a stream. A lost connection delays it; the value is written once.
   *
   * @param {{url: string, run: string, stream: string, value: unknown, token: string|null}} request
   */
  append({ url, ...request }) {
    const writer = Array.from({ length: 4 }, () =>
      Math.floor(this.#platform.random() * 2 ** 32).toString(36),
    ).join("");
    return this.#connection(url).request((id) => appendFrame({ id, writer, ...request }));
  }

  /** Add a subscription with its own sink, which is not shared. */
  addSubscription(url, subscription) {
    this.#connection(url).add(subscription);
  }

  /** Remove such a subscription; it keeps its position. */
  removeSubscription(url, subscription) {
    this.#connection(url).remove(subscription);
  }

  /** Replace the token of such a subscription in place. */
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
