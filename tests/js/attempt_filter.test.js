import assert from "node:assert/strict";
import { test } from "node:test";

import { AttemptFilter } from "../../ui/client/attempt_filter.js";
import { Component, livePage } from "./components.js";
import { records } from "./fakes.js";

/** Records of `[attempt, value]` or `[attempt, value, source]`, as the gateway sends them. */
function written(offset, ...writes) {
  const frame = records(1, offset, ...writes.map(([, value]) => value));
  writes.forEach(([attempt, , source], place) => {
    if (attempt > 1) frame.records[place].attempt = attempt;
    if (source !== undefined) frame.records[place].source = source;
  });
  return frame;
}

function receive(page, frame) {
  page.socket.receive(frame);
  page.clock.advance(50);
}

test("latest attempt replaces earlier ones; other writers' records stay", () => {
  const { page, component } = livePage({ attempt: "latest", view: ["by_source"] });
  const shown = () => [component.snapshot.data, component.snapshot.text, component.snapshot.count];
  receive(page, written(0, [1, "a"], [1, "b"], [1, "child", "run_b"], [1, "client", null]));
  assert.deepEqual(shown(), [["a", "b", "child", "client"], "abchildclient", 4]);
  receive(page, written(4, [1, "c"], [2, "A"], [1, "late"], [3, "child again", "run_b"]));
  assert.deepEqual(component.snapshot.data, ["child", "client", "A", "child again"]);
  assert.equal(component.snapshot.text, "childclientAchild again");
  assert.deepEqual(component.snapshot.view(["by_source"]).run_a, ["A"]);
  receive(page, written(8, [1, "zombie"], [2, "B"]));
  assert.deepEqual(component.snapshot.data, ["child", "client", "A", "child again", "B"]);
  assert.equal(component.snapshot.latest, "B");
});

test("parts are assembled from the latest attempt", () => {
  const { page, component } = livePage({ attempt: "latest", parts: true });
  const text = (value) => ({ type: "text-delta", text: value });
  receive(page, written(0, [1, text("Half an ans")]));
  assert.equal(component.snapshot.parts.text, "Half an ans");
  receive(page, written(1, [2, text("A whole ")], [2, text("answer")]));
  assert.equal(component.snapshot.parts.text, "A whole answer");
});

test("attempt number selects one attempt; without it all are shown", () => {
  const { page, store, component } = livePage();
  const second = new Component(store, { attempt: 2 });
  page.socket.taken();
  page.socket.receive({ type: "subscribed", id: 2, position: "0000000000000000_0000000000000000" });
  for (const id of [1, 2]) {
    receive(page, { ...written(0, [1, "a"], [2, "b"], [3, "c"], [1, "x", "run_b"]), id });
  }
  assert.deepEqual(component.snapshot.data, ["a", "b", "c", "x"]);
  assert.deepEqual(second.snapshot.data, ["b", "x"]);
});

test("handlers are called once for each shown record", () => {
  const calls = [];
  const onRecord = (value, { attempt }) => calls.push([value, attempt]);
  const { page } = livePage({ attempt: "latest", handlerKey: "h", onRecord });
  receive(page, written(0, [1, "a"], [1, "x", "run_b"]));
  receive(page, written(2, [2, "b"], [1, "late"]));
  assert.deepEqual(calls, [["a", 1], ["x", 1], ["b", 2]]);
});

test("reset starts again with the first attempt", () => {
  const { page, component } = livePage({ attempt: "latest" });
  receive(page, written(0, [1, "a"], [2, "b"]));
  page.socket.receive({ type: "reset", id: 1, position: "0000000000000001_0000000000000000", reason: "epoch_changed" });
  receive(page, written(0, [1, "again"]));
  assert.deepEqual(component.snapshot.data, ["again"]);
});

test("wrong attempt is rejected; a large frame is filtered", () => {
  for (const wrong of [0, -1, 1.5, "2", "newest", true, NaN]) {
    assert.throws(() => new AttemptFilter(wrong), /it is a number from 1, "latest" or null/);
  }
  const many = Array.from({ length: 300_000 }, (_, offset) => ({ offset, attempt: 2 }));
  assert.equal(new AttemptFilter("latest").filter(many).shown.length, 300_000);
});

test("wrong attempt is an error of its hook and sends nothing", (t) => {
  t.mock.method(console, "warn", () => {});
  const { page, store } = livePage();
  const errors = [];
  const component = new Component(store, { attempt: 0, onError: (error) => errors.push(error.code) });
  assert.deepEqual([component.snapshot.status, component.snapshot.error.code], ["error", "invalid_value"]);
  component.render({ attempt: 0, token: "t2", throttleMs: 10 });
  component.unmount();
  page.clock.advance(5_000);
  assert.deepEqual(page.socket.taken(), []);
  component.render({ attempt: 1 });
  assert.equal(page.socket.taken().at(-1).type, "subscribe");
  assert.deepEqual(errors, ["invalid_value"]);
});
