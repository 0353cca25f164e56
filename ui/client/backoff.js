/** How long to wait before trying again. */

const BASE_MS = 500;
const CAP_MS = 30_000;

/**
 * Full jitter, also before the first retry: a gateway that restarts must not meet all its clients
 * in the same instant.
 *
 * Source: PROTOCOL.md 7.
 * @param {number} attempt 0 for the first retry
 * @param {() => number} random a number from 0 up to 1
 */
export const backoffMs = (attempt, random) =>
  random() * Math.min(CAP_MS, BASE_MS * 2 ** attempt);
