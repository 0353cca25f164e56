/**
 * A token that is given, or that is fetched, and fetched again when it comes to its end.
 *
 * @typedef {string|null|(() => string|Promise<string>)} TokenOption
 */

const RENEWAL_PAUSE_MS = 10_000; // a token that is refused sooner than that is not fetched again

export class TokenSource {
  /** The token in use; undefined: none is needed; null: it is awaited. @type {string|null|undefined} */
  current;
  #fetch = null;
  #now;
  #fetchedAt = -Infinity;
  #fetching = null;
  #listeners = new Set();

  /** @param {TokenOption|undefined} source @param {() => number} now milliseconds */
  constructor(source, now) {
    this.#now = now;
    if (typeof source === "function") {
      this.#fetch = source;
      this.current = null;
    } else this.current = source;
  }

  /** Put another token in its place. */
  replace(token) {
    this.current = token;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Hear when there is another one; call the result to hear no more. */
  watch(listener) {
    this.#listeners.add(listener);
    if (this.current === null) this.renew();
    return () => this.#listeners.delete(listener);
  }

  /** Wait for the token, if it has to be fetched. */
  async get() {
    if (this.current === null && this.#fetch !== null) await this.#fetchOnce();
    return this.current;
  }

  /** Fetch another one, if that is possible; what goes wrong is in the console. */
  renew() {
    if (this.#fetch === null) return;
    this.#fetchOnce().catch((error) => console.error("Realtime Streams: no token:", error));
  }

  /**
   * Fetch another one since this one was refused, unless it is as good as new.
   *
   * @param {string} code of the refusal
   * @returns {Promise<void>|null} null: there will be no other
   */
  refused(code) {
    const isOver = code === "token_expired" || code === "invalid_token";
    const isNew = this.#now() - this.#fetchedAt < RENEWAL_PAUSE_MS;
    return isOver && !isNew && this.#fetch !== null ? this.#fetchOnce() : null;
  }

  // However many ask at once, it is fetched once.
  #fetchOnce() {
    this.#fetching ??= (async () => {
      try {
        const token = await this.#fetch();
        this.#fetchedAt = this.#now();
        this.replace(token);
      } finally {
        this.#fetching = null;
      }
    })();
    return this.#fetching;
  }
}
