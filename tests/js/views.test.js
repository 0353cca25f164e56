import assert from "node:assert/strict";
import { test } from "node:test";

import { SlidingWindow } from "../../ui/client/sliding_window.js";
import { Component, livePage } from "./components.js";
import { position, records } from "./fakes.js";

test("window keeps the newest values; a returned view never changes", () => {
  const window = new SlidingWindow();
  const all = [];
  const views = [];
  for (let i = 0; i < 5_000; i++) {
    window.add([i, -i]);
    all.push(i, -i);
    const gone = window.trim(7);
    assert.equal(window.size, Math.min(7, all.length));
    if (gone.length > 0) assert.deepEqual(gone, all.slice(-9, -7).slice(-gone.length));
    if (i % 100 === 0) views.push([window.view(), all.slice(-7)]);
  }
  for (const [view, expected] of views) {
    assert.deepEqual(view.array, expected);
    assert.equal(view.array, view.array);
    assert.deepEqual(view.last(3), expected.slice(-3));
    assert.deepEqual(view.last(99), expected);
  }
});

test("cost of add does not depend on the window's size", () => {
  const window = new SlidingWindow();
  const copied = [];
  const slice = Array.prototype.slice;
  Array.prototype.slice = function (...args) {
    const result = slice.apply(this, args);
    copied.push(result.length);
    return result;
  };
  try {
    for (let i = 0; i < 50_000; i++) {
      window.add([i]);
      window.trim(1_000);
      window.view();
    }
  } finally {
    Array.prototype.slice = slice;
  }
  assert.ok(copied.reduce((sum, size) => sum + size, 0) < 3 * 50_000);
});

const WHERE = ["where", "level", "error"];

test("where selects matching values among the kept records", () => {
  const { page, component } = livePage({ view: WHERE, maxRecords: 3 });
  const at = (level, n) => ({ level, n });
  page.socket.receive(records(1, 0, at("error", 1), at("info", 2), at("error", 3)));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.view(WHERE), [at("error", 1), at("error", 3)]);
  assert.equal(component.snapshot.view(WHERE), component.snapshot.view(WHERE));
  page.socket.receive(records(1, 3, "no object", null));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.view(WHERE), [at("error", 3)]);
});

test("view starts with earlier records, and is empty after a reset", () => {
  const { page, store, component } = livePage();
  page.socket.receive(records(1, 0, { level: "error" }));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.view(WHERE), []);
  new Component(store, { view: WHERE });
  assert.deepEqual(component.snapshot.view(WHERE), [{ level: "error" }]);
  page.socket.receive({ type: "reset", id: 1, position: position(0, "02"), reason: "epoch_changed" });
  assert.deepEqual(component.snapshot.view(WHERE), []);
  page.socket.receive(records(1, 0, { level: "error", n: 2 }));
  page.clock.advance(50);
  assert.deepEqual(component.snapshot.view(WHERE), [{ level: "error", n: 2 }]);
});

test("by_source groups values by their run", () => {
  const { page, component } = livePage({ view: ["by_source"], maxRecords: 4 });
  const frame = records(1, 0, "own", "of b", "outside", "of b too");
  frame.records[1].source = frame.records[3].source = "run_b";
  frame.records[2].source = null;
  page.socket.receive(frame);
  page.clock.advance(50);
  const groups = component.snapshot.view(["by_source"]);
  assert.deepEqual({ ...groups }, { run_a: ["own"], run_b: ["of b", "of b too"], "": ["outside"] });
  page.socket.receive(records(1, 4, "x", "y"));
  page.clock.advance(50);
  const after = component.snapshot.view(["by_source"]);
  assert.deepEqual({ ...after }, { run_a: ["x", "y"], run_b: ["of b too"], "": ["outside"] });
  assert.equal(after[""], groups[""]); // unchanged: the same object
  assert.deepEqual(component.snapshot.last(2), ["x", "y"]);
});
