/**
 * The values of a stream, one after the other, for `for await`.
 *
 * A loop that is slower than its stream costs a bounded amount: when much waits, the subscription
 * is given up, and taken up again from its position when the loop has caught up.
 */

import { Refusal } from "./actions.js";
import { Attempts } from "./attempts.js";
import { Subscription } from "./subscription.js";

const ENOUGH = 1_000; // records that wait: then no more are asked for

/** @implements {import("./subscription.js").Sink} */
export class Reading {
  #store;
  #url;
  #bearer;
  #attempts;
  #subscription;
  #waiting = [];
  #isCarried = false;
  /** How it came to be over; null while more is expected. @type {{error: Error|null}|null} */
  #outcome = null;
  #wake = () => {};

  /**
   * @param {import("./store.js").Store} store
   * @param {string} url
   * @param {import("./bearer.js").Bearer} bearer
   * @param {ConstructorParameters<typeof Subscription>[0]} request
   * @param {number|"latest"|null} [attempt] which one is read
   */
  constructor(store, url, bearer, request, attempt) {
    this.#store = store;
    this.#url = url;
    this.#bearer = bearer;
    this.#attempts = new Attempts(attempt);
    this.#subscription = new Subscription(request, this);
  }

  /**
   * Yield each record once, in order, until the stream is completed.
   *
   * @throws {Refusal} it ended otherwise, records are gone, or the gateway refused
   */
  async *read() {
    this.#subscription.token = await this.#bearer.get();
    const unwatch = this.#bearer.watch(() => this.#replaceToken());
    try {
      while (this.#waiting.length > 0 || this.#outcome === null) {
        const batch = this.#waiting;
        this.#waiting = [];
        yield* batch;
        if (this.#waiting.length === 0 && this.#outcome === null) await this.#more();
      }
      if (this.#outcome.error !== null) throw this.#outcome.error;
    } finally {
      unwatch();
      this.#drop();
    }
  }

  #more() {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (!this.#isCarried) this.#store.carry(this.#url, this.#subscription);
      this.#isCarried = true;
    });
  }

  #drop() {
    if (this.#isCarried) this.#store.drop(this.#url, this.#subscription);
    this.#isCarried = false;
  }

  #replaceToken() {
    const { current } = this.#bearer;
    if (this.#isCarried) this.#store.replaceToken(this.#url, this.#subscription, current);
    else this.#subscription.token = current;
  }

  #finish(error) {
    this.#outcome ??= { error };
    this.#wake();
  }

  #isIncomplete(why) {
    const { run, stream } = this.#subscription;
    this.#finish(new Refusal({ code: "stream_incomplete", message: `stream ${run}/${stream}: ${why}` }));
  }

  records(records) {
    for (const record of this.#attempts.choose(records).wanted) this.#waiting.push(record);
    if (this.#waiting.length >= ENOUGH) this.#drop();
    this.#wake();
  }

  end(reason, hint) {
    if (hint !== null) console.info(`Realtime Streams: ${hint}`);
    if (reason === "completed") this.#finish(null);
    else this.#isIncomplete(`it has ended: ${reason}`);
  }

  gap({ reason }) {
    this.#isIncomplete(`records are gone (${reason})`);
  }

  reset(reason) {
    this.#isIncomplete(`what was read is void (${reason})`);
  }

  error(error) {
    const renewal = this.#bearer.refused(error.code);
    if (renewal === null) this.#finish(new Refusal(error));
    else renewal.catch(() => this.#finish(new Refusal(error)));
  }

  tokenExpiring() {
    this.#bearer.renew();
  }

  tokenRefused({ code, message }) {
    console.warn(`Realtime Streams: ${message} (${code})`);
  }

  subscribed() {}
  tokenAccepted() {}
  unreachable() {} // it is in the console; the loop waits

  lost() {}
}
