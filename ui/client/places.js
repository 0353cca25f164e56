/**
 * Which tabs may hold an answer over HTTP that goes on.
 *
 * A browser opens six HTTP/1.1 connections to one host, for all of its tabs together, and such an
 * answer holds one. Were all six held, the next tab would not load and nothing could be sent. So
 * three tabs of an origin hold one each, and the others poll. A place is a lock of the browser's,
 * which frees it when its tab is closed or crashes; a tab that is frozen holds its own place only.
 *
 * Source: PROTOCOL.md 12.
 */

const PLACES = 3;

/**
 * Take one of the places at a host.
 *
 * @param {string} url of the answer
 * @param {() => void} lost called when the place has to be given up
 * @returns {Promise<(() => void)|null>} gives the place back; null: all are taken
 */
export async function takePlace(url, lost) {
  const { locks } = globalThis.navigator ?? {};
  if (isMultiplexed(url)) return () => {};
  if (locks === undefined) return takeWhileVisible(lost);
  const { host } = new URL(url);
  for (let n = 0; n < PLACES; n++) {
    const leave = await lockIfFree(locks, `realtime-streams ${host} ${n}`);
    if (leave !== null) return leave;
  }
  return null;
}

// Over HTTP/2 and 3 one connection carries many answers.
function isMultiplexed(url) {
  return performance
    .getEntriesByType("resource")
    .some(({ name, nextHopProtocol }) => name.startsWith(url) && /^h[23]/.test(nextHopProtocol));
}

function lockIfFree(locks, name) {
  return new Promise((resolve) => {
    const hold = (lock) => (lock === null ? resolve(null) : new Promise((leave) => resolve(leave)));
    locks.request(name, { ifAvailable: true }, hold).catch(() => resolve(null));
  });
}

// There are no locks on a page that came by plain http from another machine. Few windows are
// visible at a time.
function takeWhileVisible(lost) {
  const { document } = globalThis;
  if (document === undefined) return () => {};
  if (document.visibilityState === "hidden") return null;
  const leave = () => document.removeEventListener("visibilitychange", leaveIfHidden);
  const leaveIfHidden = () => {
    if (document.visibilityState !== "hidden") return;
    leave();
    lost();
  };
  document.addEventListener("visibilitychange", leaveIfHidden);
  return leave;
}
