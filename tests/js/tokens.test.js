/** Run id, token and the gateway's answers may reach a page in any order. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Store } from "../../ui/client/store.js";
import { Component, livePage } from "./components.js";
import { FakePage, records, subscribed } from "./fakes.js";

/** Tokens of two subjects, with the run that each may read. The gateway did not sign `mallet`. */
const TOKENS = {
  ann_a: { subject: "ann", runs: ["run_a"] },
  ann_b: { subject: "ann", runs: ["run_b"] },
  bob_a: { subject: "bob", runs: ["run_a"] },
  bob_b: { subject: "bob", runs: ["run_b"] },
  mallet: null,
};

/** The gateway's end of one socket, with two queues: frames to read, and answers to deliver. */
class Gateway {
  answers = [];
  #subscriptions = new Map();

  #state = "new";

  constructor(socket) {
    this.socket = socket;
  }

  open() {
    if (this.#state !== "new") return;
    this.#state = "open";
    this.socket.open();
  }

  close(code) {
    if (this.#state !== "open") return;
    this.#state = "closed";
    this.socket.drop(code);
  }

  /** Read the oldest unread frame. */
  read() {
    const frame = this.socket.sent.shift();
    if (frame !== undefined) this[frame.type](frame);
  }

  /** Deliver the oldest answer to the page. */
  deliver() {
    const answer = this.answers.shift();
    if (answer !== undefined) this.socket.receive(answer);
  }

  #refuse(code, names, retryable = false) {
    this.answers.push({ type: "error", code, message: `it is ${code}`, retryable, ...names });
  }

  hello() {
    this.answers.push({ type: "welcome", protocol: 1, ping_ms: 20_000, limits: {} });
  }

  subscribe({ id, run, token }) {
    if (!TOKENS[token]) this.#refuse("invalid_token", { id });
    else if (!TOKENS[token].runs.includes(run)) this.#refuse("forbidden", { id });
    else {
      this.#subscriptions.set(id, { run, token });
      this.answers.push(subscribed(id), records(id, 0, run));
    }
  }

  unsubscribe({ id }) {
    if (this.#subscriptions.delete(id)) this.answers.push({ type: "unsubscribed", id });
    else this.#refuse("unknown_subscription", { id });
  }

  token({ id, token }) {
    const held = this.#subscriptions.get(id);
    if (!TOKENS[token]) this.#refuse("invalid_token", held ? { subscription: id } : { id });
    else if (!held) this.#refuse("unknown_subscription", { id });
    else if (TOKENS[held.token].subject !== TOKENS[token].subject) {
      this.#refuse("forbidden", { subscription: id });
    } else {
      this.answers.push({ type: "token_accepted", id, expires_in_ms: 60_000 });
      held.token = token;
      if (!TOKENS[token].runs.includes(held.run)) this.#end("forbidden", id);
    }
  }

  ping() {
    this.answers.push({ type: "pong" });
  }

  #end(code, id, retryable) {
    this.#subscriptions.delete(id);
    this.#refuse(code, { id }, retryable);
  }

  /** End each subscription that has another token. */
  revokeAllBut(token) {
    for (const [id, held] of this.#subscriptions) if (held.token !== token) this.#end("token_revoked", id);
  }

  /** End each subscription with a retryable error. */
  failAll() {
    for (const id of this.#subscriptions.keys()) this.#end("store_unavailable", id, true);
  }
}

/** Pseudorandom numbers from 0 up to 1, determined by a seed. */
function chances(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Perform the steps in an order that the seed determines. Return the actual and the expected snapshot. */
function playOut(seed) {
  const random = chances(seed);
  const oneOf = (list) => list[Math.floor(random() * list.length)];
  const page = new FakePage();
  const gateways = new Map();
  const currentGateway = () => {
    const { socket } = page;
    if (!gateways.has(socket)) gateways.set(socket, new Gateway(socket));
    return gateways.get(socket);
  };
  const wanted = { runId: "", token: "ann_a" };
  const last = { runId: oneOf(["run_a", "run_b"]) };
  last.token = `${oneOf(["ann", "bob"])}_${last.runId.at(-1)}`;
  const component = new Component(new Store(page.platform), wanted);
  const show = (change) => component.render(Object.assign(wanted, change));

  const network = [
    () => currentGateway().open(),
    () => currentGateway().read(),
    () => currentGateway().deliver(),
    () => currentGateway().revokeAllBut(last.token),
    () => currentGateway().failAll(),
    () => currentGateway().close(oneOf([1006, 4503])),
    () => page.clock.advance(oneOf([10, 600])),
  ];
  const renders = [
    () => show({ runId: oneOf(["", "run_a", "run_b"]) }),
    () => show({ token: oneOf(Object.keys(TOKENS)) }),
  ];
  const some = (count, more = []) => {
    for (let i = 0; i < count; i++) oneOf(page.socket ? [...network, ...more] : [...more, () => {}])();
  };
  // The gateway never rejects the last pair, which is valid.
  const isLast = () => wanted.runId === last.runId && wanted.token === last.token;
  const refuseAll = () => page.socket && !isLast() && currentGateway().close(4401);
  some(12, [...renders, refuseAll]);
  // The two arrive in either order, with any events between and after them.
  const [first, second] = oneOf([["runId", "token"], ["token", "runId"]]);
  show({ [first]: last[first] });
  some(6, [refuseAll]);
  show({ [second]: last[second] });
  some(6);
  for (let i = 0; i < 200; i++) {
    currentGateway().open();
    currentGateway().read();
    currentGateway().deliver();
    page.clock.advance(100);
  }
  const { status, error, data } = component.snapshot;
  return [{ status, error, data }, { status: "live", error: null, data: [last.runId] }];
}

test("valid run id and token become live in any order of events", (t) => {
  t.mock.method(console, "warn", () => {});
  for (let seed = 1; seed <= 3_000; seed++) {
    const [shown, wanted] = playOut(seed);
    assert.deepEqual(shown, wanted, `seed ${seed}`);
  }
});

test("rejection of a replaced token is not an error", () => {
  const errors = [];
  const { page, component } = livePage({ token: "of the run before", onError: (error) => errors.push(error) });
  component.render({ runId: "run_b", token: "of the run before" });
  component.render({ runId: "run_b", token: "t2" });
  page.socket.taken();
  const names = { id: 2, message: "no", retryable: false };
  page.socket.receive({ type: "error", code: "forbidden", ...names });
  page.socket.receive({ type: "error", code: "unknown_subscription", ...names });
  assert.deepEqual(page.socket.taken(), [
    { type: "subscribe", id: 3, run: "run_b", stream: "progress", token: "t2", throttle_ms: 50 },
  ]);
  page.socket.receive(subscribed(3));
  assert.deepEqual([component.snapshot.status, component.snapshot.error, errors], ["live", null, []]);
});

test("unknown subscription resubscribes with the new token", () => {
  const { page, component } = livePage();
  component.render({ token: "t2" });
  page.socket.taken();
  page.socket.receive({ type: "error", id: 1, code: "unknown_subscription", message: "", retryable: false });
  assert.deepEqual(page.socket.taken().map(({ type, id, token }) => [type, id, token]), [["subscribe", 2, "t2"]]);
});

test("rejection of an older token keeps the newest one", () => {
  const { page, component } = livePage();
  component.render({ token: "of another" });
  component.render({ token: "t3" });
  page.socket.taken();
  page.socket.receive({ type: "error", code: "forbidden", message: "", retryable: false, subscription: 1 });
  page.socket.receive({ type: "token_accepted", id: 1, expires_in_ms: 1_000 });
  assert.deepEqual(page.socket.taken(), []);
  page.socket.drop();
  page.reconnect();
  assert.equal(page.socket.taken()[0].token, "t3");
});

test("rejected connection reopens for a token it has not sent", () => {
  const { page, component } = livePage();
  component.render({ token: "t2" });
  page.socket.drop(4401);
  assert.equal(page.sockets.length, 2);
  page.socket.welcome();
  assert.equal(page.socket.taken()[1].token, "t2");
  page.socket.drop(4401);
  page.clock.advance(600_000);
  assert.deepEqual([page.sockets.length, component.snapshot.error.code], [2, "closed_4401"]);
});
