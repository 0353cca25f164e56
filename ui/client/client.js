/**
 * The client for a page without a build step, or for Node:
 *
 *     import { connect } from "https://live.example.com/v1/client.js";
 *
 *     const gateway = connect({ token });
 *     gateway.stream(run, "progress").subscribe(({ latest, status }) => …);
 *     for await (const value of gateway.stream(run, "answer")) …
 *
 * All subscriptions of a page to one gateway share one connection. Several listeners of a stream
 * share one subscription.
 */

import { Action, GatewayError, cancel, trigger } from "./actions.js";
import { StreamIterator } from "./async_iterator.js";
import { browserPlatform } from "./platform.js";
import { socketUrl } from "./protocol.js";
import { createHooks as hooksOf } from "./react.js";
import { IDLE_STREAMS, RunStreams, listKeyOf } from "./run_streams.js";
import { Observer, Store, keyOf } from "./store.js";
import { TokenSource } from "./token_source.js";

/** @typedef {Omit<import("./store.js").Options, "url"|"runId"|"stream"|"runs"|"token"> & {token?: import("./token_source.js").TokenOption}} Options */

const remedy = 'Its address is the `url` of connect({ url: "https://…", token }).';
const platform = { ...browserPlatform(), remedy };
// `realtime client` writes null here: its package is not loaded from a gateway.
const HOME = import.meta.url;
const store = new Store(platform);

/**
 * Return the API of a gateway. The connection opens with the first subscription or append.
 *
 * @param {{url?: string|URL, token?: import("./token_source.js").TokenOption}} [options] `url`: the
 *   gateway's address, `https://live.example.com`; by default the one that served this module.
 *   `token`: a token, or a function that fetches one, and another before it expires
 * @returns {Gateway}
 */
export function connect({ url, token } = {}) {
  return new Gateway(urlOf(url), new TokenSource(token, platform.now));
}

function urlOf(base) {
  if (base === undefined && HOME === null) {
    throw new TypeError('connect() needs the gateway\'s address: connect({ url: "https://…" })');
  }
  const address = base === undefined ? new URL("..", HOME).href : String(base);
  const url = parseUrl(address);
  if (!/^wss?:$/.test(url?.protocol)) {
    throw new TypeError(`${url?.href ?? address} is no address of a gateway: connect({ url: "https://…" })`);
  }
  return url.href;
}

// On a page an address may be a path on the page's host.
function parseUrl(address) {
  try {
    return socketUrl(address, globalThis.location?.href);
  } catch {
    return null;
  }
}

class Gateway {
  #tokenSource;

  constructor(url, tokenSource) {
    /** URL of its WebSocket. */
    this.url = url;
    this.#tokenSource = tokenSource;
  }

  /** Replace the token, also of open subscriptions. @param {string} token */
  setToken(token) {
    this.#tokenSource.replace(token);
  }

  /** A stream of a run. @param {string} runId @param {string} stream @param {Options} [options] */
  stream(runId, stream, options = {}) {
    return new StreamSource(...this.#request(options, { runId, stream }));
  }

  /** A run: its status, metadata and output. @param {string} runId @param {Options} [options] */
  run(runId, options = {}) {
    return new Source(...this.#request(options, { runId, stream: null }));
  }

  /**
   * A set of runs, newest first.
   *
   * @param {{tag: string}|{tags: string[]}|{batch: string}|{parent: string}} runs
   * @param {Options} [options]
   */
  runs(runs, options = {}) {
    return new Source(...this.#request(options, { runId: null, stream: null, runs }));
  }

  /**
   * All streams of a run; each appears with its first record.
   *
   * @param {string} runId
   * @param {Options} [options]
   */
  streams(runId, options = {}) {
    return new RunStreamsSource(...this.#request(options, { runId, stream: null }));
  }

  /**
   * Append one value to a stream, or send it to an input. The value is written once, even if the
   * connection is lost meanwhile.
   *
   * @returns {Promise<{offset: number|null, position: string}>}
   * @throws {GatewayError}
   */
  async append(runId, stream, value) {
    const token = await this.#tokenSource.get();
    const request = { url: this.url, run: runId, stream, value, token };
    const { offset, position } = await store.append(request).catch((error) => {
      throw new GatewayError(error);
    });
    return { offset, position };
  }

  /**
   * Trigger a task.
   *
   * @returns {Promise<{id: string, access_token: string}>} the run, and a token that may read it
   * @throws {GatewayError}
   */
  async trigger(task, payload = {}) {
    return trigger(fetch, this.url, { task, payload, token: await this.#tokenSource.get() });
  }

  /**
   * Request the cancellation of a run and its descendants. The token needs `write:runs:` of the
   * run.
   *
   * @param {string} runId
   * @returns {Promise<object>} the run, after the request
   * @throws {GatewayError}
   */
  async cancel(runId) {
    return cancel(fetch, this.url, { run: runId, token: await this.#tokenSource.get() });
  }

  /**
   * An input of a run, with the state of its sends.
   *
   * @param {string|null} runId
   * @param {string} stream
   */
  input(runId, stream) {
    return new Input(this, runId, stream);
  }

  /** A task, with the state of its triggers. @param {string} task */
  task(task) {
    return new Task(this, task);
  }

  #request({ token, ...options }, target) {
    const own = token === undefined ? null : new TokenSource(token, platform.now);
    return [own ?? this.#tokenSource, { ...options, ...target, url: this.url }];
  }
}

/** A stream, a run or a set of runs. Each change gives listeners a new snapshot. */
class Source {
  #tokenSource;
  #options;

  constructor(tokenSource, options) {
    this.#tokenSource = tokenSource;
    this.#options = options;
  }

  /**
   * Subscribe: call the listener with the current snapshot, and at each change.
   *
   * @param {(snapshot: import("./snapshot.js").Snapshot) => void} listener
   * @returns {() => void} unsubscribes
   */
  subscribe(listener) {
    let observation = null;
    // The first token makes the key complete and starts the subscription. Later tokens replace it.
    const configure = () => {
      observation ??= this.observe(this.#withToken(), listener);
      observation?.configure(this.#withToken());
    };
    const unwatch = this.#tokenSource.watch(configure);
    configure();
    return () => {
      unwatch();
      observation?.leave();
    };
  }

  /** The current snapshot; without a subscription it is empty. */
  get snapshot() {
    return store.snapshotOf(keyOf(this.#withToken()));
  }

  #withToken() {
    const tokenSource = this.#tokenSource;
    const { onTokenExpiring, onError } = this.#options;
    return {
      ...this.#options,
      ...(tokenSource.current !== undefined && { token: tokenSource.current }),
      onTokenExpiring: () => (onTokenExpiring ?? (() => tokenSource.renew()))(),
      onError: (error) => {
        const renewal = tokenSource.renewAfterRejection(error.code);
        if (renewal === null) onError?.(error);
        else renewal.catch(() => onError?.(error));
      },
      handlerKey: (this.handlerKey ??= `source ${++sources}`),
    };
  }

  observe(options, listener) {
    return attach(new Observer(store, keyOf(options)), options, listener);
  }

  iterator() {
    const { url, runId: run, stream, start, attempt } = this.#options;
    return new StreamIterator(store, url, this.#tokenSource, { run, stream, start }, attempt);
  }
}

let sources = 0;

class StreamSource extends Source {
  /**
   * Iterate over the values, each once and in order, until the stream ends with `completed`.
   *
   * @throws {GatewayError} the stream ended with another reason, records were deleted, or the
   *   gateway rejected the subscription
   */
  async *[Symbol.asyncIterator]() {
    for await (const { data } of this.records()) yield data;
  }

  /** Iterate over the records: values with offset, time, source and attempt. */
  records() {
    return this.iterator().read();
  }
}

class RunStreamsSource extends Source {
  get snapshot() {
    return IDLE_STREAMS;
  }

  observe(options, listener) {
    return attach(new RunStreams(store, listKeyOf(options)), options, listener);
  }
}

/** Sends values to an input of a run, one at a time. `snapshot` has the state of the calls. */
class Input extends Action {
  #gateway;
  #run;
  #stream;

  constructor(gateway, run, stream) {
    super();
    this.#gateway = gateway;
    this.#run = run;
    this.#stream = stream;
  }

  /** Send a value. A repeat of the pending call with an equal value is dropped. */
  send(value) {
    return this.call(async () => {
      if (!this.#run) throw new Error("there is no run to send to yet");
      await this.#gateway.append(this.#run, this.#stream, value);
    }, JSON.stringify(value));
  }
}

/** Triggers a task. `snapshot` has the state of the calls. */
class Task extends Action {
  #gateway;
  #task;

  constructor(gateway, task) {
    super();
    this.#gateway = gateway;
    this.#task = task;
  }

  /** Trigger the task. A repeat of the pending call is dropped. The run is `snapshot.handle`. */
  trigger(payload = {}) {
    const work = () => this.#gateway.trigger(this.#task, payload);
    return this.call(work, JSON.stringify(payload));
  }
}

// Returns null while the token is pending.
function attach(observer, options, listener) {
  if (keyOf({ ...options, stream: options.stream ?? null }) === null) return null;
  observer.configure(options);
  const leave = observer.subscribe(() => listener(observer.getSnapshot()));
  listener(observer.getSnapshot());
  return { leave, configure: (changed) => observer.configure(changed) };
}

/** React hooks for an application with its own React: `createHooks(React)`. */
export const createHooks = hooksOf;

/** A rejection by the gateway: `code` and `message`. */
export const RealtimeError = GatewayError;
