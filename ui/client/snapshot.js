/** The immutable state of one subscription that a page renders. */

import { NO_PARTS, NO_SOURCES } from "./parts_assembler.js";
import { viewKey } from "./views.js";
import { EMPTY } from "./sliding_window.js";

const NONE = Object.freeze([]);

export class Snapshot {
  /** @type {"idle"|"connecting"|"live"|"reconnecting"|"ended"|"error"} */
  status = "idle";
  /** The newest records, and their values. */
  keptRecords = EMPTY;
  keptValues = EMPTY;
  /** The last value, or null. */
  latest = null;
  /** All string values joined, including those of dropped records. */
  text = "";
  /** Number of records received. */
  count = 0;
  /** The run, for a subscription to a run. @type {object|null} */
  run = null;
  /** The runs, newest first, for a subscription to a set of runs. @type {object[]} */
  runs = NONE;
  /** The set has older runs. */
  hasMore = false;
  /** The set has older runs, and the list has reached its limit. */
  isFull = false;
  /** Load older runs of the set. */
  loadMore = () => {};
  /** See `parts_assembler.js`; empty unless an observer has enabled it. */
  parts = NO_PARTS;
  /** The parts of each run that writes to the stream. @type {{source: string|null, parts: object}[]} */
  partsBySource = NO_SOURCES;
  /** Enabled views by key. */
  views = new Map();
  /** @type {{from: string, to: string, reason: string}[]} */
  gaps = NONE;
  /** @type {string|null} */
  position = null;
  /** @type {string|null} */
  endReason = null;
  /** Why the stream is empty, if the run has ended without writing to it. @type {string|null} */
  hint = null;
  /** @type {{code: string, message: string}|null} */
  error = null;

  /** Return a copy with changes. @param {Partial<Snapshot>} changes */
  with(changes) {
    return Object.freeze(Object.assign(new Snapshot(), this, changes));
  }

  /** @returns {object[]} the newest records, at most `maxRecords` */
  get records() {
    return this.keptRecords.array;
  }

  /** @returns {unknown[]} the values of `records` */
  get data() {
    return this.keptValues.array;
  }

  /** Number of dropped records. */
  get dropped() {
    return this.count - this.keptRecords.size;
  }

  /** The newest `count` values, oldest first. */
  last(count) {
    return this.keptValues.last(count);
  }

  /** @param {import("./views.js").ViewSpec} spec */
  view(spec) {
    return this.views.get(viewKey(spec)) ?? (spec[0] === "where" ? NONE : NO_GROUPS);
  }
}

const NO_GROUPS = Object.freeze(Object.create(null));

export const IDLE = Object.freeze(new Snapshot());
export const CONNECTING = IDLE.with({ status: "connecting" });

/** The fields that a reset clears. */
export const EMPTY_CONTENT = Object.freeze({
  keptRecords: EMPTY,
  keptValues: EMPTY,
  latest: null,
  text: "",
  count: 0,
  run: null,
  parts: NO_PARTS,
  partsBySource: NO_SOURCES,
  views: new Map(),
  gaps: NONE,
  endReason: null,
  hint: null,
  error: null,
});
