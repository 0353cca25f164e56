/** Identity of the assembler's values: unchanged objects stay the same, for React. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { NO_PARTS, PartsAssembler, SourcesAssembler } from "../../ui/client/parts_assembler.js";
import { Observer, Store, keyOf } from "../../ui/client/store.js";
import { FakePage, URL_OF_GATEWAY, position, records, subscribed } from "./fakes.js";

const cases = JSON.parse(readFileSync(new URL("../protocol/cases.json", import.meta.url), "utf8"));

const text = (text) => ({ type: "text-delta", text });
const call = (id) => ({ type: "tool-call", id, name: "look", input: {} });
const result = (id, output) => ({ type: "tool-result", id, output, is_error: false });

function assembled(...parts) {
  const assembler = new PartsAssembler();
  assembler.add(parts);
  return assembler;
}

for (const { name, run, records, result } of cases.parts_by_source) {
  test(`parts by source: ${name}`, () => {
    const atOnce = new SourcesAssembler(run);
    atOnce.add(records);
    const oneByOne = new SourcesAssembler(run);
    for (const record of records) oneByOne.add([record]);
    assert.deepEqual(atOnce.value, result);
    assert.deepEqual(oneByOne.value, result);
  });
}

test("returned value never changes", () => {
  for (const { name, parts } of cases.parts) {
    const assembler = new PartsAssembler();
    const handedOut = parts.map((part) => {
      assembler.add([part]);
      return [assembler.value, structuredClone(assembler.value)];
    });
    for (const [value, copy] of handedOut) assert.deepEqual(value, copy, name);
  }
});

test("part changes its own field; other fields stay the same object", () => {
  const assembler = assembled(
    call("c1"),
    call("c2"),
    { type: "source", url: "https://a.example" },
    { type: "data", name: "chart", value: [1] },
    { type: "step", index: 0, state: "start" },
    { type: "finish", reason: "stop", usage: {} },
  );
  const before = assembler.value;
  assembler.add([text("a")]);
  for (const name of Object.keys(NO_PARTS)) {
    assert.equal(assembler.value[name] === before[name], name !== "text", name);
  }
  assembler.add([result("c2", 1)]);
  assert.notEqual(assembler.value.tool_calls, before.tool_calls);
  assert.equal(assembler.value.tool_calls[0], before.tool_calls[0]);
  assert.notEqual(assembler.value.tool_calls[1], before.tool_calls[1]);
  assert.equal(assembler.value.sources, before.sources);
});

test("error leaves finished calls the same objects", () => {
  const assembler = assembled(call("c1"), result("c1", 1), call("c2"));
  const before = assembler.value.tool_calls;
  assembler.add([{ type: "error", message: "overloaded" }]);
  assert.equal(assembler.value.tool_calls[0], before[0]);
  assert.equal(assembler.value.tool_calls[1].state, "failed");
});

test("unknown parts cause no change", () => {
  const assembler = assembled(text("a"));
  const before = assembler.value;
  assembler.add([]);
  assembler.add([{ type: "citation" }, null, 5, "text-delta", {}]);
  assert.equal(assembler.value, before);
});

test("data part named __proto__ changes no other object", () => {
  assembled({ type: "data", name: "__proto__", value: { polluted: true } });
  assembled({ type: "finish", reason: "stop", usage: JSON.parse('{"__proto__": {"polluted": true}}') });
  assert.equal({}.polluted, undefined);
});

test("part of one source leaves other sources the same objects", () => {
  const assembler = new SourcesAssembler("run_top");
  assembler.add([{ data: text("a") }, { source: "run_sub", data: text("b") }]);
  const before = assembler.value;
  assembler.add([{ source: "run_sub", data: text("c") }]);
  assert.equal(assembler.value[0], before[0]);
  assert.equal(assembler.value[1].parts.text, "bc");
  assert.equal(before[1].parts.text, "b");
  const now = assembler.value;
  assembler.add([{ source: "run_sub", data: { type: "citation" } }]);
  assert.equal(assembler.value, now);
});

// Through the store, as on a page.

const OPTIONS = { url: URL_OF_GATEWAY, runId: "run_top", stream: "answer", token: "t1" };

function page() {
  const page = new FakePage();
  const store = new Store(page.platform);
  const observers = [];
  const show = (options) => {
    const allOptions = { ...OPTIONS, ...options };
    const observer = new Observer(store, keyOf(allOptions));
    observer.configure(allOptions);
    observer.subscribe(() => {});
    observers.push(observer);
    return observer;
  };
  const plain = show({});
  page.socket.welcome();
  page.socket.taken();
  page.socket.receive(subscribed(1));
  return { page, show, plain };
}

const sub = { offset: 1, time_ms: 2, source: "run_sub", data: text("sub") };

test("parts by source are enabled later, with earlier records", () => {
  const { page: { socket, clock }, show, plain } = page();
  socket.receive({ ...records(1, 0, text("top")), position: position(1) });
  socket.receive({ type: "records", id: 1, records: [sub], position: position(2) });
  clock.advance(50);
  assert.deepEqual(plain.getSnapshot().partsBySource, []);
  const observer = show({ partsBySource: true });
  const texts = () => observer.getSnapshot().partsBySource.map(({ source, parts }) => [source, parts.text]);
  assert.deepEqual(texts(), [["run_top", "top"], ["run_sub", "sub"]]);
  socket.receive(records(1, 2, text(" again")));
  clock.advance(50);
  assert.deepEqual(texts(), [["run_top", "top again"], ["run_sub", "sub"]]);
  assert.equal(observer.getSnapshot().parts, NO_PARTS);
  observer.configure({ ...OPTIONS, partsBySource: true, parts: true });
  assert.equal(observer.getSnapshot().parts.text, "topsub again");
  socket.receive({ type: "reset", id: 1, position: position(0), reason: "epoch_changed" });
  assert.deepEqual([texts(), observer.getSnapshot().parts], [[], NO_PARTS]);
  socket.receive(records(1, 0, text("anew")));
  clock.advance(50);
  assert.deepEqual(texts(), [["run_top", "anew"]]);
  assert.equal(observer.getSnapshot().parts.text, "anew");
});
