/**
 * Iterates over the records of a stream, for `for await`.
 *
 * Memory is bounded when the loop is slower than the stream: at a full buffer the iterator
 * unsubscribes, and resumes from its position when the loop has emptied the buffer.
 */

import { GatewayError } from "./actions.js";
import { AttemptFilter } from "./attempt_filter.js";
import { Subscription } from "./subscription.js";

const MAX_BUFFERED = 1_000; // records

/** @implements {import("./subscription.js").Sink} */
export class StreamIterator {
  #store;
  #url;
  #tokenSource;
  #attemptFilter;
  #subscription;
  #buffer = [];
  #isSubscribed = false;
  /** Result of the iteration; null before its end. @type {{error: Error|null}|null} */
  #outcome = null;
  #wake = () => {};

  /**
   * @param {import("./store.js").Store} store
   * @param {string} url
   * @param {import("./token_source.js").TokenSource} tokenSource
   * @param {ConstructorParameters<typeof Subscription>[0]} request
   * @param {number|"latest"|null} [attempt] attempt to read
   */
  constructor(store, url, tokenSource, request, attempt) {
    this.#store = store;
    this.#url = url;
    this.#tokenSource = tokenSource;
    this.#attemptFilter = new AttemptFilter(attempt);
    this.#subscription = new Subscription(request, this);
  }

  /**
   * Yield each record once, in order, until the stream is completed.
   *
   * @throws {GatewayError} the stream ended with another reason, records were deleted, or the
   *   gateway rejected the subscription
   */
  async *read() {
    this.#subscription.token = await this.#tokenSource.get();
    const unwatch = this.#tokenSource.watch(() => this.#replaceToken());
    try {
      while (this.#buffer.length > 0 || this.#outcome === null) {
        const batch = this.#buffer;
        this.#buffer = [];
        yield* batch;
        if (this.#buffer.length === 0 && this.#outcome === null) await this.#waitForMore();
      }
      if (this.#outcome.error !== null) throw this.#outcome.error;
    } finally {
      unwatch();
      this.#unsubscribe();
    }
  }

  #waitForMore() {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (!this.#isSubscribed) this.#store.addSubscription(this.#url, this.#subscription);
      this.#isSubscribed = true;
    });
  }

  #unsubscribe() {
    if (this.#isSubscribed) this.#store.removeSubscription(this.#url, this.#subscription);
    this.#isSubscribed = false;
  }

  #replaceToken() {
    const { current } = this.#tokenSource;
    if (this.#isSubscribed) this.#store.replaceToken(this.#url, this.#subscription, current);
    else this.#subscription.token = current;
  }

  #finish(error) {
    this.#outcome ??= { error };
    this.#wake();
  }

  #failIncomplete(reason) {
    const { run, stream } = this.#subscription;
    this.#finish(new GatewayError({ code: "stream_incomplete", message: `stream ${run}/${stream}: ${reason}` }));
  }

  records(records) {
    for (const record of this.#attemptFilter.filter(records).shown) this.#buffer.push(record);
    if (this.#buffer.length >= MAX_BUFFERED) this.#unsubscribe();
    this.#wake();
  }

  end(reason, hint) {
    if (hint !== null) console.info(`Realtime Streams: ${hint}`);
    if (reason === "completed") this.#finish(null);
    else this.#failIncomplete(`it has ended: ${reason}`);
  }

  gap({ reason }) {
    this.#failIncomplete(`records are gone (${reason})`);
  }

  reset(reason) {
    this.#failIncomplete(`what was read is void (${reason})`);
  }

  error(error) {
    const renewal = this.#tokenSource.renewAfterRejection(error.code);
    if (renewal === null) this.#finish(new GatewayError(error));
    else renewal.catch(() => this.#finish(new GatewayError(error)));
  }

  tokenExpiring() {
    this.#tokenSource.renew();
  }

  tokenRejected({ code, message }) {
    console.warn(`Realtime Streams: ${message} (${code})`);
  }

  subscribed() {}
  tokenAccepted() {}
  unreachable() {} // logged to the console; the loop waits
  disconnected() {}
}
