import assert from "node:assert/strict";
import { test } from "node:test";

import { Connection } from "../../ui/client/connection.js";
import { Subscription } from "../../ui/client/subscription.js";
import { FakePage, SINK_METHODS, URL_OF_GATEWAY, position, records, subscribed } from "./fakes.js";

/** A sink that records its calls. */
function listener() {
  const calls = [];
  const sink = { calls };
  for (const name of SINK_METHODS) {
    sink[name] = (value) => calls.push([name, value]);
  }
  sink.values = () =>
    calls.filter(([name]) => name === "records").flatMap(([, list]) => list.map((r) => r.data));
  return sink;
}

function follow(connection, stream = "progress", options = {}) {
  const sink = listener();
  const subscription = new Subscription({ run: "run_a", stream, ...options }, sink);
  connection.add(subscription);
  return { sink, subscription };
}

function livePage(stream = "progress", options = {}, pingMs = 20_000) {
  const page = new FakePage();
  const connection = new Connection(URL_OF_GATEWAY, page.platform);
  const followed = follow(connection, stream, options);
  page.socket.welcome(pingMs);
  page.socket.taken();
  page.socket.receive(subscribed(1));
  return { page, connection, ...followed };
}

test("sends hello, and subscribes after welcome", () => {
  const page = new FakePage();
  const connection = new Connection(URL_OF_GATEWAY, page.platform);
  follow(connection, "progress", { token: "t1", throttleMs: 50 });
  assert.equal(connection.state, "connecting");
  page.socket.open();
  assert.deepEqual(page.socket.taken(), [{ type: "hello", protocol: 1 }]);
  page.socket.receive({ type: "welcome", protocol: 1, ping_ms: 20_000 });
  assert.equal(connection.state, "live");
  assert.deepEqual(page.socket.taken(), [
    { type: "subscribe", id: 1, run: "run_a", stream: "progress", throttle_ms: 50, token: "t1" },
  ]);
});

test("URL contains no token", () => {
  const { page } = livePage("progress", { token: "secret" });
  assert.equal(page.socket.url, URL_OF_GATEWAY);
});

test("fault 1: clean close is not the end of a stream; the client resumes", () => {
  const { page, connection, sink } = livePage();
  page.socket.receive(records(1, 0, "a", "b"));
  page.socket.drop(1000);
  assert.equal(connection.state, "reconnecting");
  assert.ok(!sink.calls.some(([name]) => name === "end"));
  page.reconnect();
  assert.deepEqual(page.socket.taken(), [
    { type: "subscribe", id: 1, run: "run_a", stream: "progress", start: { position: position(2) } },
  ]);
  page.socket.receive(subscribed(1, 2), records(1, 2, "c"));
  assert.deepEqual(sink.values(), ["a", "b", "c"]);
});

test("fault 2: unanswered ping detects a half-open connection", () => {
  const { page, connection } = livePage();
  page.clock.advance(20_000);
  assert.deepEqual(page.socket.taken(), [{ type: "ping" }]);
  page.clock.advance(9_999);
  assert.equal(connection.state, "live");
  page.clock.advance(1);
  assert.equal(connection.state, "reconnecting");
  assert.ok(page.sockets[0].isClosedByClient);
  page.reconnect();
  assert.equal(connection.state, "live");
});

test("frequent pings do not postpone the deadline", () => {
  const { page, connection } = livePage("progress", {}, 2_000);
  page.clock.advance(11_999);
  assert.equal(connection.state, "live");
  page.wake();
  page.clock.advance(1);
  assert.equal(connection.state, "reconnecting");
});

test("any frame answers a ping", () => {
  const { page, connection } = livePage();
  page.clock.advance(20_000);
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(15_000);
  assert.equal(connection.state, "live");
});

test("socket without a welcome is abandoned", () => {
  const page = new FakePage();
  const connection = new Connection(URL_OF_GATEWAY, page.platform);
  follow(connection);
  page.clock.advance(10_000);
  assert.equal(connection.state, "reconnecting");
  assert.ok(page.socket.isClosedByClient);
});

test("abandoned socket is ignored", () => {
  const { page, sink } = livePage();
  const old = page.socket;
  page.clock.advance(30_000);
  page.reconnect();
  old.receive(records(1, 0, "late"));
  old.drop(1006);
  assert.deepEqual(sink.values(), []);
  assert.equal(page.sockets.length, 2);
});

test("reconnect waits for retry_after_ms plus jitter", () => {
  const { page } = livePage();
  page.chance = 0.5;
  const error = { type: "error", code: "shutting_down", message: "bye", retryable: true };
  page.socket.receive({ ...error, retry_after_ms: 3_000 });
  page.socket.drop(4503);
  page.clock.advance(3_249);
  assert.equal(page.sockets.length, 1);
  page.clock.advance(2);
  assert.equal(page.sockets.length, 2);
  page.socket.drop(1006); // without retry_after_ms
  page.clock.advance(501);
  assert.equal(page.sockets.length, 3);
});

test("retry_after_ms is capped at a minute", () => {
  const { page } = livePage();
  page.chance = 0;
  const error = { type: "error", code: "too_many_connections", message: "full", retryable: true };
  page.socket.receive({ ...error, retry_after_ms: 9e9 });
  page.socket.drop(4429);
  page.clock.advance(59_999);
  assert.equal(page.sockets.length, 1);
  page.clock.advance(1);
  assert.equal(page.sockets.length, 2);
});

test("retryable error waits for retry_after_ms before it resubscribes", () => {
  const { page } = livePage();
  page.chance = 0;
  const error = { type: "error", id: 1, code: "too_many_connections", message: "full" };
  page.socket.receive({ ...error, retryable: true, retry_after_ms: 2_000 });
  page.clock.advance(1_999);
  assert.deepEqual(page.socket.taken(), []);
  page.clock.advance(1);
  assert.equal(page.socket.taken()[0].type, "subscribe");
});

test("backoff has full jitter from the first retry on", () => {
  const { page } = livePage();
  page.chance = 0.99;
  page.socket.drop();
  page.clock.advance(494);
  assert.equal(page.sockets.length, 1);
  page.clock.advance(2);
  assert.equal(page.sockets.length, 2);
  page.socket.drop();
  page.clock.advance(980);
  assert.equal(page.sockets.length, 2);
  page.clock.advance(20);
  assert.equal(page.sockets.length, 3);
});

test("backoff grows over short connections and resets after a stable one", () => {
  const { page } = livePage();
  page.chance = 1;
  for (const waitMs of [500, 1_000, 2_000]) {
    page.socket.drop();
    page.clock.advance(waitMs - 1);
    const before = page.sockets.length;
    page.clock.advance(1);
    assert.equal(page.sockets.length, before + 1);
    page.socket.welcome();
  }
  page.clock.advance(5_000);
  page.socket.drop();
  page.clock.advance(500);
  assert.equal(page.sockets.length, 5);
});

test("wake-up of the page reconnects immediately", () => {
  const { page } = livePage();
  page.socket.drop();
  page.wake();
  assert.equal(page.sockets.length, 2);
  page.wake();
  assert.equal(page.sockets.length, 2);
});

test("wake-up of the page pings a live connection", () => {
  const { page, connection } = livePage();
  page.wake();
  assert.deepEqual(page.socket.taken(), [{ type: "ping" }]);
  page.clock.advance(2_999);
  assert.equal(connection.state, "live");
  page.clock.advance(1);
  assert.equal(connection.state, "reconnecting");
});

test("new subscription waits for a scheduled reconnect", () => {
  const { page, connection } = livePage();
  page.socket.drop();
  follow(connection, "other");
  assert.equal(page.sockets.length, 1);
  page.reconnect();
  assert.deepEqual(page.socket.taken().map((frame) => frame.stream), ["progress", "other"]);
});

test("missing record closes the socket and resumes from the last position", () => {
  const { page, sink } = livePage();
  page.socket.receive(records(1, 0, "a"), records(1, 2, "c"));
  assert.deepEqual(sink.values(), ["a"]);
  assert.ok(page.sockets[0].isClosedByClient);
  page.reconnect();
  assert.deepEqual(page.socket.taken()[0].start, { position: position(1) });
  page.socket.receive(subscribed(1, 1), records(1, 1, "b", "c"));
  assert.deepEqual(sink.values(), ["a", "b", "c"]);
});

test("fault 9: repeated records of a frame are skipped", () => {
  const { page, sink } = livePage();
  page.socket.receive(records(1, 0, "a", "b"), records(1, 1, "b", "c"), records(1, 0, "a"));
  assert.deepEqual(sink.values(), ["a", "b", "c"]);
});

test("gap is reported and the cursor continues after it", () => {
  const { page, sink } = livePage();
  page.socket.receive(records(1, 0, "a"));
  page.socket.receive({ type: "gap", id: 1, from: position(1), to: position(9), reason: "trimmed" });
  page.socket.receive(records(1, 9, "j"));
  assert.deepEqual(sink.values(), ["a", "j"]);
  assert.deepEqual(sink.calls.at(-2)[0], "gap");
  page.socket.drop();
  page.reconnect();
  assert.deepEqual(page.socket.taken()[0].start, { position: position(10) });
});

test("reset starts over in the new epoch", () => {
  const { page, sink, subscription } = livePage();
  page.socket.receive(records(1, 0, "a", "b"));
  const fresh = position(0, "019aab99c2f1a3d4");
  page.socket.receive({ type: "reset", id: 1, position: fresh, reason: "epoch_changed" });
  assert.equal(subscription.position, fresh);
  page.socket.receive(records(1, 0, "x"));
  assert.deepEqual(sink.calls.slice(-2).map(([name]) => name), ["reset", "records"]);
});

test("fault 7: error of one subscription does not affect others", () => {
  const { page, connection, sink } = livePage();
  const other = follow(connection, "other");
  page.socket.receive({ type: "error", id: 2, code: "forbidden", message: "no", retryable: false });
  page.socket.receive(records(1, 0, "a"));
  assert.deepEqual(other.sink.calls, [["error", { code: "forbidden", message: "no" }]]);
  assert.deepEqual(sink.values(), ["a"]);
  assert.equal(connection.state, "live");
});

test("retryable error resubscribes with backoff, under a new id", () => {
  const { page } = livePage();
  page.socket.receive(records(1, 0, "a"));
  page.socket.receive({ type: "error", id: 1, code: "store_unavailable", message: "", retryable: true });
  assert.deepEqual(page.socket.taken(), []);
  page.clock.advance(250);
  assert.deepEqual(page.socket.taken(), [
    { type: "subscribe", id: 2, run: "run_a", stream: "progress", start: { position: position(1) } },
  ]);
});

test("subscription that waits for a retry survives a reconnect", () => {
  const { page } = livePage();
  page.socket.receive({ type: "error", id: 1, code: "store_unavailable", message: "", retryable: true });
  page.socket.drop();
  page.reconnect();
  const [frame, ...rest] = page.socket.taken();
  assert.equal(frame.type, "subscribe");
  assert.deepEqual(rest, []);
});

test("token is replaced in place", () => {
  const { page, connection, subscription } = livePage("progress", { token: "t1" });
  connection.replaceToken(subscription, "t2");
  assert.deepEqual(page.socket.taken(), [{ type: "token", id: 1, token: "t2" }]);
  page.socket.receive({ type: "token_accepted", id: 1, expires_in_ms: 1 });
  page.socket.drop();
  page.reconnect();
  assert.equal(page.socket.taken()[0].token, "t2");
});

test("fault 8: fresh token resumes after the old one has expired", () => {
  const { page, connection, sink, subscription } = livePage("progress", { token: "t1" });
  page.socket.receive(records(1, 0, "a"));
  page.socket.receive({ type: "error", id: 1, code: "token_expired", message: "", retryable: false });
  page.clock.advance(60_000); // the client closes the unused socket
  connection.replaceToken(subscription, "t2");
  page.socket.welcome();
  assert.deepEqual(page.socket.taken()[1], {
    type: "subscribe",
    id: 2,
    run: "run_a",
    stream: "progress",
    start: { position: position(1) },
    token: "t2",
  });
  page.socket.receive(subscribed(2, 1), records(2, 1, "b"));
  assert.deepEqual(sink.values(), ["a", "b"]);
});

const rejection = (code) => ({ type: "error", code, message: "no", retryable: false, subscription: 1 });

test("rejected new token leaves the old one valid, after a reconnect too", () => {
  const { page, connection, sink, subscription } = livePage("progress", { token: "t1" });
  connection.replaceToken(subscription, "bad");
  page.socket.receive(rejection("invalid_token"));
  page.socket.receive(records(1, 0, "a"));
  assert.deepEqual(sink.values(), ["a"]);
  assert.deepEqual(sink.calls.slice(-2)[0], ["tokenRejected", { code: "invalid_token", message: "no" }]);
  page.socket.drop();
  page.reconnect();
  assert.equal(page.socket.taken()[0].token, "t1");
});

test("last accepted token is used after a reconnect", () => {
  const { page, connection, subscription } = livePage("progress", { token: "t1" });
  for (const token of ["t2", "bad", "t3", "worse"]) connection.replaceToken(subscription, token);
  const accepted = { type: "token_accepted", id: 1, expires_in_ms: 1 };
  page.socket.receive(accepted, rejection("token_expired"), accepted, rejection("token_revoked"));
  page.socket.drop();
  page.reconnect();
  assert.equal(page.socket.taken()[0].token, "t3");
});

test("token of another subject resubscribes from the last position", () => {
  const { page, connection, sink, subscription } = livePage("progress", { token: "t1" });
  page.socket.receive(records(1, 0, "a"));
  connection.replaceToken(subscription, "of another");
  page.socket.taken();
  page.socket.receive(rejection("forbidden"));
  assert.deepEqual(page.socket.taken(), [
    { type: "unsubscribe", id: 1 },
    { type: "subscribe", id: 2, run: "run_a", stream: "progress", start: { position: position(1) }, token: "of another" },
  ]);
  page.socket.receive({ type: "error", id: 2, code: "forbidden", message: "no", retryable: false });
  assert.equal(sink.calls.at(-1)[0], "error");
  assert.deepEqual(page.socket.taken(), []);
});

test("rejected token of an ended or unknown subscription is ignored", () => {
  const { page, connection, sink, subscription } = livePage("progress", { token: "t1" });
  connection.replaceToken(subscription, "bad");
  page.socket.receive({ type: "end", id: 1, reason: "completed", position: position(0) });
  page.socket.receive(rejection("forbidden"), { ...rejection("invalid_token"), subscription: 9 });
  assert.equal(sink.calls.at(-1)[0], "end");
});

test("ended stream is not resubscribed", () => {
  const { page, connection, subscription } = livePage();
  page.socket.receive({ type: "end", id: 1, reason: "completed", position: position(0) });
  connection.replaceToken(subscription, "t2");
  follow(connection, "other");
  page.socket.drop();
  page.reconnect();
  assert.deepEqual(page.socket.taken().map((frame) => frame.stream), ["other"]);
});

test("rejected connection fails every subscription and stays closed", (t) => {
  t.mock.method(console, "warn", () => {});
  const { page, connection, sink } = livePage();
  page.socket.receive({ type: "error", code: "protocol_version", message: "speak 2", retryable: false });
  page.socket.drop(4406);
  assert.equal(connection.state, "closed");
  assert.deepEqual(sink.calls.at(-1), ["error", { code: "protocol_version", message: "speak 2" }]);
  page.clock.advance(600_000);
  assert.equal(page.sockets.length, 1);
});

test("close code 4401 reconnects with another token only", () => {
  const { page, connection, subscription } = livePage("progress", { token: "t1" });
  page.socket.drop(4401);
  page.clock.advance(60_000);
  assert.equal(page.sockets.length, 1);
  connection.replaceToken(subscription, "t2");
  page.socket.welcome();
  assert.equal(connection.state, "live");
  assert.equal(page.socket.taken()[1].token, "t2");
});

test("invalid URL is an error of its subscriptions", () => {
  const page = new FakePage();
  const platform = { ...page.platform, WebSocket: class { constructor() { throw new SyntaxError("bad"); } } };
  const { sink } = follow(new Connection("nonsense", platform));
  const message = "the gateway's address nonsense cannot be used: bad";
  assert.deepEqual(sink.calls, [["error", { code: "invalid_gateway_url", message }]]);
});

test("connection without subscriptions closes after its linger time", () => {
  const { page, connection, subscription } = livePage();
  connection.remove(subscription);
  assert.deepEqual(page.socket.taken(), [{ type: "unsubscribe", id: 1 }]);
  page.clock.advance(999);
  assert.equal(connection.state, "live");
  page.clock.advance(1);
  assert.equal(connection.state, "idle");
  assert.ok(page.socket.isClosedByClient);
  page.clock.advance(600_000);
  assert.equal(page.sockets.length, 1);
});

test("new subscription within the linger time keeps the socket", () => {
  const { page, connection, subscription } = livePage();
  connection.remove(subscription);
  page.clock.advance(500);
  follow(connection);
  page.clock.advance(5_000);
  assert.equal(page.sockets.length, 1);
  assert.equal(connection.state, "live");
});

test("run uses the new snapshot after a reconnect", () => {
  const { page, sink } = livePage(null);
  page.socket.receive(records(1, 1, { status: "executing" }));
  page.socket.drop();
  page.reconnect();
  assert.deepEqual(page.socket.taken(), [{ type: "subscribe", id: 1, run: "run_a" }]);
  page.socket.receive({ ...subscribed(1, 5), run: { status: "waiting" } }, records(1, 5, { attempt: 2 }));
  assert.deepEqual(sink.values(), [{ status: "executing" }, { attempt: 2 }]);
});

test("gap in a run's changes resubscribes", () => {
  const { page } = livePage(null);
  page.socket.receive({ type: "gap", id: 1, from: position(0), to: position(4), reason: "trimmed" });
  page.clock.advance(500);
  assert.deepEqual(page.socket.taken(), [
    { type: "unsubscribe", id: 1 },
    { type: "subscribe", id: 2, run: "run_a" },
  ]);
});

test("unknown frame types and fields are ignored", () => {
  const { page, connection, sink } = livePage();
  const before = sink.calls.length;
  page.socket.receive({ type: "news", id: 1 }, { type: "news" }, { type: "pong", extra: 1 });
  assert.equal(sink.calls.length, before);
  assert.equal(connection.state, "live");
});
