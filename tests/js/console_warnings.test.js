/** Lines in the browser's console about hooks and actions that fail. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Actions } from "../../ui/client/actions.js";
import { ORIGIN } from "../../ui/client/protocol.js";
import { Store } from "../../ui/client/store.js";
import { Component, livePage } from "./components.js";
import { FakePage, position, subscribed } from "./fakes.js";

const SECRET = "eyJhbGciOiJIUzI1NiJ9.secret";
const rejection = (names, code = "forbidden") => ({ type: "error", code, message: `it is ${code}`, retryable: false, ...names });

/** Collect the lines of one level during a test. */
function consoleOf(t, level) {
  const lines = [];
  t.mock.method(console, level, (...words) => lines.push(words.join(" ")));
  return lines;
}

test("rejected hook writes one line without its token", (t) => {
  const lines = consoleOf(t, "warn");
  const { page, component } = livePage({ token: SECRET });
  page.socket.receive(rejection({ id: 1 }));
  page.clock.advance(1_000);
  for (const id of [2, 3]) {
    component.render({ token: `${SECRET}${id}` });
    page.socket.receive(rejection({ id }));
    page.clock.advance(1_000);
  }
  assert.deepEqual(lines, [
    "Realtime Streams: stream run_a/progress is refused: it is forbidden (forbidden)",
  ]);
});

test("line names the run or the set of runs", (t) => {
  const lines = consoleOf(t, "warn");
  for (const options of [{ stream: null }, { runId: null, stream: null, runs: { tag: "x" } }]) {
    const page = new FakePage();
    new Component(new Store(page.platform), options);
    page.socket.welcome();
    page.socket.receive(rejection({ id: 1 }, "run_not_found"));
    page.clock.advance(1_000);
  }
  assert.deepEqual(lines, [
    "Realtime Streams: run run_a is refused: it is run_not_found (run_not_found)",
    'Realtime Streams: runs {"tag":"x"} is refused: it is run_not_found (run_not_found)',
  ]);
});

test("rejected new token writes a line", (t) => {
  const lines = consoleOf(t, "warn");
  const { page, component } = livePage();
  component.render({ token: SECRET });
  page.socket.receive(rejection({ subscription: 1 }, "token_expired"));
  page.clock.advance(1_000);
  assert.deepEqual(lines, [
    "Realtime Streams: stream run_a/progress is refused: it is token_expired (token_expired)",
  ]);
});

test("new token within a second prevents the line", (t) => {
  const lines = consoleOf(t, "warn");
  const { page, component } = livePage();
  page.socket.receive(rejection({ id: 1 }));
  page.clock.advance(900);
  component.render({ token: "t2" });
  page.socket.receive(subscribed(2));
  page.clock.advance(60_000);
  assert.deepEqual(lines, []);
});

test("unmounted component writes nothing", (t) => {
  const lines = consoleOf(t, "warn");
  const { page, component } = livePage();
  component.unmount();
  page.clock.advance(900);
  page.socket.receive(rejection({ id: 1 }));
  page.clock.advance(60_000);
  assert.deepEqual(lines, []);
});

test("failed send or trigger writes a line", async (t) => {
  const lines = consoleOf(t, "warn");
  const actions = new Actions();
  await actions.run("a", () => Promise.reject(Object.assign(new Error("spent"), { code: "token_spent" })));
  assert.deepEqual(lines, ["Realtime Streams: spent (token_spent)"]);
});

test("run that ended without the stream gives a hint", (t) => {
  const lines = consoleOf(t, "info");
  const { page, component } = livePage({ stream: "progres" });
  page.socket.receive({ type: "end", id: 1, reason: "completed", position: ORIGIN });
  const hint =
    'run run_a has ended (completed) without a stream "progres": check the stream\'s id, and that the task appends to it';
  const { status, error } = component.snapshot;
  assert.deepEqual([status, error, component.snapshot.hint], ["ended", null, hint]);
  assert.deepEqual(lines, [`Realtime Streams: ${hint}`]);
});

test("stream that was written or deleted gives no hint", (t) => {
  const lines = consoleOf(t, "info");
  for (const [reason, at] of [["completed", position(0)], ["deleted", ORIGIN]]) {
    const { page, component } = livePage();
    page.socket.receive({ type: "end", id: 1, reason, position: at });
    assert.equal(component.snapshot.hint, null);
  }
  assert.deepEqual(lines, []);
});
