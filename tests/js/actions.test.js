import assert from "node:assert/strict";
import { test } from "node:test";

import { Actions, IDLE_ACTION, MAX_PENDING, trigger } from "../../ui/client/actions.js";
import { Observer, Store, keyOf } from "../../ui/client/store.js";
import { FakePage, URL_OF_GATEWAY, subscribed } from "./fakes.js";

const VALUE = { ok: true };
const REQUEST = { url: URL_OF_GATEWAY, run: "run_a", stream: "approval", value: VALUE, token: "t1" };
const appended = (id, duplicate = false) => ({ type: "appended", id, offset: 0, position: "p", duplicate });

function opened() {
  const page = new FakePage();
  const store = new Store(page.platform);
  return { page, store };
}

test("append opens a connection when there is none", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.welcome();
  const [, frame] = page.socket.taken();
  assert.deepEqual(
    { ...frame, writer: { ...frame.writer, id: "" } },
    {
      type: "append",
      id: frame.id,
      run: "run_a",
      stream: "approval",
      records: [VALUE],
      writer: { id: "", epoch: 0, sequence: 0 },
      token: "t1",
    },
  );
  page.socket.receive(appended(frame.id));
  assert.equal((await answer).offset, 0);
});

test("append uses the page's connection", async () => {
  const { page, store } = opened();
  const options = { url: URL_OF_GATEWAY, runId: "run_a", stream: "progress", token: "t1" };
  const observer = new Observer(store, keyOf(options));
  observer.configure(options);
  observer.subscribe(() => {});
  page.socket.welcome();
  page.socket.receive(subscribed(1));
  page.socket.taken();
  const answer = store.append(REQUEST);
  assert.equal(page.sockets.length, 1);
  const [frame] = page.socket.taken();
  page.socket.receive(appended(frame.id));
  await answer;
});

test("append is resent with the same writer after a reconnect", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.welcome();
  const [, first] = page.socket.taken();
  page.socket.drop();
  page.reconnect();
  const [again] = page.socket.taken();
  assert.deepEqual(again, first);
  page.socket.receive(appended(again.id, true));
  assert.equal((await answer).duplicate, true);
});

test("rejected append has the error's code and keeps the connection", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.welcome();
  const [, frame] = page.socket.taken();
  page.socket.receive({ type: "error", id: frame.id, code: "stream_ended", message: "ended", retryable: false });
  await assert.rejects(answer, (error) => error.code === "stream_ended");
  assert.equal(page.socket.isClosedByClient, false);
});

test("rejected connection rejects pending appends", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.open();
  page.socket.drop(4406, "protocol_version");
  await assert.rejects(answer);
});

test("connection closes after its last request is answered", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.welcome();
  page.clock.advance(5_000);
  assert.equal(page.socket.isClosedByClient, false);
  page.socket.receive(appended(page.socket.taken()[1].id));
  await answer;
  page.clock.advance(5_000);
  assert.equal(page.socket.isClosedByClient, true);
});

test("action is pending while it runs and drops a double click", async () => {
  const actions = new Actions();
  const seen = [];
  actions.subscribe("a", () => seen.push(actions.stateOf("a").isPending));
  let finish;
  let started = 0;
  const work = () => new Promise((resolve) => ((started += 1), (finish = resolve)));
  const running = actions.run("a", work);
  await actions.run("a", work);
  assert.equal(started, 1);
  finish({ id: "run_b", access_token: "t" });
  await running;
  assert.deepEqual(seen, [true, false]);
  assert.deepEqual(actions.stateOf("a"), {
    isPending: false,
    count: 1,
    error: null,
    handle: { id: "run_b", access_token: "t" },
  });
});

/** Calls that the test completes one by one. */
function calls() {
  const begun = [];
  const call = (name) => () =>
    new Promise((resolve, reject) => begun.push({ name, succeed: () => resolve({ id: name }), fail: reject }));
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  return { begun, call, settled, names: () => begun.map(({ name }) => name) };
}

test("different calls of one key run one at a time, in order", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  const { begun, call, settled, names } = calls();
  for (const name of ["tea", "tea", "cups", "tea", "tea"]) actions.run("a", call(name), name);
  actions.run("b", call("of another key"), "of another key");
  assert.deepEqual(names(), ["tea", "of another key"]);
  begun[0].succeed();
  await settled();
  assert.deepEqual(names().slice(2), ["cups"]);
  assert.deepEqual([actions.stateOf("a").isPending, actions.stateOf("a").handle], [true, { id: "tea" }]);
  begun[2].succeed();
  await settled();
  begun[3].succeed();
  await settled();
  assert.deepEqual(names(), ["tea", "of another key", "cups", "tea"]);
  const { isPending, count, error } = actions.stateOf("a");
  assert.deepEqual({ isPending, count, error }, { isPending: false, count: 3, error: null });
});

test("failed call does not stop later calls; its error stays", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  const { begun, call, settled } = calls();
  actions.run("a", call("tea"));
  actions.run("a", call("cups"));
  begun[0].fail(Object.assign(new Error("no"), { code: "forbidden" }));
  await settled();
  begun[1].succeed();
  await settled();
  assert.deepEqual(actions.stateOf("a"), {
    isPending: false,
    count: 1,
    error: { code: "forbidden", message: "no" },
    handle: { id: "cups" },
  });
  actions.run("a", call("spoons"));
  assert.equal(actions.stateOf("a").error, null);
});

test("call beyond the pending limit is rejected", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  const { begun, call, settled } = calls();
  for (let i = 0; i <= MAX_PENDING; i++) actions.run("a", call(i));
  assert.equal(actions.stateOf("a").error.code, "too_many_pending");
  for (let i = 0; i < MAX_PENDING; i++) {
    begun[i].succeed();
    await settled();
  }
  assert.deepEqual([begun.length, actions.stateOf("a").isPending], [MAX_PENDING, false]);
});

test("result is dropped after the last listener has left", async () => {
  const actions = new Actions();
  const leave = actions.subscribe("a", () => {});
  const { begun, call, settled } = calls();
  actions.run("a", call("tea"));
  leave();
  await settled();
  begun[0].succeed();
  await settled();
  assert.equal(actions.stateOf("a"), IDLE_ACTION);
});

test("browser error gets the code network", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  await actions.run("a", () => Promise.reject(new DOMException("took too long", "TimeoutError")));
  assert.deepEqual(actions.stateOf("a").error, { code: "network", message: "took too long" });
});

test("next call clears the error of a failed one", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  await actions.run("a", async () => {
    throw Object.assign(new Error("no"), { code: "forbidden" });
  });
  assert.deepEqual(actions.stateOf("a").error, { code: "forbidden", message: "no" });
  await actions.run("a", async () => {});
  assert.equal(actions.stateOf("a").error, null);
});

test("action state is per key and dropped without listeners", async () => {
  const actions = new Actions();
  const leave = actions.subscribe("a", () => {});
  await actions.run("a", async () => {});
  assert.equal(actions.stateOf("b"), IDLE_ACTION);
  leave();
  await Promise.resolve();
  assert.equal(actions.stateOf("a"), IDLE_ACTION);
});

test("trigger sends the token in a header, not in the URL", async () => {
  const calls = [];
  const fetch = async (url, options) => {
    calls.push([url, options]);
    return { ok: true, json: async () => ({ id: "run_b", access_token: "t2" }) };
  };
  const handle = await trigger(fetch, "wss://x.test/live/v1/ws", {
    task: "generate text",
    token: "secret",
    payload: { prompt: "hi" },
  });
  const [[url, { method, headers, body }]] = calls;
  assert.equal(url, "https://x.test/live/v1/tasks/generate%20text/trigger");
  assert.equal(method, "POST");
  assert.equal(headers.Authorization, "Bearer secret");
  assert.deepEqual(JSON.parse(body), { payload: { prompt: "hi" } });
  assert.equal(handle.id, "run_b");
});

test("rejected trigger has the gateway's code or the HTTP status", async () => {
  const rejecting = (status, body) => async () => ({
    ok: false,
    status,
    json: async () => JSON.parse(body),
  });
  const ask = (fetch) => trigger(fetch, URL_OF_GATEWAY, { task: "t", token: "x", payload: {} });
  await assert.rejects(
    ask(rejecting(403, '{"code":"token_spent","message":"spent"}')),
    (error) => error.code === "token_spent" && error.message === "spent",
  );
  await assert.rejects(ask(rejecting(502, "<html>")), (error) => error.code === "http_502");
});
