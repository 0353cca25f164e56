/** The cases of the protocol, which pytest runs against the gateway too. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { backoffMs } from "../../ui/client/backoff.js";
import { Connection } from "../../ui/client/connection.js";
import { PartsAssembler } from "../../ui/client/parts_assembler.js";
import { applyChange, comparePositions, mayReconnect, mergePatch } from "../../ui/client/protocol.js";
import { Subscription } from "../../ui/client/subscription.js";
import { FakePage, SINK_METHODS, URL_OF_GATEWAY } from "./fakes.js";

const cases = JSON.parse(readFileSync(new URL("../protocol/cases.json", import.meta.url), "utf8"));

for (const { a, b, order } of cases.positions) {
  test(`position ${a} against ${b}`, () => assert.equal(comparePositions(a, b), order));
}

for (const { name, target, patch, result } of cases.merge_patch) {
  test(`merge patch: ${name}`, () => {
    const before = structuredClone({ target, patch });
    assert.deepEqual(mergePatch(target, patch), result);
    assert.deepEqual({ target, patch }, before);
  });
}

for (const { name, run, change, result } of cases.fold_change) {
  test(`run change: ${name}`, () => {
    const before = structuredClone({ run, change });
    assert.deepEqual(applyChange(run, change), result);
    assert.deepEqual({ run, change }, before);
  });
}

for (const { name, parts, result } of cases.parts) {
  test(`parts: ${name}`, () => {
    const atOnce = new PartsAssembler();
    atOnce.add(parts);
    const oneByOne = new PartsAssembler();
    for (const part of parts) oneByOne.add([part]);
    assert.deepEqual(atOnce.value, result);
    assert.deepEqual(oneByOne.value, result);
  });
}

test("parts: returned value never changes", () => {
  const assembler = new PartsAssembler();
  assembler.add([{ type: "tool-call", id: "c1", name: "look", input: {} }]);
  const before = structuredClone(assembler.value);
  const handedOut = assembler.value;
  assembler.add([{ type: "tool-result", id: "c1", output: 1, is_error: false }]);
  assert.deepEqual(handedOut, before);
});

for (const { code, reconnect } of cases.close_codes) {
  test(`close code ${code}`, () => assert.equal(mayReconnect(code), reconnect));
}

test("backoff is full jitter up to its cap", () => {
  assert.equal(backoffMs(0, () => 0), 0);
  assert.equal(backoffMs(0, () => 1), 500);
  assert.equal(backoffMs(3, () => 0.5), 2_000);
  assert.equal(backoffMs(50, () => 1), 30_000);
});

const silent = Object.fromEntries(SINK_METHODS.map((name) => [name, () => {}]));

/** Drives the client through the frames of an exchange. */
class Driver {
  page = new FakePage();
  connection = new Connection(URL_OF_GATEWAY, this.page.platform);
  #subscriptions = new Map();
  #opened = 0;

  /** Make the client send this frame. */
  provoke({ type, id, throttle_ms: throttleMs, ...allOptions }) {
    const { run, stream, runs, limit, skip, start, token } = allOptions;
    if (type === "subscribe" && !this.#subscriptions.has(id)) {
      const request = { run, stream, runs, limit, skip, start, throttleMs, token };
      const subscription = new Subscription(request, silent);
      this.#subscriptions.set(id, subscription);
      this.connection.add(subscription);
      assert.equal(subscription.id, id);
    }
    if (type === "unsubscribe") this.connection.remove(this.#subscriptions.get(id));
    if (type === "token") this.connection.replaceToken(this.#subscriptions.get(id), token);
    if (type === "hello") this.#connect();
    if (type === "ping") this.page.clock.advance(20_000);
  }

  #connect() {
    if (this.page.sockets.length === this.#opened) this.page.clock.advance(1_000);
    this.#opened = this.page.sockets.length;
    this.page.socket.open();
  }
}

function provokeFirst(driver, steps) {
  // The client connects for its first subscription.
  driver.provoke(steps.find((step) => step.client?.type === "subscribe").client);
}

for (const { name, steps } of cases.exchanges) {
  test(`exchange: ${name}`, () => {
    const driver = new Driver();
    provokeFirst(driver, steps);
    for (const step of steps) {
      if (step.client) {
        if (driver.page.socket.sent.length === 0) driver.provoke(step.client);
        assert.deepEqual(driver.page.socket.sent.shift(), step.client);
      } else if (step.server) driver.page.socket.receive(fill(step.server));
      else if (step.drop) driver.page.socket.drop();
    }
    assert.deepEqual(driver.page.socket.taken(), []);
  });
}

/** Replace each `*` of a case with a plausible value. */
function fill(frame) {
  const filled = { ...frame };
  if (filled.ping_ms === "*") filled.ping_ms = 20_000;
  return filled;
}
