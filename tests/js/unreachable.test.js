import assert from "node:assert/strict";
import { test } from "node:test";

import { trigger } from "../../ui/client/actions.js";
import { connect } from "../../ui/client/client.js";
import { Store } from "../../ui/client/store.js";
import { Component, OPTIONS } from "./components.js";
import { FakePage, URL_OF_GATEWAY, subscribed } from "./fakes.js";

// Microtasks deliver the answers of a fetch; one iteration of the event loop runs all of them.
const settled = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

/** A page of an application that has no gateway; `fetch` returns its server's answers. */
function pageWithout(fetch, t) {
  const page = new FakePage();
  const written = t.mock.method(console, "error", () => {}).mock;
  const platform = { ...page.platform, fetch, remedy: "Call add_gateway(app)." };
  const store = new Store(platform);
  const component = new Component(store);
  return { page, store, component, written };
}

const failing = async () => {
  throw new TypeError("Failed to fetch");
};
const notFound = async () => new Response("Not Found", { status: 404 });
const website = async () =>
  new Response("<html>", { headers: { "Content-Type": "text/html; charset=utf-8" } });

for (const [fetch, why] of [
  [failing, "http://gateway.test/v1/events: Failed to fetch"],
  [notFound, "http://gateway.test/v1/events answered with status 404, as no gateway does"],
  [website, "http://gateway.test/v1/events answered with status 200, as no gateway does"],
]) {
  test(`missing gateway is an error with address and remedy: ${why}`, async (t) => {
    const { page, store, component, written } = pageWithout(fetch, t);
    const send = store.append({ ...OPTIONS, run: "run_a", value: 1 });
    const refused = assert.rejects(send, { code: "gateway_unreachable" });
    page.socket.drop(1006);
    page.clock.advance(500);
    page.clock.advance(0);
    await settled();
    const message = `no gateway answers at ${URL_OF_GATEWAY} (${why}). Call add_gateway(app).`;
    assert.deepEqual(component.snapshot.error, { code: "gateway_unreachable", message });
    assert.equal(component.snapshot.status, "connecting"); // the gateway may start later
    assert.deepEqual(written.calls.map((call) => call.arguments), [[`Realtime Streams: ${message}`]]);
    await refused;
    await assert.rejects(store.append({ ...OPTIONS, run: "run_a", value: 2 }), { message });
  });
}

test("silent address is an error after five seconds", (t) => {
  const { page, component } = pageWithout(() => new Promise(() => {}), t);
  page.clock.advance(4_999);
  assert.equal(component.snapshot.error, null);
  page.clock.advance(1);
  assert.match(component.snapshot.error.message, /ws:\/\/gateway\.test\/v1\/ws \(no answer in 5 s\)/);
  const later = new Component(component.store, { stream: "other" });
  assert.equal(later.snapshot.error.code, "gateway_unreachable");
  const second = new Component(component.store); // shares the first one's error
  assert.equal(second.snapshot.error.code, "gateway_unreachable");
});

test("gateway that starts later clears the error", async (t) => {
  const { page, component } = pageWithout(failing, t);
  page.socket.drop(1006);
  page.clock.advance(500);
  page.clock.advance(0);
  await settled();
  assert.equal(component.snapshot.error.code, "gateway_unreachable");
  while (page.sockets.length === 1) page.clock.advance(500);
  page.socket.welcome();
  const [, { id }] = page.socket.taken();
  page.socket.receive(subscribed(id));
  assert.deepEqual([component.snapshot.status, component.snapshot.error], ["live", null]);
  const sent = component.store.append({ ...OPTIONS, run: "run_a", value: 1 });
  const [frame] = page.socket.taken();
  page.socket.receive({ type: "appended", id: frame.id, offset: 0, position: "p" });
  assert.equal((await sent).offset, 0);
});

test("outage of a known gateway is not an error", async (t) => {
  const { page, component, written } = pageWithout(failing, t);
  page.socket.welcome();
  page.socket.receive(subscribed(page.socket.taken()[1].id));
  for (let tries = 0; tries < 6; tries++) {
    page.socket.drop(1006);
    page.clock.advance(30_000);
    await settled();
  }
  assert.deepEqual([component.snapshot.status, component.snapshot.error], ["reconnecting", null]);
  assert.equal(written.callCount(), 0);
});

test("https page with an http gateway gets a hint", async (t) => {
  t.after(() => delete globalThis.location);
  globalThis.location = { protocol: "https:" };
  const { page, component } = pageWithout(failing, t);
  page.socket.drop(1006);
  page.clock.advance(500);
  page.clock.advance(0);
  await settled();
  assert.match(component.snapshot.error.message, /this page came by https, .* needs https too/);
  const request = { task: "t", token: "x", payload: {} };
  await assert.rejects(trigger(failing, URL_OF_GATEWAY, request), /needs https too/);
  await assert.rejects(trigger(failing, "wss://gateway.test/v1/ws", request), /Failed to fetch$/);
});

test("https page with a blocked ws address gets both reasons", async () => {
  const page = new FakePage();
  const blocked = "An insecure WebSocket connection may not be initiated from a page over HTTPS.";
  class WebSocket {
    constructor() {
      throw new Error(blocked);
    }
  }
  const component = new Component(new Store({ ...page.platform, WebSocket }));
  assert.equal(component.snapshot.status, "error");
  const { message } = component.snapshot.error;
  assert.ok(message.includes(URL_OF_GATEWAY) && message.includes(blocked));
});

for (const [name, fetch, code] of [
  ["nothing", failing, "network"],
  ["another server", notFound, "http_404"],
  ["a website", website, "http_200"],
  ["another API", async () => Response.json({ detail: "Not Found" }, { status: 404 }), "http_404"],
]) {
  test(`trigger that reaches ${name} names the address`, async () => {
    const request = { task: "t", token: "x", payload: {} };
    await assert.rejects(trigger(fetch, URL_OF_GATEWAY, request), (error) => {
      return error.code === code && error.message.includes("http://gateway.test/v1/tasks/t/trigger");
    });
  });
}

for (const url of ["localhost:8400", "ftp://host", "http://", "/live", ""]) {
  test(`${JSON.stringify(url)} is rejected as an address outside a page`, () => {
    assert.throws(() => connect({ url }), { name: "TypeError", message: /is no address of a gateway/ });
  });
}

test("address may have a path, with or without /v1/ws", () => {
  for (const [url, expected] of [
    ["https://host.test", "wss://host.test/v1/ws"],
    ["https://host.test/live", "wss://host.test/live/v1/ws"],
    ["wss://host.test/live/v1/ws", "wss://host.test/live/v1/ws"],
    ["http://host.test/a/b/", "ws://host.test/a/b/v1/ws"],
  ]) {
    assert.equal(connect({ url }).url, expected);
  }
});

test("page without subscriptions reaches a gateway that starts later", async (t) => {
  t.mock.method(console, "error", () => {});
  const page = new FakePage();
  const store = new Store({ ...page.platform, fetch: failing });
  const send = () => store.append({ ...OPTIONS, run: "run_a", value: 1 });
  const refused = assert.rejects(send(), { code: "gateway_unreachable" });
  page.socket.drop(1006);
  page.clock.advance(500);
  page.clock.advance(0);
  await refused;
  await settled();
  page.clock.advance(60_000); // without subscriptions the page does not retry
  const sent = send();
  page.socket.welcome();
  const [, { id }] = page.socket.taken();
  page.socket.receive({ type: "appended", id, offset: 0, position: "p" });
  assert.equal((await sent).offset, 0);
});
