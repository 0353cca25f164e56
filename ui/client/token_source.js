/**
 * A fixed token, or a function that fetches one, and another before it expires.
 *
 * @typedef {string|null|(() => string|Promise<string>)} TokenOption
 */

const MIN_RENEWAL_MS = 10_000; // a token rejected sooner after its fetch is not fetched again

export class TokenSource {
  /**
   * The current token; undefined: none is needed; null: the fetch is pending.
   *
   * @type {string|null|undefined}
   */
  current;
  #fetch = null;
  #now;
  #fetchedAt = -Infinity;
  #fetching = null;
  #listeners = new Set();

  /** @param {TokenOption|undefined} source @param {() => number} now clock in milliseconds */
  constructor(source, now) {
    this.#now = now;
    if (typeof source === "function") {
      this.#fetch = source;
      this.current = null;
    } else this.current = source;
  }

  /** Replace the token. */
  replace(token) {
    this.current = token;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Call the listener when the token changes. Returns a function that removes it. */
  watch(listener) {
    this.#listeners.add(listener);
    if (this.current === null) this.renew();
    return () => this.#listeners.delete(listener);
  }

  /** Return the token; fetch it first if necessary. */
  async get() {
    if (this.current === null && this.#fetch !== null) await this.#fetchOnce();
    return this.current;
  }

  /** Fetch another token, if there is a function for it. A failure is logged to the console. */
  renew() {
    if (this.#fetch === null) return;
    this.#fetchOnce().catch((error) => console.error("Realtime Streams: no token:", error));
  }

  /**
   * Fetch another token after the gateway has rejected the current one.
   *
   * @param {string} code code of the rejection
   * @returns {Promise<void>|null} null: there is no function, or the token is new
   */
  renewAfterRejection(code) {
    const isExpired = code === "token_expired" || code === "invalid_token";
    const isNew = this.#now() - this.#fetchedAt < MIN_RENEWAL_MS;
    return isExpired && !isNew && this.#fetch !== null ? this.#fetchOnce() : null;
  }

  // Concurrent callers share one fetch.
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
