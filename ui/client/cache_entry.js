/**
 * What is known of one stream, run or set of runs, as snapshots for a user interface.
 *
 * An entry is the sink of one subscription. However many components show it, each record is folded
 * in once, and they are told at most once per window.
 */

import { AttemptFilter, attemptError, attemptOf, recordsOfOthers } from "./attempt_filter.js";
import { Timer } from "./platform.js";
import { RunReducer, RunSetReducer, StreamReducer } from "./reducers.js";
import { UNREACHABLE } from "./protocol.js";
import { CONNECTING, EMPTY_CONTENT } from "./snapshot.js";
import { Subscription } from "./subscription.js";

const WARNING_DELAY_MS = 1_000; // a page that changes run and token has the new token by then
const FRAME_MS = 16; // telling more often than the screen is drawn helps nobody

/** @implements {import("./subscription.js").Sink} */
export class CacheEntry {
  snapshot = CONNECTING;
  /** The components that show it. @type {Set<import("./store.js").Observer>} */
  observers = new Set();
  #platform;
  #attemptFilter;
  #changes = {};
  #pending = [];
  #reducer;
  #warningTimer;
  /** Codes of what the console has been told. */
  #warnedCodes = new Set();
  #flushTimer;
  #flushedAt = -Infinity;
  /** How many records the snapshot keeps. @type {number|null} */
  #recordBound = 0;
  #wasLive = false;

  /**
   * @param {ConstructorParameters<typeof Subscription>[0]} request
   * @param {import("./platform.js").Platform} platform
   * @param {number|"latest"|null} [attempt] of a stream: which one is shown
   */
  constructor(request, platform, attempt) {
    this.#platform = platform;
    /** Why it asks for nothing: a value that only the browser knows is wrong. @type {string|null} */
    this.optionError = attemptError(attempt ?? null);
    this.#attemptFilter = new AttemptFilter(this.optionError === null ? attempt : null);
    this.#flushTimer = new Timer(platform);
    this.#warningTimer = new Timer(platform);
    this.subscription = new Subscription(request, this);
    const { isRun, isSet } = this.subscription;
    const Reducer = isSet ? RunSetReducer : isRun ? RunReducer : StreamReducer;
    this.#reducer = new Reducer(this.subscription);
  }

  /** Assemble parts and keep a view from now on, if that is wanted. */
  enable({ parts, partsBySource, view }) {
    if (parts) this.#changeIfAny(this.#reducer.enableParts());
    if (partsBySource) this.#changeIfAny(this.#reducer.enablePartsBySource());
    if (view) this.#changeIfAny(this.#reducer.enableView(view));
  }

  /** Give the page a way to ask for more of a set of runs. */
  setLoadMore(loadMore) {
    this.#change({ loadMore });
  }

  /** Stop telling anyone: the last component has left. */
  discard() {
    this.#flushTimer.stop();
    this.#warningTimer.stop();
  }

  subscribed(frame) {
    this.#flush(); // what came before this snapshot must not be folded into it
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
    this.#flush(); // handlers hear of what came before
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

  error(refusal) {
    this.#recordError(refusal, { status: "error" });
  }

  tokenExpiring() {
    this.#notifyHandlers("onTokenExpiring", [[]]);
  }

  tokenAccepted() {
    this.#warningTimer.stop();
    const { error } = this.snapshot;
    if (error !== null && error.code !== UNREACHABLE) this.#change({ error: null });
  }

  /** What is shown stays, and goes on until the old token expires. */
  tokenRejected(refusal) {
    this.#recordError(refusal, {});
  }

  #recordError({ code, message }, changes) {
    const error = Object.freeze({ code, message });
    this.#change({ ...changes, error });
    this.#warningTimer.start(WARNING_DELAY_MS, () => this.#warnOnce(error));
    this.#notifyHandlers("onError", [[error]]);
  }

  // The messages of the gateway hold no token.
  #warnOnce({ code, message }) {
    if (this.#warnedCodes.has(code)) return;
    this.#warnedCodes.add(code);
    console.warn(`Realtime Streams: ${this.subscription.name} is refused: ${message} (${code})`);
  }

  /** The status goes on to say that it is being connected. */
  unreachable(problem) {
    const error = Object.freeze({ ...problem });
    this.#change({ error });
    this.#notifyHandlers("onError", [[error]]);
  }

  disconnected() {
    this.#change({ status: this.#wasLive ? "reconnecting" : "connecting" });
  }

  // The first change is shown at once, those that follow at the end of the window.
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
    const { wanted: records, hasBegun } = this.#attemptFilter.filter(this.#pending);
    this.#pending = [];
    const folded = hasBegun ? this.#rebuild(records) : this.#add(records);
    const changes = { ...folded, ...this.#changes };
    this.#changes = {};
    this.snapshot = this.snapshot.with({ ...changes, position: this.subscription.position });
    for (const observer of this.observers) observer.notify();
    if (this.subscription.isStream) this.#notifyHandlers("onRecord", records.map(handlerArguments));
  }

  #add(records) {
    return records.length > 0 ? this.#reducer.add(records, this.#maxRecords()) : {};
  }

  // What an earlier attempt wrote is shown no more: not in the text, not in the parts, nowhere.
  #rebuild(records) {
    const others = recordsOfOthers(this.snapshot.records);
    this.#reducer = this.#reducer.emptyCopy();
    return this.#add([...others, ...records]);
  }

  // The largest that an observer asks for; null is without bound. An entry without observers keeps
  // the bound of those that left: one of them may return, and an ended stream sends nothing again.
  #maxRecords() {
    if (this.observers.size > 0) {
      const wanted = [...this.observers].map((observer) => observer.options.maxRecords);
      this.#recordBound = wanted.includes(null) ? null : Math.max(0, ...wanted);
    }
    return this.#recordBound;
  }

  // Ten components that show the result of one Python hook carry one handler ten times: the
  // handler's key says so, and it is called once.
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

// One handler that throws must not keep the others, or the next record, from being told.
function callSafely(handler, call) {
  try {
    handler(...call);
  } catch (error) {
    console.error(error);
  }
}
