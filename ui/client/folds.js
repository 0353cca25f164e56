/**
 * How what comes becomes what is shown: a stream, a run, a set of runs. Each `add` costs in
 * proportion to what comes, and gives what changed of the snapshot.
 */

import { pageRun } from "./page_run.js";
import { PartsAssembler, SourcesAssembler } from "./parts.js";
import { MAX_LIMIT, foldChange } from "./protocol.js";
import { newView, viewKey } from "./views.js";
import { Window } from "./window.js";

export class StreamFold {
  #runId;
  #records = new Window();
  #values = new Window();
  #count = 0;
  #text = "";
  #latest = null;
  #assembler = null;
  #sourcesAssembler = null;
  #views = new Map();

  constructor({ run }) {
    this.#runId = run;
  }

  /** Assemble parts from now on, beginning with the values that are kept. */
  wantParts() {
    if (this.#assembler !== null) return {};
    this.#assembler = new PartsAssembler();
    this.#assembler.add(this.#values.view().array);
    return { parts: this.#assembler.value };
  }

  /** The same, for each run that writes into the stream. */
  wantPartsBySource() {
    if (this.#sourcesAssembler !== null) return {};
    this.#sourcesAssembler = new SourcesAssembler(this.#runId);
    this.#sourcesAssembler.add(this.#records.view().array);
    return { partsBySource: this.#sourcesAssembler.value };
  }

  /** Keep a view from now on, beginning with the records that are kept. */
  wantView(spec) {
    const key = viewKey(spec);
    if (this.#views.has(key)) return {};
    const view = newView(spec, this.#runId);
    this.#views.set(key, view);
    view.update(this.#records.view().array, []);
    return { views: this.#viewValues() };
  }

  /** The same views and parts of nothing. */
  emptied() {
    const fold = new StreamFold({ run: this.#runId });
    if (this.#assembler !== null) fold.wantParts();
    if (this.#sourcesAssembler !== null) fold.wantPartsBySource();
    for (const key of this.#views.keys()) fold.wantView(JSON.parse(key));
    return fold;
  }

  subscribed() {
    return {};
  }

  add(records, max) {
    const values = records.map((record) => record.data);
    this.#records.add(records);
    this.#values.add(values);
    const dropped = this.#records.keep(max);
    this.#values.keep(max);
    this.#count += records.length;
    this.#latest = values.at(-1);
    this.#text += values.filter((value) => typeof value === "string").join("");
    this.#assembler?.add(values);
    this.#sourcesAssembler?.add(records);
    for (const view of this.#views.values()) view.update(records, dropped);
    return this.shown();
  }

  shown() {
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

export class RunFold {
  #run = null;

  subscribed({ run }) {
    if (!run) return {};
    this.#run = run;
    return { run: pageRun(run) };
  }

  add(records) {
    this.#run = records.reduce((run, { data }) => foldChange(run, data), this.#run);
    return { run: pageRun(this.#run) };
  }
}

/** The newest runs of a set. Source: PROTOCOL.md 6. */
export class SetFold {
  #tags;
  #request;
  #held = new Map();
  #order = []; // ids, newest first
  #hasMore = false;
  #isFull = false;

  /** @param {{runs: object, limit: number}} request whose limit may grow */
  constructor(request) {
    this.#request = request;
    const { tag, tags = tag === undefined ? null : [tag] } = request.runs;
    this.#tags = tags;
  }

  subscribed({ runs, has_more: hasMore }) {
    this.#held = new Map(runs.map((run) => [run.id, { raw: run, version: -1, run: pageRun(run) }]));
    this.#order = runs.map((run) => run.id);
    this.#hasMore = hasMore;
    // A longer list cannot be asked for, or would not come: these are as many as one frame carries.
    const { limit } = this.#request;
    this.#isFull = limit >= MAX_LIMIT || (hasMore && runs.length < limit);
    return this.#shown();
  }

  add(records) {
    for (const { data } of records) this.#take(data);
    return this.#shown();
  }

  // With several tags a change comes once for each: its version says which were seen.
  #take({ id, version, run, patch, deleted }) {
    const held = this.#held.get(id);
    if (held ? version <= held.version : !run) return;
    if (deleted) return this.#remove(id);
    const raw = run ?? foldChange(held.raw, patch);
    if (!this.#isMember(raw)) this.#remove(id);
    else if (held || this.#insert(id)) this.#held.set(id, { raw, version, run: pageRun(raw) });
  }

  // A batch and a parent stay what they are; tags change.
  #isMember(run) {
    return this.#tags === null || run.tags.some((tag) => this.#tags.includes(tag));
  }

  #remove(id) {
    if (this.#held.delete(id)) this.#order = this.#order.filter((other) => other !== id);
  }

  // Ids sort by time of creation, so a new run's place is nearly always the first.
  #insert(id) {
    const found = this.#order.findIndex((other) => other < id);
    const place = found === -1 ? this.#order.length : found;
    if (found === -1 && this.#hasMore) return false; // older than all that is shown
    this.#order.splice(place, 0, id);
    if (this.#order.length <= this.#request.limit) return true;
    const oldest = this.#order.pop();
    this.#held.delete(oldest);
    this.#hasMore = true;
    return oldest !== id;
  }

  #shown() {
    const runs = this.#order.map((id) => this.#held.get(id).run);
    const hasMore = this.#hasMore;
    return { runs: Object.freeze(runs), hasMore, isFull: hasMore && this.#isFull };
  }
}
