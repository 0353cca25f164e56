/**
 * Which tabs may hold a streaming HTTP response.
 *
 * A browser opens six HTTP/1.1 connections to one host, for all of its tabs together, and a
 * streaming response occupies one. With all six occupied, the next tab would not load and nothing
 * could be sent. So three tabs of an origin hold one response each (a place), and the others poll.
 * A place is a Web Lock: the browser releases it when its tab is closed or crashes. A frozen tab
 * occupies one place.
 *
 * Source: PROTOCOL.md 12.
 */

const SLOTS = 3;

/**
 * Take one of the places at a host.
 *
 * @param {string} url URL of the response
 * @param {() => void} lost called when the tab loses the place
 * @returns {Promise<(() => void)|null>} releases the place; null: all are taken
 */
export async function acquireSlot(url, lost) {
  const { locks } = globalThis.navigator ?? {};
  if (isMultiplexed(url)) return () => {};
  if (locks === undefined) return takeWhileVisible(lost);
  const { host } = new URL(url);
  for (let n = 0; n < SLOTS; n++) {
    const leave = await lockIfFree(locks, `realtime-streams ${host} ${n}`);
    if (leave !== null) return leave;
  }
  return null;
}

// Over HTTP/2 and 3 one connection carries many responses.
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

// A page that was loaded by plain http from another machine has no Web Locks. There, a visible
// window gets a place: few windows are visible at the same time.
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
