import assert from "node:assert/strict";
import { test } from "node:test";

import { Actions, MAX_PENDING, IDLE_ACTION, trigger } from "../../ui/client/actions.js";
import { Store, Observer, keyOf } from "../../ui/client/store.js";
import { FakePage, URL_OF_GATEWAY, subscribed } from "./fakes.js";

const VALUE = { ok: true };
const REQUEST = { url: URL_OF_GATEWAY, run: "run_a", stream: "approval", value: VALUE, token: "t1" };
const appended = (id, duplicate = false) => ({ type: "appended", id, offset: 0, position: "p", duplicate });

function opened() {
  const page = new FakePage();
  const store = new Store(page.platform);
  return { page, store };
}

test("a value is sent over a connection of its own when there is none, and answered", async () => {
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

test("a value goes over the connection that the page has", async () => {
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

test("after a lost connection the same append is sent again under the same writer", async () => {
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

test("a refusal rejects with its code, and the connection goes on", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.welcome();
  const [, frame] = page.socket.taken();
  page.socket.receive({ type: "error", id: frame.id, code: "stream_ended", message: "ended", retryable: false });
  await assert.rejects(answer, (error) => error.code === "stream_ended");
  assert.equal(page.socket.isClosedByClient, false);
});

test("a gateway that refuses the connection refuses what waits on it", async () => {
  const { page, store } = opened();
  const answer = store.append(REQUEST);
  page.socket.open();
  page.socket.drop(4406, "protocol_version");
  await assert.rejects(answer);
});

test("an unused connection is closed once its last request is answered", async () => {
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

test("an action is pending while it is under way, and a second click does nothing", async () => {
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

/** Calls that the test lets end one by one. */
function calls() {
  const begun = [];
  const call = (name) => () =>
    new Promise((resolve, reject) => begun.push({ name, succeed: () => resolve({ id: name }), fail: reject }));
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  return { begun, call, settled, names: () => begun.map(({ name }) => name) };
}

test("calls that differ are all carried out, one at a time and in order", async () => {
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

test("a call that fails does not keep later ones from being made, and its error stays", async () => {
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

test("more calls than may be pending are refused, and those before them are made", async () => {
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

test("what ends after the last component has left is not kept", async () => {
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

test("a browser's own error has the code of the network, whatever number it carries", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  await actions.run("a", () => Promise.reject(new DOMException("took too long", "TimeoutError")));
  assert.deepEqual(actions.stateOf("a").error, { code: "network", message: "took too long" });
});

test("a failed action shows its error, and the next try clears it", async () => {
  const actions = new Actions();
  actions.subscribe("a", () => {});
  await actions.run("a", async () => {
    throw Object.assign(new Error("no"), { code: "forbidden" });
  });
  assert.deepEqual(actions.stateOf("a").error, { code: "forbidden", message: "no" });
  await actions.run("a", async () => {});
  assert.equal(actions.stateOf("a").error, null);
});

test("actions of other keys are not touched, and one that nobody shows is forgotten", async () => {
  const actions = new Actions();
  const leave = actions.subscribe("a", () => {});
  await actions.run("a", async () => {});
  assert.equal(actions.stateOf("b"), IDLE_ACTION);
  leave();
  await Promise.resolve();
  assert.equal(actions.stateOf("a"), IDLE_ACTION);
});

test("a task is triggered over HTTP with the token in the header and not in the URL", async () => {
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

test("a refused trigger carries the gateway's code, and an answer that is no JSON its status", async () => {
  const refusing = (status, body) => async () => ({
    ok: false,
    status,
    json: async () => JSON.parse(body),
  });
  const ask = (fetch) => trigger(fetch, URL_OF_GATEWAY, { task: "t", token: "x", payload: {} });
  await assert.rejects(
    ask(refusing(403, '{"code":"token_spent","message":"spent"}')),
    (error) => error.code === "token_spent" && error.message === "spent",
  );
  await assert.rejects(ask(refusing(502, "<html>")), (error) => error.code === "http_502");
});
