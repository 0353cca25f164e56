/**
 * The client for a page without a build step, or for Node:
 *
 *     import { connect } from "https://live.example.com/v1/client.js";
 *
 *     const gateway = connect({ token });
 *     gateway.stream(run, "progress").subscribe(({ latest, status }) => …);
 *     for await (const value of gateway.stream(run, "answer")) …
 *
 * All that a page connects to one gateway shares one connection, and each stream that is followed
 * more than once is one subscription.
 */

import { Action, GatewayError, cancel, trigger } from "./actions.js";
import { TokenSource } from "./token_source.js";
import { browserPlatform } from "./platform.js";
import { socketUrl } from "./protocol.js";
import { StreamIterator } from "./async_iterator.js";
import { createHooks as hooksOf } from "./react.js";
import { IDLE_STREAMS, RunStreams, listKeyOf } from "./run_streams.js";
import { Store, Observer, keyOf } from "./store.js";

/** @typedef {Omit<import("./store.js").Options, "url"|"runId"|"stream"|"runs"|"token"> & {token?: import("./token_source.js").TokenOption}} Options */

const remedy = 'Its address is the `url` of connect({ url: "https://…", token }).';
const platform = { ...browserPlatform(), remedy };
// Null in the package that `realtime client` writes, which came from no gateway.
const HOME = import.meta.url;
const store = new Store(platform);

/**
 * Reach a gateway. Nothing is sent before something is asked for.
 *
 * @param {{url?: string|URL, token?: import("./token_source.js").TokenOption}} [options] `url`: the
 *   gateway's address, `https://live.example.com`; left out, it is the one that this module came
 *   from. `token`: one, or a function that fetches one, and another when it comes to its end
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

// On a page an address may be a path of its own host.
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
    /** Of its WebSocket. */
    this.url = url;
    this.#tokenSource = tokenSource;
  }

  /** Put another token in the place of the one in use. @param {string} token */
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

  /** All streams of a run, as they appear. @param {string} runId @param {Options} [options] */
  streams(runId, options = {}) {
    return new RunStreamsSource(...this.#request(options, { runId, stream: null }));
  }

  /**
   * Append one value to a stream, or send it to an input; once, also when the connection is lost
   * meanwhile.
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
   * @returns {Promise<{id: string, access_token: string}>} the run, and a token that reads it
   * @throws {GatewayError}
   */
  async trigger(task, payload = {}) {
    return trigger(fetch, this.url, { task, payload, token: await this.#tokenSource.get() });
  }

  /**
   * Ask for a run, and the runs below it, to be canceled; the token has `write:runs:` of it.
   *
   * @param {string} runId
   * @returns {Promise<object>} the run after the request
   * @throws {GatewayError}
   */
  async cancel(runId) {
    return cancel(fetch, this.url, { run: runId, token: await this.#tokenSource.get() });
  }

  /** An input of a run, with what became of what was sent. @param {string|null} runId @param {string} stream */
  input(runId, stream) {
    return new Input(this, runId, stream);
  }

  /** A task, with what became of its triggers. @param {string} task */
  task(task) {
    return new Task(this, task);
  }

  #request({ token, ...options }, target) {
    const tokenSource = token === undefined ? this.#tokenSource : new TokenSource(token, platform.now);
    return [tokenSource, { ...options, ...target, url: this.url }];
  }
}

/** What can be followed: each change is a snapshot of all that is known. */
class Source {
  #tokenSource;
  #options;

  constructor(tokenSource, options) {
    this.#tokenSource = tokenSource;
    this.#options = options;
  }

  /**
   * Follow it: the listener is called with what is known now, and at each change.
   *
   * @param {(snapshot: import("./snapshot.js").Snapshot) => void} listener
   * @returns {() => void} call it to follow no more
   */
  subscribe(listener) {
    let following = null;
    // An observer's key is there once the token is; from then on the token is replaced in place.
    const configure = () => {
      following ??= this.observe(this.#withToken(), listener);
      following?.configure(this.#withToken());
    };
    const unwatch = this.#tokenSource.watch(configure);
    configure();
    return () => {
      unwatch();
      following?.leave();
    };
  }

  /** What is known now; what nobody follows is not known. */
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
        const renewal = tokenSource.refused(error.code);
        if (renewal === null) onError?.(error);
        else renewal.catch(() => onError?.(error));
      },
      handlerKey: (this.handlerKey ??= `source ${++sources}`),
    };
  }

  observe(options, listener) {
    return attach(new Observer(store, keyOf(options)), options, listener);
  }

  /** What `StreamIterator` needs. */
  iterator() {
    const { url, runId: run, stream, start, attempt } = this.#options;
    return new StreamIterator(store, url, this.#tokenSource, { run, stream, start }, attempt);
  }
}

let sources = 0;

class StreamSource extends Source {
  /**
   * Each value once, in order; the loop ends when the stream is completed.
   *
   * @throws {GatewayError} it ended otherwise, records are gone, or the gateway refused
   */
  async *[Symbol.asyncIterator]() {
    for await (const { data } of this.records()) yield data;
  }

  /** The same, with offset, time, source and attempt. */
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

/** Sends values to an input of a run, one after the other, and knows what became of them. */
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

  /** Send a value; a double click is one. What becomes of it is in `snapshot`. */
  send(value) {
    return this.call(async () => {
      if (!this.#run) throw new Error("there is no run to send to yet");
      await this.#gateway.append(this.#run, this.#stream, value);
    }, JSON.stringify(value));
  }
}

/** Triggers a task, and knows what became of it. */
class Task extends Action {
  #gateway;
  #task;

  constructor(gateway, task) {
    super();
    this.#gateway = gateway;
    this.#task = task;
  }

  /** Trigger it; a double click is one. The run is in `snapshot.handle`. */
  trigger(payload = {}) {
    const work = () => this.#gateway.trigger(this.#task, payload);
    return this.call(work, JSON.stringify(payload));
  }
}

// Null while there is nothing to ask for: the token is awaited.
function attach(observer, options, listener) {
  if (keyOf({ ...options, stream: options.stream ?? null }) === null) return null;
  observer.configure(options);
  const leave = observer.subscribe(() => listener(observer.getSnapshot()));
  listener(observer.getSnapshot());
  return { leave, configure: (changed) => observer.configure(changed) };
}

/** React hooks for an application with its own React: `createHooks(React)`. */
export const createHooks = hooksOf;

/** What the gateway refused, and why: `code` and `message`. */
export const RealtimeError = GatewayError;
