/**
 * The newest of all that was added, at a cost in proportion to what is added.
 *
 * The array behind it only ever grows at its end, until it is replaced by a shorter one; so what
 * was handed out of it never changes.
 */

const MAX_SLACK = 1_000; // that many dropped ones, or as many as are kept, may lie before the first

export class SlidingWindow {
  #log = [];
  #start = 0;

  get size() {
    return this.#log.length - this.#start;
  }

  /** @param {unknown[]} added */
  add(added) {
    for (const one of added) this.#log.push(one);
  }

  /** Let the oldest go until `max` are left. @returns {unknown[]} those that went */
  trim(max) {
    return max === null || this.size <= max ? NONE : this.drop(this.size - max);
  }

  /** Let the oldest go. @param {number} count @returns {unknown[]} those that went */
  drop(count) {
    const gone = this.#log.slice(this.#start, this.#start + count);
    this.#start += count;
    if (this.#start > Math.max(MAX_SLACK, this.size)) {
      this.#log = this.#log.slice(this.#start);
      this.#start = 0;
    }
    return gone;
  }

  /** What is in it now, for good. */
  view() {
    return new WindowView(this.#log, this.#start, this.#log.length);
  }
}

/** What a window held at one time; an array is made of it only when somebody asks. */
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

  /** @returns {unknown[]} the same array at every call */
  get array() {
    return (this.#array ??= Object.freeze(this.#log.slice(this.#start, this.#end)));
  }

  /** The newest `count`, oldest first. */
  last(count) {
    return this.#log.slice(Math.max(this.#start, this.#end - count), this.#end);
  }
}

const NONE = Object.freeze([]);

export const EMPTY = new SlidingWindow().view();
