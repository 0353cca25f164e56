/**
 * All streams of a run: one subscription to the list of streams, and one to each stream.
 */

import { IDLE } from "./snapshot.js";
import { Observer, keyOf } from "./store.js";

const LIST_STREAM = "$streams"; // PROTOCOL.md 6

/** A stream on a page. `data` is computed on access, as it may be large. */
class StreamView {
  #snapshot;

  constructor(id, snapshot) {
    this.id = id;
    this.#snapshot = snapshot;
    const { latest, text, count, status, endReason, error } = snapshot;
    Object.assign(this, { latest, text, count, status });
    this.end_reason = endReason ?? "";
    this.error = error?.message ?? "";
    Object.freeze(this);
  }

  get data() {
    return this.#snapshot.data;
  }

  isOf(snapshot) {
    return this.#snapshot === snapshot;
  }
}

// No prototype: a stream may have any name, such as `constructor`.
const NO_STREAMS = Object.freeze(Object.create(null));

export const IDLE_STREAMS = Object.freeze({ ...statusOf(IDLE), streams: NO_STREAMS });

export class RunStreams {
  #store;
  #options = {};
  #list;
  /** By stream id. @type {Map<string, {observer: Observer, leave: () => void}>} */
  #streams = new Map();
  #snapshot = IDLE_STREAMS;
  #notify = () => {};
  #isSubscribed = false;

  /** @param {import("./store.js").Store} store @param {string|null} key key of the list */
  constructor(store, key) {
    this.#store = store;
    this.#list = new Observer(store, key);
    this.#refresh();
  }

  /** Set the current options. @param {import("./store.js").Options} options */
  configure(options) {
    this.#options = options;
    this.#list.configure({ ...options, ...LIST_OPTIONS });
    for (const [id, { observer }] of this.#streams) observer.configure(this.#optionsOf(id));
  }

  /** Subscribe to the run's streams. Returns a function that unsubscribes. */
  subscribe = (notify) => {
    this.#notify = notify;
    this.#isSubscribed = true;
    const leaveList = this.#list.subscribe(() => this.#onChange());
    this.#onChange();
    return () => {
      this.#isSubscribed = false;
      leaveList();
      for (const { leave } of this.#streams.values()) leave();
      this.#streams.clear();
    };
  };

  getSnapshot = () => this.#snapshot;

  #onChange() {
    if (!this.#isSubscribed) return;
    for (const { stream } of this.#list.getSnapshot().data) this.#follow(stream);
    this.#refresh();
    this.#notify();
  }

  #follow(id) {
    if (this.#streams.has(id)) return;
    const options = this.#optionsOf(id);
    const observer = new Observer(this.#store, keyOf(options));
    observer.configure(options);
    const stream = { observer, leave: () => {} };
    this.#streams.set(id, stream); // before `subscribe`, which may notify immediately
    stream.leave = observer.subscribe(() => this.#onChange());
  }

  #optionsOf(id) {
    const { handlerKey = "" } = this.#options;
    return { ...this.#options, stream: id, handlerKey: `${handlerKey}/${id}` };
  }

  #refresh() {
    const before = this.#snapshot.streams;
    const streams = Object.create(null);
    for (const [id, { observer }] of this.#streams) {
      const snapshot = observer.getSnapshot();
      streams[id] = before[id]?.isOf(snapshot) ? before[id] : new StreamView(id, snapshot);
    }
    this.#snapshot = Object.freeze({
      ...statusOf(this.#list.getSnapshot()),
      streams: Object.freeze(streams),
    });
  }
}

const LIST_OPTIONS = {
  stream: LIST_STREAM,
  maxRecords: null,
  start: "beginning",
  attempt: null,
  onEnd: undefined,
};

/** Return the key of the list of streams. */
export const listKeyOf = (options) => keyOf({ ...options, ...LIST_OPTIONS });

function statusOf({ status, endReason, error }) {
  return { status, endReason, error };
}
