import assert from "node:assert/strict";
import { test } from "node:test";

import { IDLE_STREAMS, RunStreams, listKeyOf } from "../../ui/client/run_streams.js";
import { Store, keyOf } from "../../ui/client/store.js";
import { Component, OPTIONS } from "./components.js";
import { FakePage, position, records, subscribed } from "./fakes.js";

const SET = { runId: null, stream: null, runs: { tag: "x" }, throttleMs: 0 };

const run = (id, fields = {}) => ({
  id,
  status: "queued",
  tags: ["x"],
  metadata: {},
  created_at: "2026-11-22T12:00:00.000Z",
  ...fields,
});

const snapshot = (id, ids, hasMore = false) => ({
  type: "subscribed",
  id,
  runs: ids.map((each) => (typeof each === "string" ? run(each) : each)),
  has_more: hasMore,
});

function liveSet(options = {}, ids = ["run_3", "run_2", "run_1"], hasMore = false) {
  const page = new FakePage();
  const store = new Store(page.platform);
  const component = new Component(store, { ...SET, ...options });
  page.socket.welcome();
  const [, frame] = page.socket.taken();
  page.socket.receive(snapshot(1, ids, hasMore));
  return { page, store, component, frame };
}

const changes = (page, ...data) => {
  page.socket.receive(records(page.id ?? 1, page.offset ?? 0, ...data));
  page.clock.advance(20);
};

const many = (count) => Array.from({ length: count }, (_, i) => `run_5${String(count - i).padStart(5, "0")}`);

const idsOf = (component) => component.snapshot.runs.map((each) => each.id);

test("subscribes to the set, and not before its name is known", () => {
  const { frame } = liveSet({ runs: { tags: ["x", "y"] }, limit: 10, skip: ["payload"] });
  assert.deepEqual(frame, {
    type: "subscribe", id: 1, runs: { tags: ["x", "y"] }, limit: 10, skip: ["payload"], token: "t1",
  });
  for (const runs of [{ tag: "" }, { tag: null }, { tags: [] }, { parent: null }, { batch: "" }]) {
    assert.equal(keyOf({ ...OPTIONS, ...SET, runs }), null);
  }
});

test("set is built from its snapshot and changes, newest first", () => {
  const { page, component } = liveSet();
  assert.deepEqual(idsOf(component), ["run_3", "run_2", "run_1"]);
  const before = component.snapshot.runs;
  changes(page,
    { id: "run_2", version: 1, patch: { status: "executing", started_at: "2026-11-22T12:00:01.000Z" } },
    { id: "run_4", version: 0, run: run("run_4") },
    { id: "run_2", version: 2, patch: { status: "failed", finished_at: "2026-11-22T12:00:03.500Z" } },
  );
  assert.deepEqual(idsOf(component), ["run_4", "run_3", "run_2", "run_1"]);
  const { is_failed, is_finished, is_completed, is_executing, duration_ms } = component.snapshot.runs[2];
  assert.deepEqual([is_failed, is_finished, is_completed, is_executing], [true, true, true, false]);
  assert.equal(duration_ms, 2500);
  assert.equal(component.snapshot.runs[1], before[0]); // unchanged: the same object
  assert.equal(before.length, 3);
});

test("run of a set keeps nulls in output and metadata", () => {
  const { page, component } = liveSet({}, [run("run_1", { metadata: { a: 1 } })]);
  changes(page,
    { id: "run_1", version: 1, patch: { metadata: { a: null }, metadata_nulls: { a: null } } },
    { id: "run_1", version: 2, patch: { status: "completed", output: { x: null } } },
  );
  const [{ output, metadata }] = component.snapshot.runs;
  assert.deepEqual([output, metadata], [{ x: null }, { a: null }]);
});

test("run enters or leaves the set with its tag, in order", () => {
  const { page, component } = liveSet({}, ["run_5", "run_1"]);
  changes(page,
    { id: "run_5", version: 1, patch: { tags: ["y"] } },
    { id: "run_3", version: 4, run: run("run_3", { status: "executing" }) },
    { id: "run_9", version: 4, patch: { status: "executing" } }, // of a run that is not in the list
  );
  assert.deepEqual(idsOf(component), ["run_3", "run_1"]);
});

test("deleted run leaves; deletion of an unknown run is ignored", () => {
  const { page, component } = liveSet();
  changes(page,
    { id: "run_2", version: 3, deleted: true },
    { id: "run_0", version: 1, deleted: true },
    { id: "run_1", version: 1, patch: { status: "executing" } },
  );
  assert.deepEqual(idsOf(component), ["run_3", "run_1"]);
  changes(page, { id: "run_1", version: 1, deleted: true }); // a known version, of another tag
  assert.deepEqual(idsOf(component), ["run_3", "run_1"]);
});

test("list keeps its limit and sets hasMore", () => {
  const { page, component } = liveSet({ limit: 2 }, ["run_3", "run_2"], false);
  assert.equal(component.snapshot.hasMore, false);
  changes(page, { id: "run_4", version: 0, run: run("run_4") });
  assert.deepEqual(idsOf(component), ["run_4", "run_3"]);
  assert.equal(component.snapshot.hasMore, true);
  page.offset = 1;
  changes(page, { id: "run_1", version: 3, run: run("run_1") }); // older than the whole list
  assert.deepEqual(idsOf(component), ["run_4", "run_3"]);
});

test("loadMore requests a longer list and keeps the old one meanwhile", () => {
  const { page, component } = liveSet({ limit: 2 }, ["run_3", "run_2"], true);
  component.snapshot.loadMore();
  const [unsubscribe, subscribe] = page.socket.taken();
  assert.deepEqual(unsubscribe, { type: "unsubscribe", id: 1 });
  assert.deepEqual([subscribe.id, subscribe.limit, subscribe.runs], [2, 4, { tag: "x" }]);
  assert.deepEqual(idsOf(component), ["run_3", "run_2"]);
  changes(page, { id: "run_9", version: 0, run: run("run_9") }); // of the old subscription
  page.socket.receive(snapshot(2, ["run_4", "run_3", "run_2", "run_1"]));
  assert.deepEqual(idsOf(component), ["run_4", "run_3", "run_2", "run_1"]);
  assert.equal(component.snapshot.hasMore, false);
});

test("list of a thousand older runs isFull", () => {
  const { page, component } = liveSet({ limit: 600 }, ["run_1"].concat(many(599)), true);
  assert.equal(component.snapshot.isFull, false);
  component.snapshot.loadMore();
  assert.equal(page.socket.taken().at(-1).limit, 1_000);
  assert.equal(component.snapshot.isFull, false); // the snapshot has not arrived yet
  page.socket.receive(snapshot(2, many(1_000), true));
  assert.equal(component.snapshot.isFull, true);
  component.snapshot.loadMore();
  assert.deepEqual(page.socket.taken(), []);
});

test("list of exactly a thousand runs is not full", () => {
  const { page, component } = liveSet({ limit: 1_000 }, many(1_000), false);
  assert.deepEqual([component.snapshot.hasMore, component.snapshot.isFull], [false, false]);
  changes(page, { id: "run_9", version: 0, run: run("run_9") });
  assert.deepEqual([component.snapshot.hasMore, component.snapshot.isFull], [true, true]);
  assert.equal(component.snapshot.runs.length, 1_000);
});

test("list cut by its bytes isFull", () => {
  const { page, component } = liveSet({ limit: 50 }, ["run_3", "run_2"], true);
  assert.equal(component.snapshot.isFull, true);
  page.socket.taken();
  component.snapshot.loadMore();
  assert.deepEqual(page.socket.taken(), []);
});

test("change that arrives for several tags is applied once", () => {
  const { page, component } = liveSet({ runs: { tags: ["x", "y"] } }, [run("run_1", { tags: ["x", "y"] })]);
  changes(page,
    { id: "run_1", version: 1, patch: { status: "executing" } },
    { id: "run_1", version: 2, patch: { status: "completed" } },
    { id: "run_1", version: 1, patch: { status: "executing" } },
    { id: "run_1", version: 2, patch: { status: "completed" } },
    { id: "run_1", version: 3, patch: { tags: ["y"] } },
    { id: "run_1", version: 3, patch: { tags: ["y"] } },
  );
  assert.equal(component.snapshot.runs[0].status, "completed");
  assert.deepEqual(component.snapshot.runs[0].tags, ["y"]);
});

test("reconnect replaces the list with the new snapshot", () => {
  const { page, component } = liveSet();
  changes(page, { id: "run_4", version: 0, run: run("run_4") });
  page.socket.drop();
  assert.equal(component.snapshot.status, "reconnecting");
  assert.equal(idsOf(component).length, 4);
  page.reconnect();
  const [frame] = page.socket.taken();
  assert.equal(frame.start, undefined);
  page.socket.receive(snapshot(1, ["run_9"]));
  assert.deepEqual(idsOf(component), ["run_9"]);
  assert.equal(component.snapshot.status, "live");
});

test("reset replaces the list and ignores earlier changes", () => {
  const { page, component } = liveSet();
  page.socket.receive(records(1, 0, { id: "run_3", version: 1, patch: { status: "executing" } }));
  page.socket.receive({ ...snapshot(1, [run("run_3", { status: "completed" })]), type: "reset", reason: "trimmed" });
  page.clock.advance(20);
  assert.deepEqual(component.snapshot.runs.map((each) => each.status), ["completed"]);
});

test("wrong token is an error and not an empty list", () => {
  const page = new FakePage();
  const errors = [];
  const component = new Component(new Store(page.platform), {
    ...SET, handlerKey: "h", onError: (error) => errors.push(error),
  });
  page.socket.welcome();
  const error = { code: "invalid_token", message: "the token is not valid here: Not enough segments" };
  page.socket.receive({ type: "error", id: 1, ...error, retryable: false });
  assert.equal(component.snapshot.status, "error");
  assert.deepEqual(component.snapshot.error, error);
  assert.deepEqual(errors, [error]);
  component.render({ ...SET, token: "t2" });
  page.socket.receive(snapshot(page.socket.taken().at(-1).id, ["run_1"]));
  assert.equal(component.snapshot.error, null);
  assert.deepEqual(idsOf(component), ["run_1"]);
});

test("onComplete is called once, with the run, over reconnects", () => {
  const page = new FakePage();
  const store = new Store(page.platform);
  const completed = [];
  const options = { stream: null, handlerKey: "h", onComplete: (ended) => completed.push(ended) };
  for (let i = 0; i < 3; i++) new Component(store, options);
  page.socket.welcome();
  page.socket.receive({ ...subscribed(1), run: run("run_a", { status: "executing" }) });
  page.socket.drop();
  page.reconnect();
  page.socket.receive({ ...subscribed(1), run: run("run_a", { status: "executing" }) });
  page.clock.advance(100);
  assert.deepEqual(completed, []);
  page.socket.receive(records(1, 1, { status: "completed", output: 3 }));
  page.socket.receive({ type: "end", id: 1, reason: "completed", position: position(2) });
  page.clock.advance(1_000);
  assert.deepEqual(completed.map(({ output, is_success }) => [output, is_success]), [[3, true]]);
});

// All streams of a run.

function liveStreams(options = {}) {
  const page = new FakePage();
  const store = new Store(page.platform);
  const allOptions = { ...OPTIONS, throttleMs: 0, ...options };
  const streams = new RunStreams(store, listKeyOf(allOptions));
  streams.configure(allOptions);
  let renders = 0;
  const leave = streams.subscribe(() => renders++);
  page.socket.welcome();
  page.socket.taken();
  page.socket.receive(subscribed(1));
  return { page, store, streams, leave, shown: () => streams.getSnapshot().streams };
}

test("streams of a run appear under any name", () => {
  const { page, shown } = liveStreams();
  page.socket.receive(records(1, 0, { stream: "progress" }, { stream: "run" }));
  page.clock.advance(20);
  assert.deepEqual(page.socket.taken().map((frame) => [frame.id, frame.stream]), [[2, "progress"], [3, "run"]]);
  page.socket.receive(subscribed(2), records(2, 0, 1, 2), subscribed(3), records(3, 0, "value"));
  page.clock.advance(20);
  assert.deepEqual(Object.keys(shown()), ["progress", "run"]);
  assert.deepEqual(shown().progress.data, [1, 2]);
  assert.deepEqual([shown().run.latest, shown().run.count, shown().run.text, shown().run.status], ["value", 1, "value", "live"]);
  page.socket.receive(records(1, 2, { stream: "__proto__" }, { stream: "constructor" }));
  page.clock.advance(20);
  assert.deepEqual(Object.keys(shown()), ["progress", "run", "__proto__", "constructor"]);
});

test("error of a stream belongs to it, error of the list to the whole", () => {
  const { page, streams, shown } = liveStreams();
  page.socket.receive(records(1, 0, { stream: "a" }, { stream: "b" }));
  page.clock.advance(20);
  page.socket.receive(subscribed(2), { type: "error", id: 3, code: "forbidden", message: "no", retryable: false });
  assert.deepEqual([shown().a.error, shown().b.error, shown().b.status], ["", "no", "error"]);
  assert.equal(streams.getSnapshot().error, null);
  page.socket.receive({ type: "error", id: 1, code: "token_expired", message: "late", retryable: false });
  assert.equal(streams.getSnapshot().error.code, "token_expired");
});

test("unchanged stream is the same object; leaving unsubscribes all", () => {
  const { page, leave, shown } = liveStreams();
  page.socket.receive(records(1, 0, { stream: "a" }, { stream: "b" }));
  page.clock.advance(20);
  page.socket.receive(subscribed(2), subscribed(3));
  const before = shown();
  page.socket.receive(records(2, 0, 1));
  page.clock.advance(20);
  assert.equal(shown().b, before.b);
  assert.notEqual(shown().a, before.a);
  page.socket.taken();
  leave();
  page.clock.advance(1_500);
  assert.deepEqual(page.socket.taken().map((frame) => [frame.type, frame.id]).sort(), [
    ["unsubscribe", 1], ["unsubscribe", 2], ["unsubscribe", 3],
  ]);
});

test("no run gives no streams", () => {
  const streams = new RunStreams(new Store(new FakePage().platform), listKeyOf({ ...OPTIONS, runId: "" }));
  assert.deepEqual({ ...streams.getSnapshot(), streams: {} }, { ...IDLE_STREAMS, streams: {} });
});
