/**
 * Views of the kept records of a stream. A view is updated with the added and the dropped records, so
 * that the cost of an update does not depend on the number of kept records.
 *
 * @typedef {["where", string, unknown] | ["by_source"]} ViewSpec
 */

import { SlidingWindow } from "./sliding_window.js";

/** @param {ViewSpec} spec */
export const viewKey = (spec) => JSON.stringify(spec);

/** @param {ViewSpec} spec @param {string} runId run of the stream */
export const newView = ([kind, ...rest], runId) =>
  kind === "where" ? new WhereView(...rest) : new BySourceView(runId);

/** The values whose field has a given value. */
class WhereView {
  #window = new SlidingWindow();
  #matches;

  constructor(field, value) {
    this.#matches = ({ data }) => data?.[field] === value;
  }

  update(added, dropped) {
    this.#window.add(added.filter(this.#matches).map((record) => record.data));
    this.#window.drop(dropped.filter(this.#matches).length);
  }

  get value() {
    return this.#window.view().array;
  }
}

/** The values by the run that wrote them; "" for other clients. */
class BySourceView {
  #runId;
  #windows = new Map();
  #value = Object.freeze(Object.create(null));

  constructor(runId) {
    this.#runId = runId;
  }

  update(added, dropped) {
    const changed = new Set();
    for (const record of added) {
      const source = this.#sourceOf(record);
      if (!this.#windows.has(source)) this.#windows.set(source, new SlidingWindow());
      this.#windows.get(source).add([record.data]);
      changed.add(source);
    }
    for (const record of dropped) {
      const source = this.#sourceOf(record);
      this.#windows.get(source).drop(1);
      changed.add(source);
    }
    this.#value = this.#withChanged(changed);
  }

  #withChanged(changed) {
    const value = Object.assign(Object.create(null), this.#value);
    for (const source of changed) {
      const window = this.#windows.get(source);
      if (window.size > 0) value[source] = window.view().array;
      else {
        this.#windows.delete(source);
        delete value[source];
      }
    }
    return Object.freeze(value);
  }

  #sourceOf({ source }) {
    return source === undefined ? this.#runId : (source ?? "");
  }

  get value() {
    return this.#value;
  }
}
