/**
 * Limits how many tabs hold a streaming HTTP response.
 *
 * A browser opens six HTTP/1.1 connections to one host, for all of its tabs together, and a
 * streaming response occupies one. With all six occupied, the next tab would not load and nothing
 * could be sent. So three tabs of an origin hold one response each (a slot), and the others poll.
 * A slot is a Web Lock: the browser releases it when its tab is closed or crashes. A frozen tab
 * keeps its slot.
 *
 * Source: PROTOCOL.md 12.
 */

const SLOTS = 3;

/**
 * Acquire one of the slots of a host.
 *
 * @param {string} url URL of the response
 * @param {() => void} onLost called when the tab loses the slot
 * @returns {Promise<(() => void)|null>} releases the slot; null if all are occupied
 */
export async function acquireSlot(url, onLost) {
  const { locks } = globalThis.navigator ?? {};
  if (isMultiplexed(url)) return () => {};
  if (locks === undefined) return acquireWhileVisible(onLost);
  const { host } = new URL(url);
  for (let n = 0; n < SLOTS; n++) {
    const release = await lockIfFree(locks, `realtime-streams ${host} ${n}`);
    if (release !== null) return release;
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
    const hold = (lock) =>
      lock === null ? resolve(null) : new Promise((release) => resolve(release));
    locks.request(name, { ifAvailable: true }, hold).catch(() => resolve(null));
  });
}

// A page that was loaded by plain http from another machine has no Web Locks. There, a visible
// window gets a slot: few windows are visible at the same time.
function acquireWhileVisible(onLost) {
  const { document } = globalThis;
  if (document === undefined) return () => {};
  if (document.visibilityState === "hidden") return null;
  const release = () => document.removeEventListener("visibilitychange", releaseIfHidden);
  const releaseIfHidden = () => {
    if (document.visibilityState !== "hidden") return;
    release();
    onLost();
  };
  document.addEventListener("visibilitychange", releaseIfHidden);
  return release;
}
