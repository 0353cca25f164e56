/**
 * What is known of one stream, run or set of runs, as snapshots for a user interface.
 *
 * An entry is the sink of one subscription. However many components show it, each record is folded
 * in once, and they are told at most once per window.
 */

import { Attempts, attemptFault, attemptOf, ofOthers } from "./attempts.js";
import { Timer } from "./environment.js";
import { RunFold, SetFold, StreamFold } from "./folds.js";
import { UNREACHABLE } from "./protocol.js";
import { CONNECTING, NOTHING_SEEN } from "./snapshot.js";
import { Subscription } from "./subscription.js";

const COMPLAINT_MS = 1_000; // a page that changes run and token has the new token by then
const FRAME_MS = 16; // telling more often than the screen is drawn helps nobody

/** @implements {import("./subscription.js").Sink} */
export class Entry {
  snapshot = CONNECTING;
  /** The components that show it. @type {Set<import("./store.js").User>} */
  users = new Set();
  #environment;
  #attempts;
  #changes = {};
  #pending = [];
  #fold;
  #complaint;
  /** Codes of what the console has been told. */
  #complained = new Set();
  #flushTimer;
  #flushedAt = -Infinity;
  #wasLive = false;

  /**
   * @param {ConstructorParameters<typeof Subscription>[0]} request
   * @param {import("./environment.js").Environment} environment
   * @param {number|"latest"|null} [attempt] of a stream: which one is shown
   */
  constructor(request, environment, attempt) {
    this.#environment = environment;
    /** Why it asks for nothing: a value that only the browser knows is wrong. @type {string|null} */
    this.fault = attemptFault(attempt ?? null);
    this.#attempts = new Attempts(this.fault === null ? attempt : null);
    this.#flushTimer = new Timer(environment);
    this.#complaint = new Timer(environment);
    this.subscription = new Subscription(request, this);
    const { isRun, isSet } = this.subscription;
    const Fold = isSet ? SetFold : isRun ? RunFold : StreamFold;
    this.#fold = new Fold(this.subscription);
  }

  /** Assemble parts and keep a view from now on, if that is wanted. */
  want({ parts, partsBySource, view }) {
    if (parts) this.#changeIfAny(this.#fold.wantParts());
    if (partsBySource) this.#changeIfAny(this.#fold.wantPartsBySource());
    if (view) this.#changeIfAny(this.#fold.wantView(view));
  }

  /** Give the page a way to ask for more of a set of runs. */
  offerMore(loadMore) {
    this.#change({ loadMore });
  }

  /** Stop telling anyone: the last component has left. */
  discard() {
    this.#flushTimer.stop();
    this.#complaint.stop();
  }

  subscribed(frame) {
    this.#flush(); // what came before this snapshot must not be folded into it
    this.#wasLive = true;
    this.#complaint.stop();
    this.#change({ status: "live", error: null, ...this.#fold.subscribed(frame) });
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
    this.#attempts.reset();
    this.#fold = this.#fold.emptied();
    this.#change({ ...NOTHING_SEEN, ...this.#fold.shown() });
  }

  end(reason, hint) {
    this.#change({ status: "ended", endReason: reason, hint });
    if (hint !== null) console.info(`Realtime Streams: ${hint}`);
    this.#tellHandlers("onEnd", [[reason]]);
    if (this.subscription.isRun) this.#tellHandlers("onComplete", [[this.snapshot.run]]);
  }

  error(refusal) {
    this.#refused(refusal, { status: "error" });
  }

  tokenExpiring() {
    this.#tellHandlers("onTokenExpiring", [[]]);
  }

  tokenAccepted() {
    this.#complaint.stop();
    const { error } = this.snapshot;
    if (error !== null && error.code !== UNREACHABLE) this.#change({ error: null });
  }

  /** What is shown stays, and goes on until the old token expires. */
  tokenRefused(refusal) {
    this.#refused(refusal, {});
  }

  #refused({ code, message }, changes) {
    const error = Object.freeze({ code, message });
    this.#change({ ...changes, error });
    this.#complaint.start(COMPLAINT_MS, () => this.#complainOnce(error));
    this.#tellHandlers("onError", [[error]]);
  }

  // The messages of the gateway hold no token.
  #complainOnce({ code, message }) {
    if (this.#complained.has(code)) return;
    this.#complained.add(code);
    console.warn(`Realtime Streams: ${this.subscription.name} is refused: ${message} (${code})`);
  }

  /** The status goes on to say that it is being connected. */
  unreachable(problem) {
    const error = Object.freeze({ ...problem });
    this.#change({ error });
    this.#tellHandlers("onError", [[error]]);
  }

  lost() {
    this.#change({ status: this.#wasLive ? "reconnecting" : "connecting" });
  }

  // The first change is shown at once, those that follow at the end of the window.
  #flushSoon() {
    if (this.#flushTimer.running) return;
    const windowMs = Math.max(FRAME_MS, this.subscription.throttleMs);
    const sinceMs = this.#environment.now() - this.#flushedAt;
    this.#flushTimer.start(Math.max(0, windowMs - sinceMs), () => {
      this.#flushedAt = this.#environment.now();
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
    const { wanted: records, hasBegun } = this.#attempts.choose(this.#pending);
    this.#pending = [];
    const folded = hasBegun ? this.#beginAgain(records) : this.#add(records);
    const changes = { ...folded, ...this.#changes };
    this.#changes = {};
    this.snapshot = this.snapshot.with({ ...changes, position: this.subscription.position });
    for (const user of this.users) user.notify();
    if (this.subscription.isStream) this.#tellHandlers("onRecord", records.map(handlerArguments));
  }

  #add(records) {
    return records.length > 0 ? this.#fold.add(records, this.#maxRecords()) : {};
  }

  // What an earlier attempt wrote is shown no more: not in the text, not in the parts, nowhere.
  #beginAgain(records) {
    const others = ofOthers(this.snapshot.records);
    this.#fold = this.#fold.emptied();
    return this.#add([...others, ...records]);
  }

  // The largest that anyone asks for; null is without bound.
  #maxRecords() {
    const wanted = [...this.users].map((user) => user.options.maxRecords);
    return wanted.includes(null) ? null : Math.max(0, ...wanted);
  }

  // Ten components that show the result of one Python hook carry one handler ten times: the
  // handler's key says so, and it is called once.
  #tellHandlers(name, calls) {
    if (calls.length === 0) return;
    const handlers = new Map();
    for (const { options } of this.users) {
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
