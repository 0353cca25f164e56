/**
 * Where the gateway is: mounted beside Reflex's own backend, unless the app says otherwise.
 */

import env from "$/env.json";
import { getBackendURL } from "$/utils/state";

import { socketUrl } from "./protocol.js";

const known = new Map();

/**
 * Give the URL of the gateway's WebSocket.
 *
 * @param {string|null} base address of the gateway (`https://live.example.com`), a path on the
 *   app's backend (`/realtime`), or null for the backend itself
 * @returns {string|null} null on a server, where there is nothing to connect
 */
export function gatewayUrl(base) {
  if (typeof window === "undefined") return null;
  if (!known.has(base)) known.set(base, findUrl(base));
  return known.get(base);
}

// Reflex's own function decides the host and the port, also when the page was opened by another
// name than the backend's.
function findUrl(base) {
  const backend = new URL(".", getBackendURL(env.EVENT));
  try {
    return socketUrl(base || ".", backend).href;
  } catch {
    return base; // it is refused where it is used, and the page says so
  }
}
