import assert from "node:assert/strict";
import { test } from "node:test";

import { HttpSocket } from "../../ui/client/http_socket.js";
import { parseEvents } from "../../ui/client/sse_parser.js";
import { Store } from "../../ui/client/store.js";
import { Component } from "./components.js";
import { FakePage, position, records, subscribed } from "./fakes.js";
import { HttpPage, WELCOME, httpPage, settled } from "./http_page.js";

test("parses events split at any byte", async () => {
  const text = 'data: {"a":"ü"}\n\n: comment\nevent: close\ndata: one\ndata: two\n\ndata: cut off';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 2, 7, bytes.length]) {
    const pieces = [];
    for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.slice(i, i + size));
    const events = [];
    for await (const event of parseEvents(ReadableStream.from(pieces))) events.push(event);
    assert.deepEqual(events, [
      { type: "message", data: '{"a":"ü"}' },
      { type: "close", data: "one\ntwo" },
    ]);
  }
});

test("page uses HTTP after a failed WebSocket, with no token in a URL", async () => {
  const { page, component } = await httpPage();
  assert.equal(page.sockets.length, 1);
  assert.equal(page.request.url, "http://gateway.test/v1/events");
  const [hello, frame] = page.request.frames;
  assert.equal(hello.type, "hello");
  assert.deepEqual([frame.type, frame.token], ["subscribe", "t1"]);
  await page.send(subscribed(frame.id), records(frame.id, 0, "a"));
  await page.pass(50);
  assert.deepEqual(component.snapshot.data, ["a"]);
  assert.equal(component.snapshot.status, "live");
});

test("ended response is requested again from the last position", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id), records(id, 0, "a", "b"));
  await page.close(1001);
  await page.pass(0);
  assert.deepEqual(page.request.frames[1].start, { position: position(2) });
  assert.equal(component.snapshot.status, "live");
  await page.send(WELCOME, subscribed(id, 2), records(id, 2, "c"));
  await page.pass(50);
  assert.deepEqual(component.snapshot.data, ["a", "b", "c"]);
});

test("new subscription is one new request and aborts the old response", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id), records(id, 0, "a"));
  const old = page.request;
  component.render({ stream: "other" });
  await page.pass(0);
  assert.ok(old.signal.aborted);
  assert.deepEqual(page.request.frames.slice(1).map((frame) => frame.stream).sort(), ["other", "progress"]);
});

test("truncated body is a lost connection; HTTP is used again", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id), records(id, 0, "a"));
  page.request.controller.close();
  await settled();
  assert.equal(component.snapshot.status, "reconnecting");
  await page.pass(500);
  await page.pass(0);
  assert.equal(page.sockets.length, 1);
  assert.equal(page.request.frames.length, 1); // hello; the subscriptions follow its welcome
  await page.send(WELCOME);
  await page.pass(0);
  assert.deepEqual(page.request.frames[1].start, { position: position(1) });
});

test("token is replaced in place once it is accepted", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id));
  component.render({ token: "t2" });
  await page.pass(0);
  assert.deepEqual(page.request.frames.map(({ type, token }) => [type, token]).slice(1), [
    ["subscribe", "t1"],
    ["token", "t2"],
  ]);
  await page.send(WELCOME, subscribed(id), { type: "token_accepted", id, expires_in_ms: 1 });
  await page.close(1001);
  await page.pass(0);
  assert.deepEqual(page.request.frames.map(({ token }) => token).slice(1), ["t2"]);
});

test("token of an ended subscription is not sent again", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id));
  component.render({ token: "t2" });
  await page.pass(0);
  const ended = { type: "error", id, message: "", retryable: false };
  await page.send(WELCOME, { ...ended, code: "token_expired" }, { ...ended, code: "unknown_subscription" });
  await page.pass(0);
  assert.deepEqual(page.request.frames.map(({ type, token }) => [type, token]).slice(1), [
    ["subscribe", "t2"],
  ]);
});

test("append is a separate request that ends with its answer", async () => {
  const { page } = await httpPage();
  const store = new Store(page.platform);
  const url = "ws://gateway.test/v1/ws";
  const appended = store.append({ url, run: "run_a", stream: "notes", value: 1, token: "t1" });
  page.socket.drop(1006);
  await page.pass(500);
  await page.pass(0);
  await page.send(WELCOME);
  await settled();
  const [, frame] = page.request.frames;
  assert.equal(frame.type, "append");
  await page.send(WELCOME, { type: "appended", id: frame.id, offset: 0, position: position(1) });
  assert.equal((await appended).offset, 0);
  assert.ok(page.request.signal.aborted);
});

test("silent response is abandoned", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id));
  await page.pass(20_000); // the ping is answered: the last frame is recent enough
  assert.equal(component.snapshot.status, "live");
  await page.pass(20_000);
  await page.pass(10_000);
  assert.equal(component.snapshot.status, "reconnecting");
});

test("page on HTTP probes a WebSocket and switches to it", async () => {
  const { page, component } = await httpPage();
  const { id } = page.request.frames[1];
  await page.send(WELCOME, subscribed(id), records(id, 0, "a"));
  await page.pass(20_000);
  await page.send({ type: "pong" });
  await page.pass(10_000);
  assert.equal(page.sockets.length, 2);
  page.socket.drop(1006); // still blocked, without effect on the page
  assert.equal(component.snapshot.status, "live");
  for (let s = 0; s < 60; s += 10) {
    await page.send({ type: "pong" });
    await page.pass(10_000);
  }
  assert.equal(page.sockets.length, 3);
  const { request } = page;
  page.socket.welcome();
  assert.ok(request.signal.aborted);
  const [hello, frame] = page.socket.taken();
  assert.equal(hello.type, "hello");
  assert.deepEqual(frame.start, { position: position(1) });
});

test("page does not fall back to HTTP during a gateway restart", async () => {
  const page = new HttpPage();
  new Component(new Store(page.platform));
  page.socket.welcome();
  page.socket.drop(1006);
  for (let tries = 2; tries <= 4; tries++) {
    while (page.sockets.length < tries) await page.pass(500);
    assert.equal(page.requests.length, 0);
    page.socket.drop(1006);
  }
  while (page.requests.length === 0) await page.pass(500);
  assert.equal(page.sockets.length, 4);
});

test("rejection by the gateway does not fall back to HTTP", async () => {
  const page = new HttpPage();
  const component = new Component(new Store(page.platform));
  page.socket.open();
  page.socket.receive({ type: "error", code: "protocol_version", message: "no", retryable: false });
  page.socket.drop(4406);
  await page.pass(60_000);
  assert.equal(page.requests.length, 0);
  assert.equal(component.snapshot.status, "error");
});

test("response of another server is a failure", async () => {
  const page = new FakePage();
  const fetch = () => Promise.resolve(new Response("<html>", { headers: { "Content-Type": "text/html" } }));
  const socket = new HttpSocket("ws://gateway.test/v1/ws", { ...page.platform, fetch });
  const closed = new Promise((resolve) => (socket.onclose = resolve));
  socket.send('{"type":"hello","protocol":1}');
  page.clock.advance(0);
  assert.deepEqual(await closed, { code: 1006, reason: "" });
});
