/**
 * The frames of a WebSocket over plain HTTP, for networks that block WebSockets.
 *
 * A request cannot be extended while its response arrives. So each request contains all frames to
 * send, and every subscription with its current position. A new subscription, or the end of a
 * response, is a new request; no record is lost or repeated.
 *
 * A tab with a slot (`response_slots.js`) holds a streaming response. Other tabs poll: short
 * responses with a pause between them, until a slot is free.
 *
 * Source: PROTOCOL.md 12.
 */

import { Timer } from "./platform.js";
import { parseEvents } from "./sse_parser.js";

const ALIVE_MS = 25_000; // the gateway sends a frame or a comment at least every 10 s
const POLL_S = 0.25; // duration of a response without a slot
const MAX_POLL_S = 8; // it doubles up to this if a poll ends before every subscription is answered
const PAUSE_MS = 1_500; // between polls, ±50 %
const GOING_AWAY = 1001; // close code of a response that reached its maximum duration
const LOST = 1006; // close code of a lost connection

/** Implements the part of the WebSocket interface that `connection.js` uses. */
export class HttpSocket {
  onopen = () => {};
  onmessage = () => {};
  onclose = () => {};
  /** Why the response is not a gateway's; "" if it is, or may be. */
  failure = "";
  #url;
  #platform;
  #helloText = "";
  /** The frame to send next for each subscription, by id. @type {Map<number, object>} */
  #subscriptions = new Map();
  /** `token` frames without an answer. @type {object[]} */
  #pendingTokens = [];
  /** Aborts the current response. @type {AbortController|null} */
  #controller = null;
  /** Abort the responses of appends. @type {Set<AbortController>} */
  #requests = new Set();
  #isWelcomed = false;
  #isClosed = false;
  /** Releases the slot; null without one. @type {(() => void)|null} */
  #releaseSlot = null;
  #acquiring = null;
  #pollS = POLL_S;
  #isPolling = false;
  #receivedAt = -Infinity;
  #followTimer;

  /** @param {string} url URL of the WebSocket @param {import("./platform.js").Platform} platform */
  constructor(url, platform) {
    const address = new URL("events", url);
    address.protocol = address.protocol.replace(/^ws/, "http");
    this.#url = address.href;
    this.#platform = platform;
    this.#followTimer = new Timer(platform);
    this.#followTimer.start(0, () => this.onopen({}));
  }

  /** @param {string} text a frame as JSON */
  send(text) {
    const frame = JSON.parse(text);
    switch (frame.type) {
      case "hello":
        this.#helloText = text;
        return this.#scheduleFollow();
      case "subscribe":
        this.#subscriptions.set(frame.id, frame);
        return this.#scheduleFollow();
      case "unsubscribe":
        return this.#removeSubscription(frame.id) && this.#scheduleFollow();
      case "token":
        this.#pendingTokens.push(frame);
        return this.#scheduleFollow();
      case "ping":
        return this.#answerPing();
      default:
        return this.#request(frame);
    }
  }

  close() {
    this.#isClosed = true;
    this.#releaseSlot?.();
    this.#followTimer.stop();
    for (const controller of [this.#controller, ...this.#requests]) controller?.abort();
  }

  // Subscriptions that a page adds in the same task share one request.
  #scheduleFollow() {
    if (!this.#isClosed) this.#followTimer.start(0, () => this.#follow());
  }

  async #follow() {
    this.#controller?.abort();
    const controller = (this.#controller = new AbortController());
    const isCurrent = () => this.#controller === controller && !this.#isClosed;
    this.#receivedAt = this.#platform.now(); // the silence starts here
    const hasSlot = await this.#acquireSlot();
    if (!isCurrent()) return;
    const frames = [...this.#subscriptions.values(), ...this.#pendingTokens];
    const unanswered = new Set(this.#subscriptions.keys());
    const waitS = hasSlot ? null : this.#pollS;
    let end = { code: LOST, reason: "" };
    try {
      for await (const event of this.#postFrames(frames, controller, waitS)) {
        if (!isCurrent()) return;
        if (event.type === "close") end = JSON.parse(event.data);
        else unanswered.delete(this.#receive(event.data).id);
      }
    } catch {
      // The same as a response that broke off.
    }
    if (!isCurrent()) return;
    const isComplete = end.code === GOING_AWAY && (this.#isWelcomed || !hasSlot);
    if (!isComplete) this.#fail(end);
    else if (hasSlot) this.#scheduleFollow();
    else this.#schedulePoll(unanswered.size > 0);
  }

  #schedulePoll(isTooShort) {
    if (!this.#isPolling) console.info("Realtime Streams: other tabs hold the connections; polling");
    this.#isPolling = true;
    if (isTooShort) this.#pollS = Math.min(MAX_POLL_S, 2 * this.#pollS);
    const pauseMs = PAUSE_MS * (0.5 + this.#platform.random());
    this.#followTimer.start(pauseMs, () => this.#follow());
  }

  // A slot is held until the socket closes. Without one, each poll tries to acquire it.
  async #acquireSlot() {
    const { acquireSlot } = this.#platform;
    if (acquireSlot === undefined || this.#releaseSlot !== null) return true;
    this.#acquiring ??= acquireSlot(this.#url, () => this.#onSlotLost()).then((release) => {
      this.#acquiring = null;
      if (this.#isClosed) release?.();
      else this.#releaseSlot = release;
    });
    await this.#acquiring;
    return this.#releaseSlot !== null;
  }

  #onSlotLost() {
    this.#releaseSlot = null;
    this.#scheduleFollow();
  }

  // The connection sends a request without an answer again.
  async #request(frame) {
    const controller = new AbortController();
    this.#requests.add(controller);
    try {
      for await (const { type, data } of this.#postFrames([frame], controller)) {
        const received = JSON.parse(data);
        if (type === "close") return this.#fail(received);
        if (received.type === "welcome" || received.type === "pong") continue;
        this.onmessage({ data });
        if (received.id === frame.id) return;
      }
      this.#fail({ code: LOST, reason: "" });
    } catch {
      this.#fail({ code: LOST, reason: "" });
    } finally {
      this.#requests.delete(controller);
      controller.abort();
    }
  }

  async *#postFrames(frames, { signal }, waitS = null) {
    const lines = [this.#helloText, ...frames.map((frame) => JSON.stringify(frame))];
    const response = await this.#fetch(waitS === null ? "" : `?wait_s=${waitS}`, {
      method: "POST",
      headers: { "Content-Type": "application/x-ndjson" },
      body: lines.join("\n"),
      cache: "no-store",
      signal,
    });
    const type = response.headers.get("Content-Type") ?? "";
    if (!response.ok || !type.startsWith("text/event-stream")) {
      this.failure = `${this.#url} answered with status ${response.status}, as no gateway does`;
      throw new Error(this.failure);
    }
    yield* parseEvents(response.body);
  }

  async #fetch(query, options) {
    try {
      return await this.#platform.fetch(this.#url + query, options);
    } catch (error) {
      if (!options.signal.aborted) this.failure = `${this.#url}: ${error.message}`;
      throw error;
    }
  }

  #receive(data) {
    const frame = JSON.parse(data);
    this.#receivedAt = this.#platform.now();
    const isFirstWelcome = frame.type === "welcome" && !this.#isWelcomed;
    if (isFirstWelcome) this.#isWelcomed = true;
    else if (frame.type === "welcome" || frame.type === "pong") return frame;
    else this.#updateState(frame);
    this.onmessage({ data });
    return frame;
  }

  // The next request resumes each subscription from its position.
  #updateState({ type, id, subscription, position }) {
    const asked = this.#subscriptions.get(id);
    if (type === "token_accepted") this.#onTokenAnswered(id, true);
    else if (type === "error" && subscription !== undefined) {
      this.#onTokenAnswered(subscription, false);
    } else if (type === "end" || type === "error") this.#removeSubscription(id);
    else if (asked?.stream !== undefined && position !== undefined) asked.start = { position };
  }

  // Every later request would send the token of an ended subscription again, and be rejected.
  #removeSubscription(id) {
    this.#pendingTokens = this.#pendingTokens.filter((frame) => frame.id !== id);
    return this.#subscriptions.delete(id);
  }

  #onTokenAnswered(id, isAccepted) {
    const index = this.#pendingTokens.findIndex((frame) => frame.id === id);
    if (index === -1) return;
    const [{ token }] = this.#pendingTokens.splice(index, 1);
    if (isAccepted && this.#subscriptions.has(id)) this.#subscriptions.get(id).token = token;
  }

  #answerPing() {
    const isPausing = this.#followTimer.running;
    if (isPausing) this.#scheduleFollow(); // the page may have become visible
    // Without an answer to its ping, the connection abandons this socket.
    else if (this.#platform.now() - this.#receivedAt > ALIVE_MS) return;
    this.#platform.setTimeout(() => {
      if (!this.#isClosed) this.onmessage({ data: '{"type":"pong"}' });
    }, 0);
  }

  #fail({ code, reason }) {
    if (this.#isClosed) return;
    this.close();
    this.onclose({ code, reason });
  }
}
