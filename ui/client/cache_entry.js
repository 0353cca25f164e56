/**
 * The state of one stream, run or set of runs, as immutable snapshots for a user interface.
 *
 * An entry is the sink of one subscription. However many components observe it, it applies each
 * record once, and notifies them at most once per throttle window.
 */

import { AttemptFilter, attemptError, attemptOf, recordsOfOthers } from "./attempt_filter.js";
import { Timer } from "./platform.js";
import { RunReducer, RunSetReducer, StreamReducer } from "./reducers.js";
import { UNREACHABLE } from "./protocol.js";
import { CONNECTING, EMPTY_CONTENT } from "./snapshot.js";
import { Subscription } from "./subscription.js";

// A page that changes run and token may render the new run with the old token first. Within this
// time the new token arrives, and no warning is logged.
const WARNING_DELAY_MS = 1_000;
const FRAME_MS = 16; // one frame of the screen: more frequent updates would not be visible

/** @implements {import("./subscription.js").Sink} */
export class CacheEntry {
  snapshot = CONNECTING;
  /** @type {Set<import("./store.js").Observer>} */
  observers = new Set();
  #platform;
  #attemptFilter;
  #changes = {};
  #pending = [];
  #reducer;
  #warningTimer;
  /** Codes of the errors that were logged to the console. */
  #warnedCodes = new Set();
  #flushTimer;
  #flushedAt = -Infinity;
  /** Number of records that the snapshot keeps. @type {number|null} */
  #recordLimit = 0;
  #wasLive = false;

  /**
   * @param {ConstructorParameters<typeof Subscription>[0]} request
   * @param {import("./platform.js").Platform} platform
   * @param {number|"latest"|null} [attempt] the attempt that a stream shows
   */
  constructor(request, platform, attempt) {
    this.#platform = platform;
    /** Why it does not subscribe: an option's value is wrong. @type {string|null} */
    this.optionError = attemptError(attempt ?? null);
    this.#attemptFilter = new AttemptFilter(this.optionError === null ? attempt : null);
    this.#flushTimer = new Timer(platform);
    this.#warningTimer = new Timer(platform);
    this.subscription = new Subscription(request, this);
    const { isRun, isSet } = this.subscription;
    const Reducer = isSet ? RunSetReducer : isRun ? RunReducer : StreamReducer;
    this.#reducer = new Reducer(this.subscription);
  }

  /** Start to assemble parts or to maintain a view, if the options ask for it. */
  enable({ parts, partsBySource, view }) {
    if (parts) this.#changeIfAny(this.#reducer.enableParts());
    if (partsBySource) this.#changeIfAny(this.#reducer.enablePartsBySource());
    if (view) this.#changeIfAny(this.#reducer.enableView(view));
  }

  /** Set the function that loads more runs of a set. */
  setLoadMore(loadMore) {
    this.#change({ loadMore });
  }

  /** Stop the timers: the last observer has left. */
  discard() {
    this.#flushTimer.stop();
    this.#warningTimer.stop();
  }

  subscribed(frame) {
    this.#flush(); // pending records precede the snapshot of this frame
    this.#wasLive = true;
    this.#warningTimer.stop();
    this.#change({ status: "live", error: null, ...this.#reducer.subscribed(frame) });
  }

  records(records) {
    for (const record of records) this.#pending.push(record);
    this.#flushSoon();
  }

  gap(gap) {
    this.#change({ gaps: [...this.snapshot.gaps, gap] });
  }

  reset() {
    this.#flush(); // handlers receive the records before the reset
    this.#attemptFilter.reset();
    this.#reducer = this.#reducer.emptyCopy();
    this.#change({ ...EMPTY_CONTENT, ...this.#reducer.content() });
  }

  end(reason, hint) {
    this.#change({ status: "ended", endReason: reason, hint });
    if (hint !== null) console.info(`Realtime Streams: ${hint}`);
    this.#notifyHandlers("onEnd", [[reason]]);
    if (this.subscription.isRun) this.#notifyHandlers("onComplete", [[this.snapshot.run]]);
  }

  error(rejection) {
    this.#recordError(rejection, { status: "error" });
  }

  tokenExpiring() {
    this.#notifyHandlers("onTokenExpiring", [[]]);
  }

  tokenAccepted() {
    this.#warningTimer.stop();
    const { error } = this.snapshot;
    if (error !== null && error.code !== UNREACHABLE) this.#change({ error: null });
  }

  /** The subscription continues until the old token expires. */
  tokenRejected(rejection) {
    this.#recordError(rejection, {});
  }

  #recordError({ code, message }, changes) {
    const error = Object.freeze({ code, message });
    this.#change({ ...changes, error });
    this.#warningTimer.start(WARNING_DELAY_MS, () => this.#warnOnce(error));
    this.#notifyHandlers("onError", [[error]]);
  }

  // The gateway's messages contain no token.
  #warnOnce({ code, message }) {
    if (this.#warnedCodes.has(code)) return;
    this.#warnedCodes.add(code);
    console.warn(`Realtime Streams: ${this.subscription.name} is refused: ${message} (${code})`);
  }

  /** The status stays `connecting`: the connection keeps retrying. */
  unreachable(problem) {
    const error = Object.freeze({ ...problem });
    this.#change({ error });
    this.#notifyHandlers("onError", [[error]]);
  }

  disconnected() {
    this.#change({ status: this.#wasLive ? "reconnecting" : "connecting" });
  }

  // The first change of a window is shown immediately, the others at the end of the window.
  #flushSoon() {
    if (this.#flushTimer.running) return;
    const windowMs = Math.max(FRAME_MS, this.subscription.throttleMs);
    const sinceMs = this.#platform.now() - this.#flushedAt;
    this.#flushTimer.start(Math.max(0, windowMs - sinceMs), () => {
      this.#flushedAt = this.#platform.now();
      this.#flush();
    });
  }

  #changeIfAny(changes) {
    if (Object.keys(changes).length > 0) this.#change(changes);
  }

  #change(changes) {
    Object.assign(this.#changes, changes);
    this.#flush();
  }

  #flush() {
    this.#flushTimer.stop();
    const { shown: records, hasNewAttempt } = this.#attemptFilter.filter(this.#pending);
    this.#pending = [];
    const content = hasNewAttempt ? this.#rebuild(records) : this.#add(records);
    const changes = { ...content, ...this.#changes };
    this.#changes = {};
    this.snapshot = this.snapshot.with({ ...changes, position: this.subscription.position });
    for (const observer of this.observers) observer.notify();
    if (this.subscription.isStream) this.#notifyHandlers("onRecord", records.map(handlerArguments));
  }

  #add(records) {
    return records.length > 0 ? this.#reducer.add(records, this.#maxRecords()) : {};
  }

  // Removes the records of earlier attempts from the data, the text, the parts and the views.
  #rebuild(records) {
    const others = recordsOfOthers(this.snapshot.records);
    this.#reducer = this.#reducer.emptyCopy();
    return this.#add([...others, ...records]);
  }

  // The largest of all observers; null is unbounded. Without observers the last limit stays valid:
  // an observer may return, and an ended stream sends nothing again.
  #maxRecords() {
    if (this.observers.size > 0) {
      const limits = [...this.observers].map((observer) => observer.options.maxRecords);
      this.#recordLimit = limits.includes(null) ? null : Math.max(0, ...limits);
    }
    return this.#recordLimit;
  }

  // Ten components that use the result of one Python hook register its handler ten times, under
  // one key. It is called once.
  #notifyHandlers(name, calls) {
    if (calls.length === 0) return;
    const handlers = new Map();
    for (const { options } of this.observers) {
      if (options[name]) handlers.set(options.handlerKey, options[name]);
    }
    for (const handler of handlers.values()) {
      for (const call of calls) callSafely(handler, call);
    }
  }
}

const handlerArguments = (record) => {
  const { data, offset, time_ms, source = null } = record;
  return [data, { offset, time_ms, source, attempt: attemptOf(record) }];
};

// A handler that throws must not stop the other handlers or the next record.
function callSafely(handler, call) {
  try {
    handler(...call);
  } catch (error) {
    console.error(error);
  }
}
