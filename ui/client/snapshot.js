/** What a page shows of one subscription at one moment. Never changed once handed out. */

import { NO_PARTS, NO_SOURCES } from "./parts_assembler.js";
import { viewKey } from "./views.js";
import { EMPTY } from "./sliding_window.js";

const NONE = Object.freeze([]);

export class Snapshot {
  /** @type {"idle"|"connecting"|"live"|"reconnecting"|"ended"|"error"} */
  status = "idle";
  /** The records that are kept, and their values. */
  keptRecords = EMPTY;
  keptValues = EMPTY;
  /** The last value, or null. */
  latest = null;
  /** All strings seen, joined; also of records no longer kept. */
  text = "";
  /** How many records were seen. */
  count = 0;
  /** The run, when the subscription is to a run. @type {object|null} */
  run = null;
  /** The runs, newest first, when it is to a set of runs. @type {object[]} */
  runs = NONE;
  /** There are older ones. */
  hasMore = false;
  /** There are older ones, and this list cannot show them. */
  isFull = false;
  /** Show more runs of a set. */
  loadMore = () => {};
  /** See `parts_assembler.js`; empty unless someone asked for it. */
  parts = NO_PARTS;
  /** The same for each run that writes into the stream. @type {{source: string|null, parts: object}[]} */
  partsBySource = NO_SOURCES;
  /** By key of the view; only those that someone asked for. */
  views = new Map();
  /** @type {{from: string, to: string, reason: string}[]} */
  gaps = NONE;
  /** @type {string|null} */
  position = null;
  /** @type {string|null} */
  endReason = null;
  /** Why there is nothing, if the run has ended without such a stream. @type {string|null} */
  hint = null;
  /** @type {{code: string, message: string}|null} */
  error = null;

  /** Make the next one. @param {Partial<Snapshot>} changes */
  with(changes) {
    return Object.freeze(Object.assign(new Snapshot(), this, changes));
  }

  /** @returns {object[]} the newest records, at most `maxRecords` */
  get records() {
    return this.keptRecords.array;
  }

  /** @returns {unknown[]} their values */
  get data() {
    return this.keptValues.array;
  }

  /** How many records are no longer kept. */
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

/** What a reset takes back. */
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
