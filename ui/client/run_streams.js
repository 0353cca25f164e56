/**
 * All streams of a run, as they appear: a subscription to the list of them, and one to each.
 */

import { IDLE } from "./snapshot.js";
import { User, keyOf } from "./store.js";

const LIST = "$streams"; // PROTOCOL.md 6

/** A stream as a page shows it; what is large is made when it is asked for. */
class ShownStream {
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

// Without a prototype, so that a stream may have any name.
const NO_STREAMS = Object.freeze(Object.create(null));

export const NO_RUN = Object.freeze({ ...shown(IDLE), streams: NO_STREAMS });

export class RunStreams {
  #store;
  #options = {};
  #list;
  /** By stream id. @type {Map<string, {user: User, leave: () => void}>} */
  #streams = new Map();
  #snapshot = NO_RUN;
  #notify = () => {};
  #isJoined = false;

  /** @param {import("./store.js").Store} store @param {string|null} key of the list */
  constructor(store, key) {
    this.#store = store;
    this.#list = new User(store, key);
    this.#refresh();
  }

  /** Take the options as they are now. @param {import("./store.js").Options} options */
  configure(options) {
    this.#options = options;
    this.#list.configure({ ...options, ...OF_LIST });
    for (const [id, { user }] of this.#streams) user.configure(this.#optionsOf(id));
  }

  /** Join the run's streams; call the result to leave them. */
  subscribe = (notify) => {
    this.#notify = notify;
    this.#isJoined = true;
    const leaveList = this.#list.subscribe(() => this.#changed());
    this.#changed();
    return () => {
      this.#isJoined = false;
      leaveList();
      for (const { leave } of this.#streams.values()) leave();
      this.#streams.clear();
    };
  };

  getSnapshot = () => this.#snapshot;

  #changed() {
    if (!this.#isJoined) return;
    for (const { stream } of this.#list.getSnapshot().data) this.#join(stream);
    this.#refresh();
    this.#notify();
  }

  #join(id) {
    if (this.#streams.has(id)) return;
    const options = this.#optionsOf(id);
    const user = new User(this.#store, keyOf(options));
    user.configure(options);
    const stream = { user, leave: () => {} };
    this.#streams.set(id, stream); // before it tells of what is known already
    stream.leave = user.subscribe(() => this.#changed());
  }

  #optionsOf(id) {
    const { handlerKey = "" } = this.#options;
    return { ...this.#options, stream: id, handlerKey: `${handlerKey}/${id}` };
  }

  #refresh() {
    const before = this.#snapshot.streams;
    const streams = Object.create(null);
    for (const [id, { user }] of this.#streams) {
      const snapshot = user.getSnapshot();
      streams[id] = before[id]?.isOf(snapshot) ? before[id] : new ShownStream(id, snapshot);
    }
    this.#snapshot = Object.freeze({
      ...shown(this.#list.getSnapshot()),
      streams: Object.freeze(streams),
    });
  }
}

const OF_LIST = { stream: LIST, maxRecords: null, start: "beginning", attempt: null, onEnd: undefined };

/** The key of what a component asks for. */
export const listKeyOf = (options) => keyOf({ ...options, ...OF_LIST });

function shown({ status, endReason, error }) {
  return { status, endReason, error };
}
