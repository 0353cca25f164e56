/**
 * The gateway's address on a page of Reflex: the app's backend, or `gateway_url` of the hook.
 */

import env from "$/env.json";
import { getBackendURL } from "$/utils/state";

import { socketUrl } from "./protocol.js";

const cache = new Map();

/**
 * Return the URL of the gateway's WebSocket.
 *
 * @param {string|null} base address of the gateway (`https://live.example.com`), a path on the
 *   app's backend (`/realtime`), or null for the backend itself
 * @returns {string|null} null in server-side rendering, which does not connect
 */
export function gatewayUrl(base) {
  if (typeof window === "undefined") return null;
  if (!cache.has(base)) cache.set(base, findUrl(base));
  return cache.get(base);
}

// Reflex's function finds host and port, even if the page was opened under another host name.
function findUrl(base) {
  const backend = new URL(".", getBackendURL(env.EVENT));
  try {
    return socketUrl(base || ".", backend).href;
  } catch {
    return base; // the connection rejects it with an error on the page
  }
}
