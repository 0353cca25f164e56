import assert from "node:assert/strict";
import { test } from "node:test";

import { acquireSlot } from "../../ui/client/response_slots.js";
import { WELCOME, httpPage, settled } from "./http_page.js";
import { position, records, subscribed } from "./fakes.js";

const URL_OF_EVENTS = "http://gateway.test/v1/events";

/** The places that tabs of a browser share: `free` are left at a host. */
class Slots {
  constructor(free) {
    this.free = free;
  }

  take = async (url, lost) => {
    assert.equal(url, URL_OF_EVENTS);
    if (this.free === 0) return null;
    this.free--;
    this.lost = lost;
    return () => this.free++;
  };
}

/** A page whose WebSocket is rejected, and whose browser has `free` places left. */
async function tab(t, free) {
  t.mock.method(console, "info", () => {});
  const places = new Slots(free);
  const { page, component } = await httpPage({ acquireSlot: places.take });
  return { page, component, places, id: page.request.frames[1].id };
}

test("a tab with a place holds its answer and gives the place back with its last subscription", async (t) => {
  const { page, component, places, id } = await tab(t, 1);
  assert.equal(places.free, 0);
  assert.equal(page.request.url, URL_OF_EVENTS);
  await page.send(WELCOME, subscribed(id));
  component.unmount();
  await page.pass(1_000);
  await page.pass(1_000);
  assert.equal(places.free, 1);
});

test("a tab without a place polls from the position reached, and is live between polls", async (t) => {
  const { page, component, id } = await tab(t, 0);
  for (let n = 0; n < 3; n++) {
    assert.equal(page.request.url, `${URL_OF_EVENTS}?wait_s=0.25`);
    await page.send(WELCOME, subscribed(id, n), records(id, n, n));
    await page.close(1001);
    const polls = page.requests.length;
    await page.pass(749);
    assert.equal(page.requests.length, polls); // other tabs occupy the connections
    await page.pass(1_501);
    assert.equal(page.requests.length, polls + 1);
    assert.deepEqual(page.request.frames[1].start, { position: position(n + 1) });
  }
  assert.deepEqual(component.snapshot.data, [0, 1, 2]);
  assert.equal(component.snapshot.status, "live");
});

test("a tab that polls gets the place of one that was closed", async (t) => {
  const { page, places, id } = await tab(t, 0);
  await page.send(WELCOME, subscribed(id));
  await page.close(1001);
  places.free = 1;
  await page.pass(2_250);
  assert.deepEqual([page.request.url, places.free], [URL_OF_EVENTS, 0]);
});

test("a tab whose place is lost polls at once", async (t) => {
  const { page, places, id } = await tab(t, 1);
  await page.send(WELCOME, subscribed(id));
  const held = page.request;
  places.lost();
  await page.pass(0);
  assert.ok(held.signal.aborted);
  assert.equal(page.request.url, `${URL_OF_EVENTS}?wait_s=0.25`);
});

test("a poll in which not all was answered is longer the next time", async (t) => {
  const { page, component, id } = await tab(t, 0);
  const waits = [];
  for (let n = 0; n < 7; n++) {
    waits.push(page.request.url.split("=")[1]);
    await page.send(WELCOME);
    await page.close(1001);
    await page.pass(2_250);
  }
  assert.deepEqual(waits, ["0.25", "0.5", "1", "2", "4", "8", "8"]);
  await page.send(WELCOME, subscribed(id), records(id, 0, "late"));
  await page.pass(50);
  assert.deepEqual(component.snapshot.data, ["late"]);
});

test("a tab that is shown again polls at once", async (t) => {
  const { page, id } = await tab(t, 0);
  await page.send(WELCOME, subscribed(id));
  await page.close(1001);
  const polls = page.requests.length;
  page.wake();
  await page.pass(0);
  assert.equal(page.requests.length, polls + 1);
});

test("a poll that nobody answers is a lost connection", async (t) => {
  const { page, component, id } = await tab(t, 0);
  await page.send(WELCOME, subscribed(id));
  await page.close(1001);
  await page.pass(2_250);
  await page.pass(28_000);
  await page.pass(40_000);
  assert.equal(component.snapshot.status, "reconnecting");
});

/** The subset of Web Locks that the client uses. */
class Locks {
  held = new Set();

  request = async (name, { ifAvailable }, use) => {
    assert.ok(ifAvailable);
    if (this.held.has(name)) return use(null);
    this.held.add(name);
    try {
      return await use({ name });
    } finally {
      this.held.delete(name);
    }
  };
}

function pretend(t, name, value) {
  const before = Object.getOwnPropertyDescriptor(globalThis, name);
  Object.defineProperty(globalThis, name, { value, configurable: true });
  t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
}

test("three tabs have a place at a host, and the next one when one of them leaves", async (t) => {
  pretend(t, "navigator", { locks: new Locks() });
  const take = (url = URL_OF_EVENTS) => acquireSlot(url, () => assert.fail("lost"));
  const leaves = [await take(), await take(), await take()];
  assert.equal(await take(), null);
  assert.notEqual(await take("http://another.test/v1/events"), null);
  leaves[1]();
  await settled();
  assert.notEqual(await take(), null);
  assert.equal(await take(), null);
});

test("a browser that refuses its locks lets the tab poll", async (t) => {
  const refusing = async () => {
    throw new Error("SecurityError");
  };
  pretend(t, "navigator", { locks: { request: refusing } });
  assert.equal(await acquireSlot(URL_OF_EVENTS, () => {}), null);
});

test("over HTTP/2 every tab has a place", async (t) => {
  pretend(t, "navigator", { locks: { request: () => assert.fail("no lock is needed") } });
  const seen = [{ name: `${URL_OF_EVENTS}?wait_s=0.25`, nextHopProtocol: "h2" }];
  t.mock.method(performance, "getEntriesByType", () => seen);
  assert.notEqual(await acquireSlot(URL_OF_EVENTS, () => {}), null);
});

test("where a browser has no locks, a visible tab has a place until it is hidden", async (t) => {
  const document = new EventTarget();
  document.visibilityState = "visible";
  pretend(t, "navigator", {});
  pretend(t, "document", document);
  const show = (state) => {
    document.visibilityState = state;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  let lost = 0;
  assert.notEqual(await acquireSlot(URL_OF_EVENTS, () => lost++), null);
  show("hidden");
  assert.equal(lost, 1);
  assert.equal(await acquireSlot(URL_OF_EVENTS, () => lost++), null);
  show("visible");
  const leave = await acquireSlot(URL_OF_EVENTS, () => lost++);
  leave();
  show("hidden");
  assert.equal(lost, 1);
});
