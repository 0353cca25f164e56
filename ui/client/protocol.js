/**
 * Frames that the client sends, and the rules of the protocol that both sides share. No I/O.
 *
 * Source: gateway/PROTOCOL.md.
 */

export const PROTOCOL_VERSION = 1;
/** The position before the first record. Source: PROTOCOL.md 3. */
export const ORIGIN = "0000000000000000_0000000000000000";
export const DEFAULT_LIMIT = 50; // of runs in a set's snapshot
export const UNREACHABLE = "gateway_unreachable"; // code of the client: no gateway has answered yet
export const MAX_LIMIT = 1_000;

/** Without a token: each `subscribe` has its own. Source: PROTOCOL.md 4. */
export const helloFrame = () => ({ type: "hello", protocol: PROTOCOL_VERSION });

/**
 * Build a `subscribe` frame without the fields that equal the protocol's defaults.
 *
 * @param {{id: number, run: string|null, stream: string|null, runs?: object|null, limit?: number,
 *   skip?: string[], start: Start, throttleMs: number, token: string|null}} subscription
 *
 * @typedef {"beginning"|"latest"|{position: string}|{last: number}} Start
 */
export function subscribeFrame({ id, run, stream, runs = null, limit, skip = [], ...more }) {
  const { start, throttleMs, token } = more;
  const frame = runs === null ? { type: "subscribe", id, run } : { type: "subscribe", id, runs };
  if (runs !== null && limit !== DEFAULT_LIMIT) frame.limit = limit;
  if (skip.length > 0) frame.skip = skip;
  if (stream !== null) frame.stream = stream;
  if (start !== "beginning") frame.start = start;
  if (throttleMs > 0) frame.throttle_ms = throttleMs;
  if (token) frame.token = token;
  return frame;
}

/**
 * Build an `append` frame of one record. Its writer makes a repeat idempotent.
 *
 * Source: PROTOCOL.md 8.
 * @param {{id: number, run: string, stream: string, value: unknown, writer: string, token: string|null}} request
 */
export function appendFrame({ id, run, stream, value, writer, token }) {
  const frame = { type: "append", id, run, stream, records: [value] };
  frame.writer = { id: writer, epoch: 0, sequence: 0 };
  if (token) frame.token = token;
  return frame;
}

/** @param {number} id */
export const unsubscribeFrame = (id) => ({ type: "unsubscribe", id });

/** @param {number} id @param {string} token */
export const tokenFrame = (id, token) => ({ type: "token", id, token });

export const pingFrame = () => ({ type: "ping" });

/**
 * Whether the client may reconnect after a close code.
 *
 * Source: PROTOCOL.md 7.
 * @param {number} code
 */
export const mayReconnect = (code) =>
  code === 4408 || code === 4429 || code < 4000 || code > 4499;

/**
 * Compare two positions of one stream: -1, 0 or 1. Positions are opaque, but sort as strings.
 *
 * Source: PROTOCOL.md 3.
 * @param {string} a @param {string} b
 */
export const comparePositions = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const isObject = (value) =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Apply a JSON merge patch and return the result. The arguments stay unchanged.
 *
 * Source: RFC 7396, section 2; `nulls` is an extension.
 * @param {object} nulls members of the patch that are set to null instead of deleted: an object of
 *   the same nesting whose innermost members are null
 */
export function mergePatch(target, patch, nulls = {}) {
  if (!isObject(patch)) return patch;
  const result = isObject(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    const deeper = own(nulls, name, {});
    if (value === null && deeper !== null) delete result[name];
    else set(result, name, mergePatch(own(result, name), value, deeper));
  }
  return result;
}

// Not by assignment, which would treat `__proto__` specially.
const own = (object, name, missing) => (Object.hasOwn(object, name) ? object[name] : missing);
const set = (object, name, value) =>
  Object.defineProperty(object, name, { value, configurable: true, enumerable: true, writable: true });

/**
 * Apply a change from a run's log to its fields.
 *
 * Source: PROTOCOL.md 6.
 */
export function applyChange(run, { metadata_nulls: nulls = {}, ...change }) {
  const merged = mergePatch(run, change, { metadata: nulls });
  for (const name of REPLACED) if (name in change) merged[name] = change[name];
  return merged;
}

const REPLACED = ["payload", "output", "error", "last_error"];

/**
 * Return the URL of a gateway's WebSocket.
 *
 * @param {string} address the gateway's address, with or without the path of the WebSocket
 * @param {string|URL} [base] base URL of an address without a host
 * @returns {URL}
 * @throws {TypeError} the address is not a URL
 */
export function socketUrl(address, base) {
  const folder = new URL(address.replace(/(\/v1\/ws)?\/?$/, "/"), base);
  const url = new URL("v1/ws", folder);
  url.protocol = url.protocol.replace(/^http/, "ws");
  return url;
}
