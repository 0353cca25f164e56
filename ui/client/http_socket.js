/**
 * What stands in for a WebSocket where these are blocked: the same frames over plain HTTP.
 *
 * Nothing can be said to the gateway while an answer comes. So each request brings all that there
 * is to say, each subscription with the position it has reached: a new subscription, or the end of
 * an answer, is a new request, and nothing is lost or repeated.
 *
 * An answer goes on where this tab has a place (`response_slots.js`). Otherwise it polls: short answers with
 * a pause between them, until there is a place.
 *
 * Source: PROTOCOL.md 12.
 */

import { Timer } from "./platform.js";
import { parseEvents } from "./sse_parser.js";

const ALIVE_MS = 25_000; // the gateway sends something every 10 s
const POLL_S = 0.25; // how long an answer goes on without a place
const MAX_POLL_S = 8; // where not all was answered in that time, it doubles
const PAUSE_MS = 1_500; // between polls, by half more or less
const GOING_AWAY = 1001; // an answer that has gone on for long enough
const LOST = 1006;

/** Has what `connection.js` needs of a WebSocket. */
export class HttpSocket {
  onopen = () => {};
  onmessage = () => {};
  onclose = () => {};
  /** Why there was no answer of a gateway; "" while there may be one. */
  failure = "";
  #url;
  #platform;
  #helloText = "";
  /** Their frames by id, as they have to be sent next. @type {Map<number, object>} */
  #subscriptions = new Map();
  /** Tokens that were not answered yet. @type {object[]} */
  #pendingTokens = [];
  /** The answer that comes now. @type {AbortController|null} */
  #response = null;
  /** Those of requests. @type {Set<AbortController>} */
  #requests = new Set();
  #isWelcomed = false;
  #isClosed = false;
  /** Gives the place back; null: there is none. @type {(() => void)|null} */
  #releaseSlot = null;
  #acquiring = null;
  #pollS = POLL_S;
  #isPolling = false;
  #receivedAt = -Infinity;
  #followTimer;

  /** @param {string} url of the WebSocket @param {import("./platform.js").Platform} platform */
  constructor(url, platform) {
    const address = new URL("events", url);
    address.protocol = address.protocol.replace(/^ws/, "http");
    this.#url = address.href;
    this.#platform = platform;
    this.#followTimer = new Timer(platform);
    this.#followTimer.start(0, () => this.onopen({}));
  }

  /** @param {string} text of a frame */
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
    for (const answer of [this.#response, ...this.#requests]) answer?.abort();
  }

  // What a page subscribes to at the same moment is one request.
  #scheduleFollow() {
    if (!this.#isClosed) this.#followTimer.start(0, () => this.#follow());
  }

  async #follow() {
    this.#response?.abort();
    const answer = (this.#response = new AbortController());
    const isPresent = () => this.#response === answer && !this.#isClosed;
    this.#receivedAt = this.#platform.now(); // silence counts from here
    const hasSlot = await this.#acquireSlot();
    if (!isPresent()) return;
    const frames = [...this.#subscriptions.values(), ...this.#pendingTokens];
    const unanswered = new Set(this.#subscriptions.keys());
    const waitS = hasSlot ? null : this.#pollS;
    let end = { code: LOST, reason: "" };
    try {
      for await (const event of this.#postFrames(frames, answer, waitS)) {
        if (!isPresent()) return;
        if (event.type === "close") end = JSON.parse(event.data);
        else unanswered.delete(this.#receive(event.data).id);
      }
    } catch {
      // As good as an answer that broke off.
    }
    if (!isPresent()) return;
    const isOver = end.code === GOING_AWAY && (this.#isWelcomed || !hasSlot);
    if (!isOver) this.#fail(end);
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

  // It is kept until the end; one that polls tries to get one each time.
  async #acquireSlot() {
    const { acquireSlot } = this.#platform;
    if (acquireSlot === undefined || this.#releaseSlot !== null) return true;
    this.#acquiring ??= acquireSlot(this.#url, () => this.#onSlotLost()).then((leave) => {
      this.#acquiring = null;
      if (this.#isClosed) leave?.();
      else this.#releaseSlot = leave;
    });
    await this.#acquiring;
    return this.#releaseSlot !== null;
  }

  #onSlotLost() {
    this.#releaseSlot = null;
    this.#scheduleFollow();
  }

  // One that is not answered is for the connection to send again.
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
    const answer = await this.#fetch(waitS === null ? "" : `?wait_s=${waitS}`, {
      method: "POST",
      headers: { "Content-Type": "application/x-ndjson" },
      body: lines.join("\n"),
      cache: "no-store",
      signal,
    });
    const type = answer.headers.get("Content-Type") ?? "";
    if (!answer.ok || !type.startsWith("text/event-stream")) {
      this.failure = `${this.#url} answered with status ${answer.status}, as no gateway does`;
      throw new Error(this.failure);
    }
    yield* parseEvents(answer.body);
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

  // Where each subscription has come to is where the next request goes on.
  #updateState({ type, id, subscription, position }) {
    const asked = this.#subscriptions.get(id);
    if (type === "token_accepted") this.#onTokenAnswered(id, true);
    else if (type === "error" && subscription !== undefined) this.#onTokenAnswered(subscription, false);
    else if (type === "end" || type === "error") this.#removeSubscription(id);
    else if (asked?.stream !== undefined && position !== undefined) asked.start = { position };
  }

  // A token of what is over would be offered, and refused, with every request to come.
  #removeSubscription(id) {
    this.#pendingTokens = this.#pendingTokens.filter((offer) => offer.id !== id);
    return this.#subscriptions.delete(id);
  }

  #onTokenAnswered(id, isAccepted) {
    const index = this.#pendingTokens.findIndex((offer) => offer.id === id);
    if (index === -1) return;
    const [{ token }] = this.#pendingTokens.splice(index, 1);
    if (isAccepted && this.#subscriptions.has(id)) this.#subscriptions.get(id).token = token;
  }

  #answerPing() {
    const isPausing = this.#followTimer.running;
    if (isPausing) this.#scheduleFollow(); // it may be that the page has just been shown
    else if (this.#platform.now() - this.#receivedAt > ALIVE_MS) return; // it will be given up
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
