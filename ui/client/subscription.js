/**
 * A cursor on one stream, run or set of runs: its position, and the frame that subscribes from there.
 *
 * It does no I/O; `connection.js` sends and receives its frames.
 */

import { DEFAULT_LIMIT, ORIGIN, subscribeFrame, tokenFrame } from "./protocol.js";

/**
 * Receives the events of a subscription.
 *
 * @typedef {object} Sink
 * @property {(frame: {run?: object, runs?: object[], has_more?: boolean}) => void} subscribed the
 *   current run or runs
 * @property {(records: object[]) => void} records each record once, in order
 * @property {(gap: {from: string, to: string, reason: string}) => void} gap
 * @property {(reason: string) => void} reset all earlier records are void
 * @property {(reason: string, hint: string|null) => void} end `hint`: why the stream is empty, if it
 *   was never written
 * @property {(error: {code: string, message: string}) => void} error
 * @property {() => void} tokenExpiring the token will expire soon
 * @property {() => void} tokenAccepted the gateway has accepted a new token
 * @property {(error: {code: string, message: string}) => void} tokenRejected the old token
 *   stays valid
 * @property {() => void} disconnected the connection is lost; the subscription will resume
 * @property {(error: {code: string, message: string}) => void} unreachable no gateway has answered at
 *   this address yet; the connection keeps retrying
 */

const DEFAULTS = {
  run: null,
  stream: null,
  runs: null,
  limit: DEFAULT_LIMIT,
  skip: [],
  start: "beginning",
  throttleMs: 0,
  token: null,
};

export class Subscription {
  /** Id on the connection; the same after a reconnect. @type {number|null} */
  id = null;
  /** The position to resume from. @type {string|null} */
  position = null;
  /** The final state; null while the subscription is open. @type {"ended"|"failed"|null} */
  outcome = null;
  /** Consecutive failures, for the backoff. */
  attempt = 0;
  #nextOffset = null;
  #acceptedToken = null;
  /** Tokens sent without an answer. The gateway answers them in order. */
  #pendingTokens = [];

  /**
   * @param {{run?: string|null, stream?: string|null, runs?: object|null, limit?: number,
   *   skip?: string[], start?: import("./protocol.js").Start, throttleMs?: number,
   *   token?: string|null}} request
   * @param {Sink} sink
   */
  constructor(request, sink) {
    const given = Object.entries(request).filter(([, value]) => value !== undefined);
    Object.assign(this, DEFAULTS, Object.fromEntries(given), { sink });
  }

  get isSet() {
    return this.runs !== null;
  }

  get isRun() {
    return this.stream === null && !this.isSet;
  }

  get isStream() {
    return this.stream !== null;
  }

  /** Name for messages. */
  get name() {
    if (this.isSet) return `runs ${JSON.stringify(this.runs)}`;
    return this.isRun ? `run ${this.run}` : `stream ${this.run}/${this.stream}`;
  }

  get isOver() {
    return this.outcome !== null;
  }

  /** Start under a new id, as a new subscription of the gateway. */
  begin(id) {
    this.id = id;
    this.outcome = null;
    this.#resetTokens(this.token);
  }

  #resetTokens(token) {
    this.#acceptedToken = token;
    this.#pendingTokens = [];
  }

  /** Return the frame that subscribes, or resumes from the current position. */
  frame() {
    this.#resetTokens(this.token);
    const { id, run, stream, runs, limit, skip, throttleMs, token } = this;
    const start = this.#currentStart();
    return subscribeFrame({ id, run, stream, runs, limit, skip, start, throttleMs, token });
  }

  /** Return the frame that replaces the token in place. */
  tokenFrame() {
    this.#pendingTokens.push(this.token);
    return tokenFrame(this.id, this.token);
  }

  /**
   * Handle the rejection of a new token.
   *
   * @returns {"ok"|"resubscribe"} `resubscribe`: subscribe again immediately, with the newest token
   */
  rejectToken({ code, message }) {
    this.#pendingTokens.shift();
    if (this.#pendingTokens.length > 0) return "ok"; // a newer token is not answered yet
    // The token has another subject. A new subscription checks whether that subject may read.
    if (code === "forbidden") return "resubscribe";
    this.token = this.#acceptedToken;
    this.sink.tokenRejected({ code, message });
    return "ok";
  }

  #acceptToken() {
    this.#acceptedToken = this.#pendingTokens.shift();
    this.sink.tokenAccepted();
  }

  // Runs need no position: `subscribed` contains the current snapshot.
  #currentStart() {
    if (!this.isStream) return "beginning";
    return this.position === null ? this.start : { position: this.position };
  }

  /**
   * Handle a frame with this subscription's id.
   *
   * @returns {"ok"|"record_missing"|"retry_later"|"resubscribe"} `record_missing`: the frame was
   *   ignored, as a record before it is missing, and the socket has to be closed; `retry_later`:
   *   subscribe again after a delay; `resubscribe`: subscribe again immediately
   */
  receive(frame) {
    return this.#handle(frame) ?? "ok";
  }

  #handle(frame) {
    switch (frame.type) {
      case "subscribed":
        return this.#subscribed(frame);
      case "records":
        return this.#records(frame);
      case "gap":
        return this.#gap(frame);
      case "reset":
        return this.#reset(frame);
      case "end":
        return this.#end(frame);
      case "token_expiring":
        return this.sink.tokenExpiring();
      case "token_accepted":
        return this.#acceptToken();
      case "error":
        return this.#error(frame);
    }
  }

  /**
   * Handle a rejection. It is final, unless it concerns a token that has been replaced since.
   *
   * @returns {"ok"|"resubscribe"} `resubscribe`: subscribe again immediately, with the newest token
   */
  fail({ code, message }) {
    this.outcome = "failed";
    if (this.#pendingTokens.length > 0 || this.token !== this.#acceptedToken) return "resubscribe";
    this.sink.error({ code, message });
    return "ok";
  }

  #subscribed(frame) {
    this.attempt = 0;
    this.position = frame.position ?? null;
    if (!this.isStream) this.#nextOffset = null;
    this.sink.subscribed(frame);
  }

  #records({ records, position }) {
    if (this.isSet) return this.sink.records(records); // records of several logs, without one position
    const fresh = this.#newRecords(records);
    if (fresh === null) return "record_missing";
    this.position = position;
    if (fresh.length > 0) this.sink.records(fresh);
  }

  // Returns null if a record is missing. After a start or a gap any offset is accepted: positions
  // are opaque, so that the first offset cannot be predicted.
  #newRecords(records) {
    let next = this.#nextOffset;
    const fresh = [];
    for (const record of records) {
      if (next !== null && record.offset < next) continue;
      if (next !== null && record.offset > next) return null;
      fresh.push(record);
      next = record.offset + 1;
    }
    this.#nextOffset = next;
    return fresh;
  }

  // A run with missing patches would have a state that never existed. A new snapshot is needed.
  #gap({ from, to, reason }) {
    if (this.isRun) return "retry_later";
    this.position = to;
    this.#nextOffset = null;
    this.sink.gap({ from, to, reason });
  }

  #reset({ position, reason, ...snapshot }) {
    if (this.isSet) return this.sink.subscribed(snapshot);
    if (this.isRun) return "retry_later";
    this.position = position;
    this.#nextOffset = null;
    this.sink.reset(reason);
  }

  #end({ reason, position }) {
    this.outcome = "ended";
    this.position = position ?? this.position;
    const isMissing = position === ORIGIN && reason !== "deleted";
    this.sink.end(reason, isMissing ? this.#missingStreamHint(reason) : null);
  }

  #missingStreamHint(reason) {
    const { run, stream } = this;
    return `run ${run} has ended (${reason}) without a stream "${stream}": check the stream's id, and that the task appends to it`;
  }

  #error(frame) {
    return frame.retryable ? "retry_later" : this.fail(frame);
  }
}
