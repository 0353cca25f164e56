/**
 * A cursor on one stream, run or set of runs: what has been seen, and what to ask for next.
 *
 * It decides and never touches a socket; `connection.js` carries its frames.
 */

import { DEFAULT_LIMIT, ORIGIN, subscribeFrame, tokenFrame } from "./protocol.js";

/**
 * Where a subscription reports to.
 *
 * @typedef {object} Sink
 * @property {(frame: {run?: object, runs?: object[], has_more?: boolean}) => void} subscribed the
 *   run or the runs as they are now
 * @property {(records: object[]) => void} records each record once, in order
 * @property {(gap: {from: string, to: string, reason: string}) => void} gap
 * @property {(reason: string) => void} reset everything seen so far is void
 * @property {(reason: string, hint: string|null) => void} end `hint`: why nothing came, if the stream
 *   was never written
 * @property {(error: {code: string, message: string}) => void} error
 * @property {() => void} tokenExpiring the token is near its end
 * @property {() => void} tokenAccepted a new one is in force
 * @property {(error: {code: string, message: string}) => void} tokenRejected the old one stays in
 *   force
 * @property {() => void} disconnected the connection is gone; the subscription is not
 * @property {(error: {code: string, message: string}) => void} unreachable no gateway was ever heard
 *   at this address; it is tried on
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
  /** Named by the connection; stays the same over reconnects. @type {number|null} */
  id = null;
  /** What to resume from. @type {string|null} */
  position = null;
  /** How it came to be over; null while more is expected. @type {"ended"|"failed"|null} */
  outcome = null;
  /** Failed tries in a row, for the backoff. */
  attempt = 0;
  #nextOffset = null;
  #acceptedToken = null;
  /** Tokens that were sent and not answered yet; they are answered in order. */
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

  /** What it is called in messages. */
  get name() {
    if (this.isSet) return `runs ${JSON.stringify(this.runs)}`;
    return this.isRun ? `run ${this.run}` : `stream ${this.run}/${this.stream}`;
  }

  get isOver() {
    return this.outcome !== null;
  }

  /** Begin under a new id; the next frames are those of another subscription of the gateway. */
  begin(id) {
    this.id = id;
    this.outcome = null;
    this.#resetTokens(this.token);
  }

  #resetTokens(token) {
    this.#acceptedToken = token;
    this.#pendingTokens = [];
  }

  /** The frame that subscribes, or resumes from the position that was reached. */
  frame() {
    this.#resetTokens(this.token);
    const { id, run, stream, runs, limit, skip, throttleMs, token } = this;
    const start = this.#currentStart();
    return subscribeFrame({ id, run, stream, runs, limit, skip, start, throttleMs, token });
  }

  /** The frame that replaces the token in place. */
  tokenFrame() {
    this.#pendingTokens.push(this.token);
    return tokenFrame(this.id, this.token);
  }

  /**
   * Take the refusal of a token that was to replace the one in force.
   *
   * @returns {"ok"|"resubscribe"} `resubscribe`: subscribe again at once, with the newest token
   */
  rejectToken({ code, message }) {
    this.#pendingTokens.shift();
    if (this.#pendingTokens.length > 0) return "ok"; // a newer one is not answered yet
    // It is for another subject: whether that one may read is asked anew.
    if (code === "forbidden") return "resubscribe";
    this.token = this.#acceptedToken;
    this.sink.tokenRejected({ code, message });
    return "ok";
  }

  #acceptToken() {
    this.#acceptedToken = this.#pendingTokens.shift();
    this.sink.tokenAccepted();
  }

  // Runs need no position: the snapshot in `subscribed` is always the newest.
  #currentStart() {
    if (!this.isStream) return "beginning";
    return this.position === null ? this.start : { position: this.position };
  }

  /**
   * Take a frame that names this subscription.
   *
   * @returns {"ok"|"record_missing"|"retry_later"|"resubscribe"} `record_missing`: a record is missing, so nothing of the frame was
   *   taken and the socket must go; `retry_later`: subscribe again later; `resubscribe`: at once
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
   * Take a refusal. It is final, and an error, unless it is of a token that has been replaced since.
   *
   * @returns {"ok"|"resubscribe"} `resubscribe`: subscribe again at once, with the newest token
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
    if (this.isSet) return this.sink.records(records); // of several logs; versions tell them apart
    const fresh = this.#newRecords(records);
    if (fresh === null) return "record_missing";
    this.position = position;
    if (fresh.length > 0) this.sink.records(fresh);
  }

  // Null when a record is missing. The first offset after a start or a gap is not predictable
  // (positions are opaque), so it is taken as it comes.
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

  // Patches that are gone leave a run that never was: only a new snapshot mends that.
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
    this.sink.end(reason, position === ORIGIN && reason !== "deleted" ? this.#missingStreamHint(reason) : null);
  }

  #missingStreamHint(reason) {
    const { run, stream } = this;
    return `run ${run} has ended (${reason}) without a stream "${stream}": check the stream's id, and that the task appends to it`;
  }

  #error(frame) {
    return frame.retryable ? "retry_later" : this.fail(frame);
  }
}
