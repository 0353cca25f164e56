/**
 * One connection to one gateway, by WebSocket unless these are blocked, and the subscriptions it
 * carries.
 *
 *     idle → connecting → live → reconnecting → live …
 *                      ↘ closed (the gateway refused; a new token or subscription tries again)
 *
 * A closed socket is never the end of a stream: only an `end` frame is.
 *
 * Source: PROTOCOL.md 2, 4 and 7.
 */

import { backoffMs } from "./backoff.js";
import { Timer, obstacleTo } from "./environment.js";
import {
  UNREACHABLE,
  helloFrame,
  mayReconnect,
  pingFrame,
  unsubscribeFrame,
} from "./protocol.js";
import { Transport } from "./transport.js";

const ANSWER_MS = 10_000; // silence this long after a ping or a `hello` means a dead connection
const WAKE_ANSWER_MS = 3_000; // shorter when the page wakes: somebody is looking
const LINGER_MS = 1_000; // an unused socket stays this long, so that a remount finds it
const MAX_ADVICE_MS = 60_000; // no gateway sends a page away for longer
const UNREACHED_MS = 5_000; // where nothing was ever heard, the page says so after this time
const STABLE_MS = 5_000; // a connection that lived this long starts the backoff afresh

export class Connection {
  /** @type {"idle"|"connecting"|"live"|"reconnecting"|"closed"} */
  state = "idle";
  #environment;
  #transport;
  /** By id. @type {Map<number, import("./subscription.js").Subscription>} */
  #subscriptions = new Map();
  /** Unanswered requests by id. @type {Map<number, {frame: object, resolve: Function, reject: Function}>} */
  #requests = new Map();
  /** Those that wait to subscribe again. @type {Map<import("./subscription.js").Subscription, Timer>} */
  #retries = new Map();
  #socket = null;
  #isHeard = false;
  #nextId = 1;
  #attempt = 0;
  #liveSince = null;
  #complaint = null;
  #url;
  #wasReached = false;
  /** Why no gateway is there, as far as is known. @type {{code: string, message: string}|null} */
  #unreachable = null;
  #unreached;
  #reconnect;
  #ping;
  #deadline;
  #linger;

  /** @param {string} url @param {import("./environment.js").Environment} environment */
  constructor(url, environment) {
    this.#url = url;
    this.#environment = environment;
    this.#unreached = new Timer(environment);
    this.#transport = new Transport(url, environment);
    this.#reconnect = new Timer(environment);
    this.#ping = new Timer(environment);
    this.#deadline = new Timer(environment);
    this.#linger = new Timer(environment);
    environment.onWake(() => this.wake());
  }

  /** Carry a subscription from now on; it resumes where its position says. */
  add(subscription) {
    subscription.begin(this.#nextId++);
    this.#subscriptions.set(subscription.id, subscription);
    this.#linger.stop();
    if (this.state === "live") this.#send(subscription.frame());
    else if (!this.#reconnect.running) this.#open();
    if (this.#unreachable !== null) subscription.sink.unreachable(this.#unreachable);
  }

  /** Stop carrying a subscription. */
  remove(subscription) {
    this.#forget(subscription);
    this.#lingerIfUnused();
  }

  /** Subscribe again from the position reached, for instance with another throttle. */
  restart(subscription) {
    // Under a new id: frames of the old one may still be on their way.
    this.#forget(subscription);
    this.add(subscription);
  }

  /** Replace the token of a subscription in place; one that had failed goes on with it. */
  replaceToken(subscription, token) {
    subscription.token = token;
    if (subscription.outcome === "failed") this.restart(subscription);
    else if (token && this.#isSent(subscription)) this.#send(subscription.tokenFrame());
  }

  /**
   * Send a request and give its answer. After a lost connection it is sent again, so it has to be
   * one that may be repeated.
   *
   * @param {(id: number) => object} build
   * @returns {Promise<object>} rejected with the gateway's `error` frame, or with
   *   `gateway_unreachable`: then it was not sent
   */
  request(build) {
    if (this.#unreachable !== null && this.#isTrying()) return Promise.reject(this.#unreachable);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#requests.set(id, { frame: build(id), resolve, reject });
      this.#linger.stop();
      if (this.state === "live") this.#send(this.#requests.get(id).frame);
      else if (!this.#reconnect.running) this.#open();
    });
  }

  // Where nothing else is carried, each request tries anew: the gateway may be there by now.
  #isTrying() {
    return this.#socket !== null || this.#reconnect.running;
  }

  /** Doubt the connection: the page was hidden, asleep or offline. */
  wake() {
    if (this.#reconnect.running) this.#open();
    else if (this.state === "live") this.#sendPing(WAKE_ANSWER_MS);
  }

  #isSent(subscription) {
    const isKnown = this.#subscriptions.get(subscription.id) === subscription;
    const isWaiting = this.#retries.has(subscription);
    return this.state === "live" && isKnown && !isWaiting && !subscription.over;
  }

  #forget(subscription) {
    if (this.#isSent(subscription)) this.#send(unsubscribeFrame(subscription.id));
    this.#retries.get(subscription)?.stop();
    this.#retries.delete(subscription);
    this.#subscriptions.delete(subscription.id);
  }

  #active() {
    return [...this.#subscriptions.values()].filter((subscription) => !subscription.over);
  }

  #lingerIfUnused() {
    if (this.#isUsed()) return;
    this.#linger.start(LINGER_MS, () => {
      if (!this.#isUsed()) this.#rest();
    });
  }

  #isUsed() {
    return this.#active().length > 0 || this.#requests.size > 0;
  }

  #rest() {
    this.#reconnect.stop();
    this.#unreached.stop();
    this.#detach(1000);
    this.state = "idle";
  }

  #open() {
    if (this.#socket !== null) return;
    this.#reconnect.stop();
    this.state = this.state === "reconnecting" ? "reconnecting" : "connecting";
    if (!this.#wasReached && !this.#unreached.running) {
      this.#unreached.start(UNREACHED_MS, () => this.#notReached(`no answer in ${UNREACHED_MS / 1000} s`));
    }
    try {
      this.#listen(this.#transport.open());
    } catch (error) {
      const message = `the gateway's address ${this.#url} cannot be used: ${error.message}`;
      this.#refused({ code: "invalid_gateway_url", message });
    }
  }

  #listen(socket) {
    this.#socket = socket;
    this.#isHeard = false;
    this.#complaint = null;
    this.#expectAnswer(ANSWER_MS);
    // A socket that was given up may still speak; only the present one is heard.
    const ifPresent = (handle) => (event) => {
      if (this.#socket === socket) handle(event);
    };
    socket.onopen = ifPresent(() => this.#send(helloFrame()));
    socket.onmessage = ifPresent((event) => this.#receive(JSON.parse(event.data)));
    socket.onclose = ifPresent((event) => this.#closed(event.code, event.reason));
    socket.onerror = () => {}; // `close` always follows
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #sendPing(answerMs) {
    this.#send(pingFrame());
    this.#expectAnswer(answerMs);
  }

  // A further ping must not put off the verdict on the one before.
  #expectAnswer(ms) {
    this.#deadline.startNoLater(ms, () => this.#giveUp());
  }

  #receive(frame) {
    this.#deadline.stop(); // whatever it is, the other side is alive
    this.#isHeard = true;
    if (frame.type === "welcome") this.#welcomed(frame);
    else if (frame.id !== undefined) this.#deliver(frame);
    else if (frame.type !== "error") return;
    else if (frame.subscription !== undefined) this.#tokenRefused(frame);
    else this.#complain(frame);
  }

  // An error that names no subscription ends none; it may be the reason for a close.
  #complain(frame) {
    this.#complaint = frame;
    console.warn(`Realtime Streams: ${frame.message} (${frame.code})`);
  }

  #tokenRefused(frame) {
    const subscription = this.#subscriptions.get(frame.subscription);
    if (subscription === undefined || subscription.over) return;
    if (subscription.refuseToken(frame) === "again") this.restart(subscription);
  }

  // It is tried on: the gateway may start later than the page.
  #notReached(why) {
    if (this.#wasReached) return;
    if (this.#unreachable === null) {
      const { advice = "" } = this.#environment;
      const message = `no gateway answers at ${this.#url} (${why}${obstacleTo(this.#url)}). ${advice}`.trimEnd();
      this.#unreachable = { code: UNREACHABLE, message };
      console.error(`Realtime Streams: ${message}`);
      for (const subscription of this.#active()) subscription.sink.unreachable(this.#unreachable);
    }
    for (const { reject } of this.#requests.values()) reject(this.#unreachable);
    this.#requests.clear();
  }

  #welcomed({ ping_ms: pingMs }) {
    this.state = "live";
    this.#wasReached = true;
    this.#unreachable = null;
    this.#unreached.stop();
    this.#liveSince = this.#environment.now();
    this.#transport.worked((socket, welcome) => this.#adopt(socket, welcome));
    this.#pingEvery(pingMs);
    for (const subscription of this.#active()) {
      if (!this.#retries.has(subscription)) this.#send(subscription.frame());
    }
    for (const { frame } of this.#requests.values()) this.#send(frame);
  }

  // Each subscription goes on there from where it has come by HTTP.
  #adopt(socket, welcome) {
    this.#detach(1000);
    this.#listen(socket);
    socket.onmessage(welcome);
  }

  #pingEvery(ms) {
    this.#ping.start(ms, () => {
      this.#sendPing(ANSWER_MS);
      this.#pingEvery(ms);
    });
  }

  #deliver(frame) {
    if (this.#requests.has(frame.id)) {
      this.#answer(frame);
      return;
    }
    const subscription = this.#subscriptions.get(frame.id);
    // One that waits to subscribe again is over for the gateway.
    if (subscription === undefined || subscription.over || this.#retries.has(subscription)) return;
    const outcome = subscription.receive(frame);
    if (outcome === "hole") this.#giveUp();
    else if (outcome === "again") this.restart(subscription);
    else if (outcome === "retry") this.#retryLater(subscription, frame);
    else if (subscription.over) this.#lingerIfUnused();
  }

  #answer(frame) {
    const { resolve, reject } = this.#requests.get(frame.id);
    this.#requests.delete(frame.id);
    if (frame.type === "error") reject(frame);
    else resolve(frame);
    this.#lingerIfUnused();
  }

  #retryLater(subscription, { type, retry_after_ms: retryAfterMs }) {
    if (type !== "error") this.#forget(subscription);
    const timer = new Timer(this.#environment);
    this.#retries.set(subscription, timer);
    timer.start(this.#waitMs(subscription.attempt++, retryAfterMs), () =>
      this.restart(subscription),
    );
    subscription.sink.lost();
  }

  // `close` of a half-open socket may take minutes to be reported, so nobody waits for it.
  #giveUp() {
    this.#detach(4000);
    this.#closed(1006, "");
  }

  #detach(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#ping.stop();
    this.#deadline.stop();
    this.#transport.rest();
    socket?.close(code);
  }

  #closed(code, reason) {
    const why = this.#socket?.failure;
    this.#detach();
    if (!this.#isHeard) {
      this.#transport.failed();
      if (why) this.#notReached(why);
    }
    this.#forgetOldFailures();
    if (!mayReconnect(code)) {
      const message = reason || `the gateway closed the connection with code ${code}`;
      this.#refused(this.#complaint ?? { code: `closed_${code}`, message });
    } else if (this.#isUsed()) this.#reconnectLater();
    else this.state = "idle";
  }

  #forgetOldFailures() {
    const lived = this.#liveSince === null ? 0 : this.#environment.now() - this.#liveSince;
    if (lived >= STABLE_MS) this.#attempt = 0;
    this.#liveSince = null;
  }

  #refused(error) {
    this.state = "closed";
    this.#unreached.stop();
    const active = this.#active();
    for (const { reject } of this.#requests.values()) reject(error);
    this.#requests.clear();
    for (const timer of this.#retries.values()) timer.stop();
    this.#retries.clear();
    for (const subscription of active) {
      if (subscription.refuse(error) === "again") this.restart(subscription);
    }
  }

  // Not before the gateway said, and then not in step with all those it said the same to.
  #waitMs(attempt, retryAfterMs = 0) {
    return Math.min(retryAfterMs, MAX_ADVICE_MS) + backoffMs(attempt, this.#environment.random);
  }

  #reconnectLater() {
    this.state = "reconnecting";
    const waitMs = this.#waitMs(this.#attempt++, this.#complaint?.retry_after_ms);
    this.#reconnect.start(waitMs, () => this.#open());
    for (const subscription of this.#active()) subscription.sink.lost();
  }
}
