/**
 * Reduce records to the content of a snapshot: of a stream, a run, a set of runs. `add` returns the
 * changed fields of the snapshot; its cost is proportional to the new records.
 */

import { toRunModel } from "./run_model.js";
import { PartsAssembler, SourcesAssembler } from "./parts_assembler.js";
import { MAX_LIMIT, applyChange } from "./protocol.js";
import { newView, viewKey } from "./views.js";
import { SlidingWindow } from "./sliding_window.js";

export class StreamReducer {
  #runId;
  #records = new SlidingWindow();
  #values = new SlidingWindow();
  #count = 0;
  #text = "";
  #latest = null;
  #assembler = null;
  #sourcesAssembler = null;
  #views = new Map();

  constructor({ run }) {
    this.#runId = run;
  }

  /** Start to assemble parts, from the oldest kept value. */
  enableParts() {
    if (this.#assembler !== null) return {};
    this.#assembler = new PartsAssembler();
    this.#assembler.add(this.#values.view().array);
    return { parts: this.#assembler.value };
  }

  /** Start to assemble parts for each run that writes to the stream. */
  enablePartsBySource() {
    if (this.#sourcesAssembler !== null) return {};
    this.#sourcesAssembler = new SourcesAssembler(this.#runId);
    this.#sourcesAssembler.add(this.#records.view().array);
    return { partsBySource: this.#sourcesAssembler.value };
  }

  /** Start to maintain a view, from the oldest kept record. */
  enableView(spec) {
    const key = viewKey(spec);
    if (this.#views.has(key)) return {};
    const view = newView(spec, this.#runId);
    this.#views.set(key, view);
    view.update(this.#records.view().array, []);
    return { views: this.#viewValues() };
  }

  /** Return an empty reducer with the same views and parts enabled. */
  emptyCopy() {
    const reducer = new StreamReducer({ run: this.#runId });
    if (this.#assembler !== null) reducer.enableParts();
    if (this.#sourcesAssembler !== null) reducer.enablePartsBySource();
    for (const key of this.#views.keys()) reducer.enableView(JSON.parse(key));
    return reducer;
  }

  subscribed() {
    return {};
  }

  add(records, max) {
    const values = records.map((record) => record.data);
    this.#records.add(records);
    this.#values.add(values);
    const dropped = this.#records.trim(max);
    this.#values.trim(max);
    this.#count += records.length;
    this.#latest = values.at(-1);
    this.#text += values.filter((value) => typeof value === "string").join("");
    this.#assembler?.add(values);
    this.#sourcesAssembler?.add(records);
    for (const view of this.#views.values()) view.update(records, dropped);
    return this.content();
  }

  content() {
    return {
      keptRecords: this.#records.view(),
      keptValues: this.#values.view(),
      count: this.#count,
      latest: this.#latest,
      text: this.#text,
      ...(this.#assembler && { parts: this.#assembler.value }),
      ...(this.#sourcesAssembler && { partsBySource: this.#sourcesAssembler.value }),
      ...(this.#views.size > 0 && { views: this.#viewValues() }),
    };
  }

  #viewValues() {
    return new Map([...this.#views].map(([key, view]) => [key, view.value]));
  }
}

export class RunReducer {
  #run = null;

  subscribed({ run }) {
    if (!run) return {};
    this.#run = run;
    return { run: toRunModel(run) };
  }

  add(records) {
    this.#run = records.reduce((run, { data }) => applyChange(run, data), this.#run);
    return { run: toRunModel(this.#run) };
  }
}

/** The newest runs of a set, up to the limit. Source: PROTOCOL.md 6. */
export class RunSetReducer {
  #tags;
  #request;
  #runs = new Map();
  #order = []; // ids, newest first
  #hasMore = false;
  #isFull = false;

  /** @param {{runs: object, limit: number}} request its limit may grow */
  constructor(request) {
    this.#request = request;
    const { tag, tags = tag === undefined ? null : [tag] } = request.runs;
    this.#tags = tags;
  }

  subscribed({ runs, has_more: hasMore }) {
    this.#runs = new Map(runs.map((run) => [run.id, { raw: run, version: -1, run: toRunModel(run) }]));
    this.#order = runs.map((run) => run.id);
    this.#hasMore = hasMore;
    // Full: the limit is at its maximum, or one frame has no room for a longer list.
    const { limit } = this.#request;
    this.#isFull = limit >= MAX_LIMIT || (hasMore && runs.length < limit);
    return this.#content();
  }

  add(records) {
    for (const { data } of records) this.#apply(data);
    return this.#content();
  }

  // A set of several tags receives a change once for each tag. Its version detects the repeats.
  #apply({ id, version, run, patch, deleted }) {
    const known = this.#runs.get(id);
    if (known ? version <= known.version : !run) return;
    if (deleted) return this.#remove(id);
    const raw = run ?? applyChange(known.raw, patch);
    if (!this.#isMember(raw)) this.#remove(id);
    else if (known || this.#insert(id)) this.#runs.set(id, { raw, version, run: toRunModel(raw) });
  }

  // A run's tags may change; its batch and its parent never do.
  #isMember(run) {
    return this.#tags === null || run.tags.some((tag) => this.#tags.includes(tag));
  }

  #remove(id) {
    if (this.#runs.delete(id)) this.#order = this.#order.filter((other) => other !== id);
  }

  // Ids sort by creation time, so a new run is nearly always the first.
  #insert(id) {
    const found = this.#order.findIndex((other) => other < id);
    const index = found === -1 ? this.#order.length : found;
    if (found === -1 && this.#hasMore) return false; // older than the whole list
    this.#order.splice(index, 0, id);
    if (this.#order.length <= this.#request.limit) return true;
    const oldest = this.#order.pop();
    this.#runs.delete(oldest);
    this.#hasMore = true;
    return oldest !== id;
  }

  #content() {
    const runs = this.#order.map((id) => this.#runs.get(id).run);
    const hasMore = this.#hasMore;
    return { runs: Object.freeze(runs), hasMore, isFull: hasMore && this.#isFull };
  }
}
