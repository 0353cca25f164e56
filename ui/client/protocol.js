/**
 * The wire: frames that the client sends, and the rules both sides share.
 *
 * Source: gateway/PROTOCOL.md. Nothing here does I/O.
 */

export const PROTOCOL_VERSION = 1;
/** Position of a stream that was never written. Source: PROTOCOL.md 3. */
export const ORIGIN = "0000000000000000_0000000000000000";
export const DEFAULT_LIMIT = 50; // runs in the snapshot of a set
export const UNREACHABLE = "gateway_unreachable"; // the client's own code: no gateway was ever heard
export const MAX_LIMIT = 1_000;

/** Source: PROTOCOL.md 4. The token travels in `subscribe`, so one connection can carry many. */
export const helloFrame = () => ({ type: "hello", protocol: PROTOCOL_VERSION });

/**
 * Build a `subscribe` frame; what equals the protocol's default is left out.
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
 * Build an `append` frame of one record, which a repeat writes only once.
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
 * Say whether a closed socket is worth opening again.
 *
 * Source: PROTOCOL.md 7.
 * @param {number} code
 */
export const mayReconnect = (code) =>
  code === 4408 || code === 4429 || code < 4000 || code > 4499;

/**
 * Order two positions of one stream: -1, 0 or 1.
 *
 * Source: PROTOCOL.md 3: positions are opaque, but sort as strings.
 * @param {string} a @param {string} b
 */
export const comparePositions = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const isObject = (value) =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Apply a JSON merge patch and return the result; no argument is changed.
 *
 * Source: RFC 7396, section 2, but for `nulls`.
 * @param {object} nulls the members of the patch that are null in the result instead of deleted: an
 *   object of the same nesting whose innermost members are null
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

// So that `__proto__` is a name like any other.
const own = (object, name, missing) => (Object.hasOwn(object, name) ? object[name] : missing);
const set = (object, name, value) =>
  Object.defineProperty(object, name, { value, configurable: true, enumerable: true, writable: true });

/**
 * The fields of a run after a change of its log.
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
 * Give the URL of a gateway's WebSocket.
 *
 * @param {string} address of the gateway, with or without the socket's own path
 * @param {string|URL} [base] what a path without a host is on
 * @returns {URL}
 * @throws {TypeError} it is no URL
 */
export function socketUrl(address, base) {
  const folder = new URL(address.replace(/(\/v1\/ws)?\/?$/, "/"), base);
  const url = new URL("v1/ws", folder);
  url.protocol = url.protocol.replace(/^http/, "ws");
  return url;
}
