/**
 * Which of a run's attempts a stream shows. What other runs and clients write is always shown.
 */

export const attemptOf = ({ attempt = 1 }) => attempt;

const isOfRun = ({ source }) => source === undefined; // PROTOCOL.md 5

/** Why this is no attempt; null when it is one. */
export function attemptError(wanted) {
  if (wanted === null || wanted === "latest" || (Number.isInteger(wanted) && wanted >= 1)) return null;
  return `attempt is ${wanted}; it is a number from 1, "latest" or null`;
}

export class AttemptFilter {
  #wanted;
  #latest = 1;

  /** @param {number|"latest"|null} [wanted] null: all of them */
  constructor(wanted = null) {
    const fault = attemptError(wanted);
    if (fault !== null) throw new TypeError(fault);
    this.#wanted = wanted;
  }

  /** Forget which ones there were: the stream begins anew. */
  reset() {
    this.#latest = 1;
  }

  /**
   * Choose among records that are new.
   *
   * @param {object[]} records
   * @returns {{wanted: object[], hasBegun: boolean}} those that are shown, and whether a later
   *   attempt has begun among them, so that those of earlier ones are shown no more
   */
  filter(records) {
    if (this.#wanted === null) return { wanted: records, hasBegun: false };
    const before = this.#latest;
    for (const record of records) {
      if (isOfRun(record)) this.#latest = Math.max(this.#latest, attemptOf(record));
    }
    const wanted = this.#wanted === "latest" ? this.#latest : this.#wanted;
    return {
      wanted: records.filter((record) => !isOfRun(record) || attemptOf(record) === wanted),
      hasBegun: this.#wanted === "latest" && this.#latest > before,
    };
  }
}

/** The records that stay when a later attempt begins. */
export const recordsOfOthers = (records) => records.filter((record) => !isOfRun(record));
