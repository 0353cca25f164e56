/**
 * One connection to a gateway, with its subscriptions. It uses a WebSocket, or HTTP where
 * WebSockets are blocked.
 *
 *     idle → connecting → live → reconnecting → live …
 *                      ↘ closed (rejected by the gateway; a new token or subscription retries)
 *
 * A closed socket never ends a stream: only an `end` frame does.
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

const ANSWER_MS = 10_000; // without a frame this long after a ping or `hello`, the socket is dead
const WAKE_ANSWER_MS = 3_000; // the same after a wake-up of the page, when a user is looking at it
const LINGER_MS = 1_000; // an unused socket stays open this long, so that a remount can reuse it
const MAX_RETRY_AFTER_MS = 60_000; // cap of the gateway's `retry_after_ms`
const UNREACHABLE_MS = 5_000; // without any frame since the first try, an error is shown
const STABLE_MS = 5_000; // a connection that lasted this long resets the backoff

export class Connection {
  /** @type {"idle"|"connecting"|"live"|"reconnecting"|"closed"} */
  state = "idle";
  #platform;
  #transport;
  /** By id. @type {Map<number, import("./subscription.js").Subscription>} */
  #subscriptions = new Map();
  /** Unanswered requests by id. @type {Map<number, {frame: object, resolve: Function, reject: Function}>} */
  #requests = new Map();
  /** Subscriptions that wait for a retry. @type {Map<import("./subscription.js").Subscription, Timer>} */
  #retries = new Map();
  #socket = null;
  #hasReceived = false;
  #nextId = 1;
  #attempt = 0;
  #liveSince = null;
  #lastFailure = null;
  #url;
  #wasReachable = false;
  /** Why the gateway is unreachable; null once it has answered. @type {{code: string, message: string}|null} */
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

  /** Add a subscription; it starts or resumes at its position. */
  add(subscription) {
    subscription.begin(this.#nextId++);
    this.#subscriptions.set(subscription.id, subscription);
    this.#lingerTimer.stop();
    if (this.state === "live") this.#send(subscription.frame());
    else if (!this.#reconnectTimer.running) this.#open();
    if (this.#unreachable !== null) subscription.sink.unreachable(this.#unreachable);
  }

  /** Remove a subscription; it keeps its position. */
  remove(subscription) {
    this.#drop(subscription);
    this.#lingerIfUnused();
  }

  /** Subscribe again from the current position, for instance with another throttle. */
  restart(subscription) {
    // Uses a new id: frames of the old one may still arrive.
    this.#drop(subscription);
    this.add(subscription);
  }

  /** Replace the token of a subscription in place; a failed subscription resumes with it. */
  replaceToken(subscription, token) {
    subscription.token = token;
    if (subscription.outcome === "failed") this.restart(subscription);
    else if (token && this.#isSent(subscription)) this.#send(subscription.tokenFrame());
  }

  /**
   * Send a request and return its answer. The request has to be idempotent: after a lost connection
   * it is sent again.
   *
   * @param {(id: number) => object} build
   * @returns {Promise<object>} rejected with the gateway's `error` frame, or with
   *   `gateway_unreachable` if it was not sent
   */
  request(build) {
    const error = this.#unreachable;
    if (error !== null && this.#isConnecting()) return Promise.reject(error);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#requests.set(id, { frame: build(id), resolve, reject });
      this.#lingerTimer.stop();
      if (this.state === "live") this.#send(this.#requests.get(id).frame);
      else if (!this.#reconnectTimer.running) this.#open();
    });
  }

  // Without a socket or a scheduled reconnect, a request opens a socket: the gateway may have
  // started meanwhile.
  #isConnecting() {
    return this.#socket !== null || this.#reconnectTimer.running;
  }

  /** Check the connection: the page was hidden, asleep or offline. */
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
      const reason = `no answer in ${UNREACHABLE_MS / 1000} s`;
      this.#unreachableTimer.start(UNREACHABLE_MS, () => this.#reportUnreachable(reason));
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
    // An abandoned socket may still deliver events; they are ignored.
    const ifCurrent = (handle) => (event) => {
      if (this.#socket === socket) handle(event);
    };
    socket.onopen = ifCurrent(() => this.#send(helloFrame()));
    socket.onmessage = ifCurrent((event) => this.#receive(JSON.parse(event.data)));
    socket.onclose = ifCurrent((event) => this.#onClose(event.code, event.reason));
    socket.onerror = () => {}; // `close` always follows
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #sendPing(answerMs) {
    this.#send(pingFrame());
    this.#expectAnswer(answerMs);
  }

  // A further ping must not extend the deadline of an earlier one.
  #expectAnswer(ms) {
    this.#answerTimer.startNoLater(ms, () => this.#abandonSocket());
  }

  #receive(frame) {
    this.#answerTimer.stop(); // any frame shows that the gateway is alive
    this.#hasReceived = true;
    if (frame.type === "welcome") this.#onWelcome(frame);
    else if (frame.id !== undefined) this.#dispatch(frame);
    else if (frame.type !== "error") return;
    else if (frame.subscription !== undefined) this.#onTokenRejected(frame);
    else this.#recordFailure(frame);
  }

  // An error without a subscription ends none; it may announce the reason of a close.
  #recordFailure(frame) {
    this.#lastFailure = frame;
    console.warn(`Realtime Streams: ${frame.message} (${frame.code})`);
  }

  #onTokenRejected(frame) {
    const subscription = this.#subscriptions.get(frame.subscription);
    if (subscription === undefined || subscription.isOver) return;
    if (subscription.rejectToken(frame) === "resubscribe") this.restart(subscription);
  }

  // The connection keeps retrying: the gateway may start after the page.
  #reportUnreachable(reason) {
    if (this.#wasReachable) return;
    if (this.#unreachable === null) {
      const { remedy = "" } = this.#platform;
      const cause = reason + mixedContentHint(this.#url);
      const message = `no gateway answers at ${this.#url} (${cause}). ${remedy}`.trimEnd();
      this.#unreachable = { code: UNREACHABLE, message };
      console.error(`Realtime Streams: ${message}`);
      for (const { sink } of this.#openSubscriptions()) sink.unreachable(this.#unreachable);
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

  // The subscriptions resume on the WebSocket from the positions that they reached over HTTP.
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
    if (subscription === undefined || subscription.isOver) return;
    // For the gateway, a subscription that waits for a retry has ended.
    if (this.#retries.has(subscription)) return;
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

  // The browser may report the close of a half-open socket minutes later, so this does not wait.
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
    const failure = this.#socket?.failure;
    this.#detach();
    if (!this.#hasReceived) {
      this.#transport.failed();
      if (failure) this.#reportUnreachable(failure);
    }
    this.#resetBackoffIfStable();
    if (!mayReconnect(code)) {
      const message = reason || `the gateway closed the connection with code ${code}`;
      this.#fail(this.#lastFailure ?? { code: `closed_${code}`, message });
    } else if (this.#isUsed()) this.#scheduleReconnect();
    else this.state = "idle";
  }

  #resetBackoffIfStable() {
    const livedMs = this.#liveSince === null ? 0 : this.#platform.now() - this.#liveSince;
    if (livedMs >= STABLE_MS) this.#attempt = 0;
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

  // The jitter comes on top of `retry_after_ms`, which all clients receive at the same time.
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
