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
import { Timer, mixedContentHint } from "./platform.js";
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
const MAX_RETRY_AFTER_MS = 60_000; // no gateway sends a page away for longer
const UNREACHABLE_MS = 5_000; // where nothing was ever heard, the page says so after this time
const STABLE_MS = 5_000; // a connection that lived this long starts the backoff afresh

export class Connection {
  /** @type {"idle"|"connecting"|"live"|"reconnecting"|"closed"} */
  state = "idle";
  #platform;
  #transport;
  /** By id. @type {Map<number, import("./subscription.js").Subscription>} */
  #subscriptions = new Map();
  /** Unanswered requests by id. @type {Map<number, {frame: object, resolve: Function, reject: Function}>} */
  #requests = new Map();
  /** Those that wait to subscribe again. @type {Map<import("./subscription.js").Subscription, Timer>} */
  #retries = new Map();
  #socket = null;
  #hasReceived = false;
  #nextId = 1;
  #attempt = 0;
  #liveSince = null;
  #lastFailure = null;
  #url;
  #wasReachable = false;
  /** Why no gateway is there, as far as is known. @type {{code: string, message: string}|null} */
  #unreachable = null;
  #unreachableTimer;
  #reconnectTimer;
  #pingTimer;
  #answerTimer;
  #lingerTimer;

  /** @param {string} url @param {import("./platform.js").Platform} platform */
  constructor(url, platform) {
    this.#url = url;
    this.#platform = platform;
    this.#unreachableTimer = new Timer(platform);
    this.#transport = new Transport(url, platform);
    this.#reconnectTimer = new Timer(platform);
    this.#pingTimer = new Timer(platform);
    this.#answerTimer = new Timer(platform);
    this.#lingerTimer = new Timer(platform);
    platform.onWake(() => this.wake());
  }

  /** Carry a subscription from now on; it resumes where its position says. */
  add(subscription) {
    subscription.begin(this.#nextId++);
    this.#subscriptions.set(subscription.id, subscription);
    this.#lingerTimer.stop();
    if (this.state === "live") this.#send(subscription.frame());
    else if (!this.#reconnectTimer.running) this.#open();
    if (this.#unreachable !== null) subscription.sink.unreachable(this.#unreachable);
  }

  /** Stop carrying a subscription. */
  remove(subscription) {
    this.#drop(subscription);
    this.#lingerIfUnused();
  }

  /** Subscribe again from the position reached, for instance with another throttle. */
  restart(subscription) {
    // Under a new id: frames of the old one may still be on their way.
    this.#drop(subscription);
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
    if (this.#unreachable !== null && this.#isConnecting()) return Promise.reject(this.#unreachable);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#requests.set(id, { frame: build(id), resolve, reject });
      this.#lingerTimer.stop();
      if (this.state === "live") this.#send(this.#requests.get(id).frame);
      else if (!this.#reconnectTimer.running) this.#open();
    });
  }

  // Where nothing else is carried, each request tries anew: the gateway may be there by now.
  #isConnecting() {
    return this.#socket !== null || this.#reconnectTimer.running;
  }

  /** Doubt the connection: the page was hidden, asleep or offline. */
  wake() {
    if (this.#reconnectTimer.running) this.#open();
    else if (this.state === "live") this.#sendPing(WAKE_ANSWER_MS);
  }

  #isSent(subscription) {
    const isKnown = this.#subscriptions.get(subscription.id) === subscription;
    const isWaiting = this.#retries.has(subscription);
    return this.state === "live" && isKnown && !isWaiting && !subscription.isOver;
  }

  #drop(subscription) {
    if (this.#isSent(subscription)) this.#send(unsubscribeFrame(subscription.id));
    this.#retries.get(subscription)?.stop();
    this.#retries.delete(subscription);
    this.#subscriptions.delete(subscription.id);
  }

  #openSubscriptions() {
    return [...this.#subscriptions.values()].filter((subscription) => !subscription.isOver);
  }

  #lingerIfUnused() {
    if (this.#isUsed()) return;
    this.#lingerTimer.start(LINGER_MS, () => {
      if (!this.#isUsed()) this.#disconnect();
    });
  }

  #isUsed() {
    return this.#openSubscriptions().length > 0 || this.#requests.size > 0;
  }

  #disconnect() {
    this.#reconnectTimer.stop();
    this.#unreachableTimer.stop();
    this.#detach(1000);
    this.state = "idle";
  }

  #open() {
    if (this.#socket !== null) return;
    this.#reconnectTimer.stop();
    this.state = this.state === "reconnecting" ? "reconnecting" : "connecting";
    if (!this.#wasReachable && !this.#unreachableTimer.running) {
      this.#unreachableTimer.start(UNREACHABLE_MS, () => this.#reportUnreachable(`no answer in ${UNREACHABLE_MS / 1000} s`));
    }
    try {
      this.#listen(this.#transport.open());
    } catch (error) {
      const message = `the gateway's address ${this.#url} cannot be used: ${error.message}`;
      this.#fail({ code: "invalid_gateway_url", message });
    }
  }

  #listen(socket) {
    this.#socket = socket;
    this.#hasReceived = false;
    this.#lastFailure = null;
    this.#expectAnswer(ANSWER_MS);
    // A socket that was given up may still speak; only the present one is heard.
    const ifPresent = (handle) => (event) => {
      if (this.#socket === socket) handle(event);
    };
    socket.onopen = ifPresent(() => this.#send(helloFrame()));
    socket.onmessage = ifPresent((event) => this.#receive(JSON.parse(event.data)));
    socket.onclose = ifPresent((event) => this.#onClose(event.code, event.reason));
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
    this.#answerTimer.startNoLater(ms, () => this.#abandonSocket());
  }

  #receive(frame) {
    this.#answerTimer.stop(); // whatever it is, the other side is alive
    this.#hasReceived = true;
    if (frame.type === "welcome") this.#onWelcome(frame);
    else if (frame.id !== undefined) this.#dispatch(frame);
    else if (frame.type !== "error") return;
    else if (frame.subscription !== undefined) this.#onTokenRejected(frame);
    else this.#recordFailure(frame);
  }

  // An error that names no subscription ends none; it may be the reason for a close.
  #recordFailure(frame) {
    this.#lastFailure = frame;
    console.warn(`Realtime Streams: ${frame.message} (${frame.code})`);
  }

  #onTokenRejected(frame) {
    const subscription = this.#subscriptions.get(frame.subscription);
    if (subscription === undefined || subscription.isOver) return;
    if (subscription.rejectToken(frame) === "resubscribe") this.restart(subscription);
  }

  // It is tried on: the gateway may start later than the page.
  #reportUnreachable(why) {
    if (this.#wasReachable) return;
    if (this.#unreachable === null) {
      const { remedy = "" } = this.#platform;
      const message = `no gateway answers at ${this.#url} (${why}${mixedContentHint(this.#url)}). ${remedy}`.trimEnd();
      this.#unreachable = { code: UNREACHABLE, message };
      console.error(`Realtime Streams: ${message}`);
      for (const subscription of this.#openSubscriptions()) subscription.sink.unreachable(this.#unreachable);
    }
    for (const { reject } of this.#requests.values()) reject(this.#unreachable);
    this.#requests.clear();
  }

  #onWelcome({ ping_ms: pingMs }) {
    this.state = "live";
    this.#wasReachable = true;
    this.#unreachable = null;
    this.#unreachableTimer.stop();
    this.#liveSince = this.#platform.now();
    this.#transport.succeeded((socket, welcome) => this.#switchTo(socket, welcome));
    this.#schedulePing(pingMs);
    for (const subscription of this.#openSubscriptions()) {
      if (!this.#retries.has(subscription)) this.#send(subscription.frame());
    }
    for (const { frame } of this.#requests.values()) this.#send(frame);
  }

  // Each subscription goes on there from where it has come by HTTP.
  #switchTo(socket, welcome) {
    this.#detach(1000);
    this.#listen(socket);
    socket.onmessage(welcome);
  }

  #schedulePing(ms) {
    this.#pingTimer.start(ms, () => {
      this.#sendPing(ANSWER_MS);
      this.#schedulePing(ms);
    });
  }

  #dispatch(frame) {
    if (this.#requests.has(frame.id)) {
      this.#settleRequest(frame);
      return;
    }
    const subscription = this.#subscriptions.get(frame.id);
    // One that waits to subscribe again is over for the gateway.
    if (subscription === undefined || subscription.isOver || this.#retries.has(subscription)) return;
    const outcome = subscription.receive(frame);
    if (outcome === "record_missing") this.#abandonSocket();
    else if (outcome === "resubscribe") this.restart(subscription);
    else if (outcome === "retry_later") this.#scheduleRetry(subscription, frame);
    else if (subscription.isOver) this.#lingerIfUnused();
  }

  #settleRequest(frame) {
    const { resolve, reject } = this.#requests.get(frame.id);
    this.#requests.delete(frame.id);
    if (frame.type === "error") reject(frame);
    else resolve(frame);
    this.#lingerIfUnused();
  }

  #scheduleRetry(subscription, { type, retry_after_ms: retryAfterMs }) {
    if (type !== "error") this.#drop(subscription);
    const timer = new Timer(this.#platform);
    this.#retries.set(subscription, timer);
    timer.start(this.#backoffMs(subscription.attempt++, retryAfterMs), () =>
      this.restart(subscription),
    );
    subscription.sink.disconnected();
  }

  // `close` of a half-open socket may take minutes to be reported, so nobody waits for it.
  #abandonSocket() {
    this.#detach(4000);
    this.#onClose(1006, "");
  }

  #detach(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#pingTimer.stop();
    this.#answerTimer.stop();
    this.#transport.stopProbing();
    socket?.close(code);
  }

  #onClose(code, reason) {
    const why = this.#socket?.failure;
    this.#detach();
    if (!this.#hasReceived) {
      this.#transport.failed();
      if (why) this.#reportUnreachable(why);
    }
    this.#resetBackoffIfStable();
    if (!mayReconnect(code)) {
      const message = reason || `the gateway closed the connection with code ${code}`;
      this.#fail(this.#lastFailure ?? { code: `closed_${code}`, message });
    } else if (this.#isUsed()) this.#scheduleReconnect();
    else this.state = "idle";
  }

  #resetBackoffIfStable() {
    const lived = this.#liveSince === null ? 0 : this.#platform.now() - this.#liveSince;
    if (lived >= STABLE_MS) this.#attempt = 0;
    this.#liveSince = null;
  }

  #fail(error) {
    this.state = "closed";
    this.#unreachableTimer.stop();
    const active = this.#openSubscriptions();
    for (const { reject } of this.#requests.values()) reject(error);
    this.#requests.clear();
    for (const timer of this.#retries.values()) timer.stop();
    this.#retries.clear();
    for (const subscription of active) {
      if (subscription.fail(error) === "resubscribe") this.restart(subscription);
    }
  }

  // Not before the gateway said, and then not in step with all those it said the same to.
  #backoffMs(attempt, retryAfterMs = 0) {
    return Math.min(retryAfterMs, MAX_RETRY_AFTER_MS) + backoffMs(attempt, this.#platform.random);
  }

  #scheduleReconnect() {
    this.state = "reconnecting";
    const waitMs = this.#backoffMs(this.#attempt++, this.#lastFailure?.retry_after_ms);
    this.#reconnectTimer.start(waitMs, () => this.#open());
    for (const subscription of this.#openSubscriptions()) subscription.sink.disconnected();
  }
}
