import assert from "node:assert/strict";
import { test } from "node:test";

import { acquireSlot } from "../../ui/client/response_slots.js";
import { WELCOME, httpPage, settled } from "./http_page.js";
import { position, records, subscribed } from "./fakes.js";

const URL_OF_EVENTS = "http://gateway.test/v1/events";

/** Slots that tabs of a browser share at one host; `free` of them are left. */
class Slots {
  constructor(free) {
    this.free = free;
  }

  acquire = async (url, onLost) => {
    assert.equal(url, URL_OF_EVENTS);
    if (this.free === 0) return null;
    this.free--;
    this.onLost = onLost;
    return () => this.free++;
  };
}

/** A page whose WebSocket is rejected, and whose browser has `free` slots left. */
async function tab(t, free) {
  t.mock.method(console, "info", () => {});
  const slots = new Slots(free);
  const { page, component } = await httpPage({ acquireSlot: slots.acquire });
  return { page, component, slots, id: page.request.frames[1].id };
}

test("tab with a slot streams and releases it with its last subscription", async (t) => {
  const { page, component, slots, id } = await tab(t, 1);
  assert.equal(slots.free, 0);
  assert.equal(page.request.url, URL_OF_EVENTS);
  await page.send(WELCOME, subscribed(id));
  component.unmount();
  await page.pass(1_000);
  await page.pass(1_000);
  assert.equal(slots.free, 1);
});

test("tab without a slot polls from its last position and stays live", async (t) => {
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

test("polling tab acquires a released slot", async (t) => {
  const { page, slots, id } = await tab(t, 0);
  await page.send(WELCOME, subscribed(id));
  await page.close(1001);
  slots.free = 1;
  await page.pass(2_250);
  assert.deepEqual([page.request.url, slots.free], [URL_OF_EVENTS, 0]);
});

test("tab that loses its slot polls immediately", async (t) => {
  const { page, slots, id } = await tab(t, 1);
  await page.send(WELCOME, subscribed(id));
  const held = page.request;
  slots.onLost();
  await page.pass(0);
  assert.ok(held.signal.aborted);
  assert.equal(page.request.url, `${URL_OF_EVENTS}?wait_s=0.25`);
});

test("poll time doubles after an incomplete poll", async (t) => {
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

test("tab that becomes visible polls immediately", async (t) => {
  const { page, id } = await tab(t, 0);
  await page.send(WELCOME, subscribed(id));
  await page.close(1001);
  const polls = page.requests.length;
  page.wake();
  await page.pass(0);
  assert.equal(page.requests.length, polls + 1);
});

test("unanswered poll is a lost connection", async (t) => {
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

test("host has three slots; a released one is available again", async (t) => {
  pretend(t, "navigator", { locks: new Locks() });
  const take = (url = URL_OF_EVENTS) => acquireSlot(url, () => assert.fail("lost"));
  const releases = [await take(), await take(), await take()];
  assert.equal(await take(), null);
  assert.notEqual(await take("http://another.test/v1/events"), null);
  releases[1]();
  await settled();
  assert.notEqual(await take(), null);
  assert.equal(await take(), null);
});

test("tab polls when the browser denies locks", async (t) => {
  const rejecting = async () => {
    throw new Error("SecurityError");
  };
  pretend(t, "navigator", { locks: { request: rejecting } });
  assert.equal(await acquireSlot(URL_OF_EVENTS, () => {}), null);
});

test("HTTP/2 gives every tab a slot", async (t) => {
  pretend(t, "navigator", { locks: { request: () => assert.fail("no lock is needed") } });
  const seen = [{ name: `${URL_OF_EVENTS}?wait_s=0.25`, nextHopProtocol: "h2" }];
  t.mock.method(performance, "getEntriesByType", () => seen);
  assert.notEqual(await acquireSlot(URL_OF_EVENTS, () => {}), null);
});

test("visible tab has a slot when the browser has no locks", async (t) => {
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
  const release = await acquireSlot(URL_OF_EVENTS, () => lost++);
  release();
  show("hidden");
  assert.equal(lost, 1);
});
