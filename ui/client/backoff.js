/** Delay before a retry. */

const BASE_MS = 500;
const CAP_MS = 30_000;

/**
 * Return the delay in milliseconds, with full jitter from the first retry on. Without jitter all
 * clients of a restarted gateway would reconnect at the same time.
 *
 * Source: PROTOCOL.md 7.
 * @param {number} attempt 0 for the first retry
 * @param {() => number} random a number from 0 up to 1
 */
export const backoffMs = (attempt, random) =>
  random() * Math.min(CAP_MS, BASE_MS * 2 ** attempt);
