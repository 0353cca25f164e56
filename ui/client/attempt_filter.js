/**
 * Selects the attempts of a run whose records a stream shows. Records of other runs and clients are
 * always shown.
 */

export const attemptOf = ({ attempt = 1 }) => attempt;

const isOfRun = ({ source }) => source === undefined; // PROTOCOL.md 5

/** Return why a value is not a valid attempt; null if it is. */
export function attemptError(attempt) {
  if (attempt === null || attempt === "latest") return null;
  if (Number.isInteger(attempt) && attempt >= 1) return null;
  return `attempt is ${attempt}; it is a number from 1, "latest" or null`;
}

export class AttemptFilter {
  #attempt;
  #latest = 1;

  /** @param {number|"latest"|null} [attempt] null: all attempts */
  constructor(attempt = null) {
    const error = attemptError(attempt);
    if (error !== null) throw new TypeError(error);
    this.#attempt = attempt;
  }

  /** Start again with the first attempt: the stream was reset. */
  reset() {
    this.#latest = 1;
  }

  /**
   * Select the records to show.
   *
   * @param {object[]} records new records
   * @returns {{shown: object[], hasNewAttempt: boolean}} `hasNewAttempt`: a later attempt has
   *   started, and the records of earlier ones have to disappear
   */
  filter(records) {
    if (this.#attempt === null) return { shown: records, hasNewAttempt: false };
    const before = this.#latest;
    for (const record of records) {
      if (isOfRun(record)) this.#latest = Math.max(this.#latest, attemptOf(record));
    }
    const attempt = this.#attempt === "latest" ? this.#latest : this.#attempt;
    return {
      shown: records.filter((record) => !isOfRun(record) || attemptOf(record) === attempt),
      hasNewAttempt: this.#attempt === "latest" && this.#latest > before,
    };
  }
}

/** Return the records of other runs and clients, which stay when a new attempt starts. */
export const recordsOfOthers = (records) => records.filter((record) => !isOfRun(record));
