/**
 * The newest values of a sequence. The cost of `add` is proportional to the added values.
 *
 * Values are only ever added at the end of the array behind the window, and a shorter array replaces
 * it from time to time. So a view of the window never changes.
 */

const MAX_SLACK = 1_000; // dropped values in the array; as many as the window's size are allowed too

export class SlidingWindow {
  #log = [];
  #start = 0;

  get size() {
    return this.#log.length - this.#start;
  }

  /** @param {unknown[]} added */
  add(added) {
    for (const value of added) this.#log.push(value);
  }

  /** Drop the oldest values beyond `max`. @returns {unknown[]} the dropped values */
  trim(max) {
    return max === null || this.size <= max ? NONE : this.drop(this.size - max);
  }

  /** Drop the oldest values. @param {number} count @returns {unknown[]} the dropped values */
  drop(count) {
    const dropped = this.#log.slice(this.#start, this.#start + count);
    this.#start += count;
    if (this.#start > Math.max(MAX_SLACK, this.size)) {
      this.#log = this.#log.slice(this.#start);
      this.#start = 0;
    }
    return dropped;
  }

  /** Return an immutable view of the current values. */
  view() {
    return new WindowView(this.#log, this.#start, this.#log.length);
  }
}

/** The values of a window at one time. The array is created on first access. */
class WindowView {
  #log;
  #start;
  #end;
  #array = null;

  constructor(log, start, end) {
    this.#log = log;
    this.#start = start;
    this.#end = end;
  }

  get size() {
    return this.#end - this.#start;
  }

  /** @returns {unknown[]} always the same array */
  get array() {
    return (this.#array ??= Object.freeze(this.#log.slice(this.#start, this.#end)));
  }

  /** The newest `count` values, oldest first. */
  last(count) {
    return this.#log.slice(Math.max(this.#start, this.#end - count), this.#end);
  }
}

const NONE = Object.freeze([]);

export const EMPTY = new SlidingWindow().view();
