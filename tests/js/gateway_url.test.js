import assert from "node:assert/strict";
import { registerHooks } from "node:module";
import { test } from "node:test";

// The subset of Reflex's modules that the client uses.
const REFLEX = {
  "$/env.json": `export default { EVENT: "ws://localhost:8000/backend/_event" };`,
  "$/utils/state": `export const getBackendURL = (url) => {
    const endpoint = new URL(url);
    endpoint.hostname = "pages.test";
    return endpoint;
  };`,
};

registerHooks({
  resolve(specifier, context, next) {
    const source = REFLEX[specifier];
    if (source === undefined) return next(specifier, context);
    return { url: `data:text/javascript,${encodeURIComponent(source)}`, shortCircuit: true };
  },
});
const { gatewayUrl } = await import("../../ui/client/gateway_url.js");

test("URL is null in server-side rendering", () => {
  assert.equal(gatewayUrl(null), null);
});

test("URL follows Reflex's backend or gateway_url", (t) => {
  globalThis.window = {};
  t.after(() => delete globalThis.window);
  for (const [base, url] of [
    [null, "ws://pages.test:8000/backend/v1/ws"],
    ["/realtime", "ws://pages.test:8000/realtime/v1/ws"],
    ["/realtime/v1/ws", "ws://pages.test:8000/realtime/v1/ws"],
    ["wss://live.example.com/v1/ws", "wss://live.example.com/v1/ws"],
    ["http://", "http://"], // no address: the connection rejects it
    ["localhost:8400", "localhost:8400"],
    ["https://live.example.com", "wss://live.example.com/v1/ws"],
    ["http://10.0.0.1:8400/", "ws://10.0.0.1:8400/v1/ws"],
    ["wss://live.example.com/a", "wss://live.example.com/a/v1/ws"],
  ]) {
    assert.equal(gatewayUrl(base), url);
  }
});
