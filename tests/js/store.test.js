import assert from "node:assert/strict";
import { test } from "node:test";

import { Store } from "../../ui/client/store.js";
import { Component, livePage } from "./components.js";
import { FakePage, position, records, subscribed } from "./fakes.js";

test("stays idle without a run or token, or when disabled", () => {
  const page = new FakePage();
  const store = new Store(page.platform);
  for (const options of [{ runId: null }, { runId: "" }, { enabled: false }, { token: "" }, { token: null }]) {
    assert.equal(new Component(store, options).snapshot.status, "idle");
  }
  assert.equal(page.sockets.length, 0);
});

test("adds records to a snapshot", () => {
  const { page, component } = livePage();
  page.socket.receive(records(1, 0, "a", "b"), records(1, 2, { n: 1 }));
  page.clock.advance(50);
  const { status, data, latest, text, count, dropped, position: at } = component.snapshot;
  assert.deepEqual(
    { status, data, latest, text, count, dropped, at },
    { status: "live", data: ["a", "b", { n: 1 }], latest: { n: 1 }, text: "ab", count: 3, dropped: 0, at: position(3) },
  );
  assert.deepEqual(component.snapshot.records[0], { offset: 0, time_ms: 1, data: "a" });
});

test("snapshot is the same object until a change", () => {
  const { page, component } = livePage();
  const before = component.snapshot;
  assert.equal(component.snapshot, before);
  page.socket.receive({ type: "pong" });
  assert.equal(component.snapshot, before);
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(50);
  assert.notEqual(component.snapshot, before);
  assert.deepEqual(before.data, []);
  assert.ok(Object.isFrozen(component.snapshot));
});

test("frames within one throttle window render once", () => {
  const { page, component } = livePage({ throttleMs: 0 });
  const before = component.renders;
  for (let i = 0; i < 100; i++) page.socket.receive(records(1, i, i));
  page.clock.advance(0);
  assert.equal(component.renders, before + 1);
  assert.equal(component.snapshot.count, 100);
});

test("fault 14: 50,000 values without a throttle render once per frame", () => {
  const { page, component } = livePage({ throttleMs: 0 });
  const before = component.renders;
  for (let i = 0; i < 50_000; i++) {
    page.socket.receive(records(1, i, i));
    if (i % 50 === 49) page.clock.advance(1); // 50 values per millisecond
  }
  page.clock.advance(16);
  assert.equal(component.snapshot.count, 50_000);
  assert.ok(component.renders - before <= 1_000 / 16 + 2);
});

test("keeps the newest records and counts all", () => {
  const { page, component } = livePage({ maxRecords: 3 });
  page.socket.receive(records(1, 0, "a", "b", "c", "d", "e"));
  page.clock.advance(50);
  const { data, count, dropped, text } = component.snapshot;
  assert.deepEqual({ data, count, dropped, text }, { data: ["c", "d", "e"], count: 5, dropped: 2, text: "abcde" });
});

test("largest maxRecords of all observers is used; null is unbounded", () => {
  const { page, store, component } = livePage({ maxRecords: 1 });
  new Component(store, { maxRecords: null });
  page.socket.receive(records(1, 0, "a", "b", "c"));
  page.clock.advance(50);
  assert.equal(component.snapshot.data.length, 3);
});

test("fault 3: new token replaces in place, new stream resubscribes", () => {
  const { page, component } = livePage();
  component.render({ token: "t2" });
  assert.deepEqual(page.socket.taken(), [{ type: "token", id: 1, token: "t2" }]);
  component.render({ token: "t2", stream: "other" });
  assert.equal(component.rendered.status, "connecting");
  assert.deepEqual(page.socket.taken()[0].stream, "other");
});

test("fault 4: run B never shows values of run A", () => {
  const { page, component } = livePage();
  page.socket.receive(records(1, 0, "of A"));
  page.clock.advance(50);
  component.render({ runId: "run_b" });
  assert.deepEqual(component.rendered.data, []);
  page.socket.receive(records(1, 1, "of A, late"));
  page.socket.receive(subscribed(2), records(2, 0, "of B"));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.data, ["of B"]);
});

test("fault 5: two observers of a stream share one subscription", () => {
  const { page, store, component } = livePage();
  const other = new Component(store);
  assert.deepEqual(page.socket.taken(), []);
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(50);
  assert.equal(page.sockets.length, 1);
  assert.deepEqual(component.snapshot.data, ["a"]);
  assert.equal(other.snapshot, component.snapshot);
});

test("fault 6: stream named run is an ordinary stream", () => {
  const { page, store } = livePage({ stream: null });
  const stream = new Component(store, { stream: "run" });
  assert.equal(page.socket.taken()[0].stream, "run");
  page.socket.receive(subscribed(2), records(2, 0, "value"));
  page.clock.advance(50);
  assert.deepEqual(stream.snapshot.data, ["value"]);
});

test("fault 7: error of a stream is in its snapshot", () => {
  const { page, store, component } = livePage();
  const other = new Component(store, { stream: "other" });
  page.socket.receive({ type: "error", id: 2, code: "forbidden", message: "no", retryable: false });
  assert.equal(other.snapshot.status, "error");
  assert.deepEqual(other.snapshot.error, { code: "forbidden", message: "no" });
  assert.equal(component.snapshot.status, "live");
});

test("fault 8: fresh token clears the expiry error and resumes", () => {
  const { page, component } = livePage();
  page.socket.receive(records(1, 0, "a"));
  page.socket.receive({ type: "error", id: 1, code: "token_expired", message: "", retryable: false });
  component.render({ token: "t2" });
  const frame = page.socket.taken().at(-1);
  assert.deepEqual(frame.start, { position: position(1) });
  page.socket.receive(subscribed(frame.id, 1), records(frame.id, 1, "b"));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.data, ["a", "b"]);
  assert.equal(component.snapshot.error, null);
});

test("fault 10: records after a cancellation are shown, and the run is finished", () => {
  const { page, store, component } = livePage();
  const run = new Component(store, { stream: null });
  page.socket.receive({ ...subscribed(2), run: { status: "executing", metadata: {} } });
  page.socket.receive(records(2, 1, { status: "canceled" }));
  page.socket.receive({ type: "end", id: 2, reason: "canceled", position: position(2) });
  for (let s = 0; s < 60; s++) {
    page.clock.advance(1_000);
    page.socket.receive({ type: "pong" });
  }
  page.socket.receive(records(1, 0, "late"), { type: "end", id: 1, reason: "canceled", position: position(1) });
  page.clock.advance(50);
  const { is_finished, is_completed, is_canceled, is_success } = run.snapshot.run;
  assert.deepEqual([is_finished, is_completed, is_canceled, is_success], [true, true, true, false]);
  assert.deepEqual([component.snapshot.data, component.snapshot.endReason], [["late"], "canceled"]);
});

test("entry without observers keeps the records that arrive until one returns", () => {
  const { page, store, component } = livePage({ maxRecords: 2 });
  page.socket.receive(records(1, 0, "a", "b"));
  page.clock.advance(50);
  component.unmount();
  page.socket.receive(records(1, 2, "c"), { type: "end", id: 1, reason: "completed", position: position(3) });
  page.clock.advance(50);
  assert.deepEqual(new Component(store, { maxRecords: 2 }).snapshot.data, ["b", "c"]);
});

test("last observer to leave unsubscribes after the linger time", () => {
  const { page, store, component } = livePage();
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(50);
  component.unmount();
  page.clock.advance(900);
  const remounted = new Component(store);
  page.clock.advance(5_000);
  assert.deepEqual(remounted.snapshot.data, ["a"]);
  assert.deepEqual(page.socket.taken(), []);
  remounted.unmount();
  page.clock.advance(1_000);
  assert.deepEqual(page.socket.taken(), [{ type: "unsubscribe", id: 1 }]);
  assert.equal(remounted.snapshot.status, "connecting");
});

test("smallest throttle of all observers is used", () => {
  const { page, store } = livePage({ throttleMs: 200 });
  page.socket.receive(records(1, 0, "a"));
  new Component(store, { throttleMs: 20 });
  assert.deepEqual(page.socket.taken(), [
    { type: "unsubscribe", id: 1 },
    { ...OPTIONS_FRAME, id: 2, start: { position: position(1) }, throttle_ms: 20 },
  ]);
  new Component(store, { throttleMs: 500 });
  assert.deepEqual(page.socket.taken(), []);
});

const OPTIONS_FRAME = { type: "subscribe", run: "run_a", stream: "progress", token: "t1" };

test("status changes from connecting to live, reconnecting and ended", () => {
  const { page, component } = livePage();
  assert.equal(component.snapshot.status, "live");
  page.socket.drop();
  assert.equal(component.snapshot.status, "reconnecting");
  page.reconnect();
  page.socket.receive(subscribed(1));
  assert.equal(component.snapshot.status, "live");
  page.socket.receive(records(1, 0, "last"));
  page.socket.receive({ type: "end", id: 1, reason: "completed", position: position(1) });
  const { status, endReason, data } = component.snapshot;
  assert.deepEqual({ status, endReason, data }, { status: "ended", endReason: "completed", data: ["last"] });
});

test("gaps are recorded; a reset clears the snapshot", () => {
  const { page, component } = livePage();
  const gap = { from: position(0), to: position(5), reason: "trimmed" };
  page.socket.receive({ type: "gap", id: 1, ...gap }, records(1, 5, "a"));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.gaps, [gap]);
  page.socket.receive({ type: "reset", id: 1, position: position(0, "02"), reason: "epoch_changed" });
  const { data, text, count, gaps, status } = component.snapshot;
  assert.deepEqual({ data, text, count, gaps, status }, { data: [], text: "", count: 0, gaps: [], status: "live" });
});

test("run is built from its snapshot and patches", () => {
  const { page, component } = livePage({ stream: null });
  page.socket.receive({ ...subscribed(1), run: { status: "queued", metadata: { a: 1, b: 2 } } });
  const first = component.snapshot.run;
  page.socket.receive(records(1, 1, { status: "executing", metadata: { a: null } }));
  page.clock.advance(50);
  const { status, metadata, is_executing } = component.snapshot.run;
  assert.deepEqual({ status, metadata, is_executing }, { status: "executing", metadata: { b: 2 }, is_executing: true });
  assert.deepEqual([first.status, first.metadata, first.is_queued], ["queued", { a: 1, b: 2 }, true]);
});

test("run keeps nulls in output and metadata", () => {
  const { page, component } = livePage({ stream: null });
  page.socket.receive({ ...subscribed(1), run: { status: "executing", output: null, metadata: { a: 1, b: { c: 1 } } } });
  page.socket.receive(records(1, 1,
    { metadata: { a: null, b: { c: null } }, metadata_nulls: { b: { c: null } } },
    { status: "completed", output: { x: null } },
  ));
  page.clock.advance(20);
  const { output, metadata, metadata_nulls } = component.snapshot.run;
  assert.deepEqual([output, metadata, metadata_nulls], [{ x: null }, { b: { c: null } }, undefined]);
});

test("handler of ten components is called once per record", () => {
  const { page, store } = livePage();
  const calls = [];
  const onRecord = (value, meta) => calls.push([value, meta]);
  for (let i = 0; i < 10; i++) new Component(store, { handlerKey: "h1", onRecord });
  page.socket.receive(records(1, 0, "a", "b"));
  page.clock.advance(50);
  assert.deepEqual(calls, [
    ["a", { offset: 0, time_ms: 1, source: null, attempt: 1 }],
    ["b", { offset: 1, time_ms: 1, source: null, attempt: 1 }],
  ]);
});

test("late handler receives later records only", () => {
  const { page, store } = livePage();
  const values = [];
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(50);
  new Component(store, { handlerKey: "h1", onRecord: (value) => values.push(value) });
  page.socket.receive(records(1, 1, "b"));
  page.clock.advance(50);
  assert.deepEqual(values, ["b"]);
});

test("end and error handlers are called after the last record", () => {
  const events = [];
  const { page } = livePage({
    handlerKey: "h1",
    onRecord: (value) => events.push(value),
    onEnd: (reason) => events.push(reason),
    onError: (error) => events.push(error.code),
  });
  page.socket.receive(records(1, 0, "a"));
  page.socket.receive({ type: "end", id: 1, reason: "failed", position: position(1) });
  assert.deepEqual(events, ["a", "failed"]);
});

test("handler that throws does not stop other handlers", (t) => {
  t.mock.method(console, "error", () => {});
  const values = [];
  const { page, store } = livePage({ handlerKey: "bad", onRecord: () => { throw new Error("no"); } });
  new Component(store, { handlerKey: "good", onRecord: (value) => values.push(value) });
  page.socket.receive(records(1, 0, "a", "b"));
  page.clock.advance(50);
  assert.deepEqual(values, ["a", "b"]);
});

test("parts are enabled later, with earlier values", () => {
  const { page, store, component } = livePage();
  page.socket.receive(records(1, 0, { type: "text-delta", text: "Hel" }));
  page.clock.advance(50);
  assert.equal(component.snapshot.parts.text, "");
  new Component(store, { parts: true });
  page.socket.receive(records(1, 1, { type: "text-delta", text: "lo" }));
  page.clock.advance(50);
  assert.equal(component.snapshot.parts.text, "Hello");
});

test("expiring token calls the handler once; the new one replaces it", () => {
  let asked = 0;
  const onTokenExpiring = () => asked++;
  const { page, store, component } = livePage({ onTokenExpiring, handlerKey: "h" });
  new Component(store, { onTokenExpiring, handlerKey: "h" });
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(50);
  page.socket.receive({ type: "token_expiring", id: 1, expires_in_ms: 1_000 });
  assert.equal(asked, 1);
  component.render({ token: "t2", onTokenExpiring, handlerKey: "h" });
  assert.deepEqual(page.socket.taken(), [{ type: "token", id: 1, token: "t2" }]);
  page.socket.receive({ type: "token_accepted", id: 1, expires_in_ms: 900_000 });
  const { status, error, data } = component.snapshot;
  assert.deepEqual({ status, error, data }, { status: "live", error: null, data: ["a"] });
});

test("rejected refresh is an error without data loss", () => {
  const errors = [];
  const { page, component } = livePage({ onError: (error) => errors.push(error) });
  page.socket.receive(records(1, 0, "a"));
  component.render({ token: "bad" });
  const rejection = { code: "token_expired", message: "the token has expired" };
  page.socket.receive({ type: "error", ...rejection, retryable: false, subscription: 1 });
  page.socket.receive(records(1, 1, "b"));
  page.clock.advance(50);
  const { status, error, data } = component.snapshot;
  assert.deepEqual({ status, error, data }, { status: "live", error: rejection, data: ["a", "b"] });
  component.render({ token: "t2" });
  page.socket.receive({ type: "token_accepted", id: 1, expires_in_ms: 900_000 });
  assert.equal(component.snapshot.error, null);
  assert.deepEqual(component.snapshot.data, ["a", "b"]);
});

test("revoked token is an error; another token resumes", () => {
  const { page, component } = livePage();
  page.socket.receive(records(1, 0, "a"));
  page.clock.advance(50);
  page.socket.receive({ type: "error", id: 1, code: "token_revoked", message: "", retryable: false });
  assert.equal(component.snapshot.status, "error");
  assert.deepEqual(component.snapshot.data, ["a"]);
  page.socket.taken();
  component.render({ token: "t2" });
  const [frame] = page.socket.taken();
  assert.deepEqual([frame.token, frame.start], ["t2", { position: position(1) }]);
});
