/**
 * What stands in for a WebSocket where these are blocked: the same frames over plain HTTP.
 *
 * Nothing can be said to the gateway while an answer comes. So each request brings all that there
 * is to say, each subscription with the position it has reached: a new subscription, or the end of
 * an answer, is a new request, and nothing is lost or repeated.
 *
 * An answer goes on where this tab has a place (`places.js`). Otherwise it polls: short answers with
 * a pause between them, until there is a place.
 *
 * Source: PROTOCOL.md 12.
 */

import { Timer } from "./environment.js";
import { eventsOf } from "./events.js";

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
  #environment;
  #hello = "";
  /** Their frames by id, as they have to be sent next. @type {Map<number, object>} */
  #subscriptions = new Map();
  /** Tokens that were not answered yet. @type {object[]} */
  #offers = [];
  /** The answer that comes now. @type {AbortController|null} */
  #answer = null;
  /** Those of requests. @type {Set<AbortController>} */
  #asking = new Set();
  #isGreeted = false;
  #isClosed = false;
  /** Gives the place back; null: there is none. @type {(() => void)|null} */
  #leavePlace = null;
  #taking = null;
  #pollS = POLL_S;
  #isPolling = false;
  #heardAt = -Infinity;
  #soon;

  /** @param {string} url of the WebSocket @param {import("./environment.js").Environment} environment */
  constructor(url, environment) {
    const address = new URL("events", url);
    address.protocol = address.protocol.replace(/^ws/, "http");
    this.#url = address.href;
    this.#environment = environment;
    this.#soon = new Timer(environment);
    this.#soon.start(0, () => this.onopen({}));
  }

  /** @param {string} text of a frame */
  send(text) {
    const frame = JSON.parse(text);
    switch (frame.type) {
      case "hello":
        this.#hello = text;
        return this.#askSoon();
      case "subscribe":
        this.#subscriptions.set(frame.id, frame);
        return this.#askSoon();
      case "unsubscribe":
        return this.#forget(frame.id) && this.#askSoon();
      case "token":
        this.#offers.push(frame);
        return this.#askSoon();
      case "ping":
        return this.#pong();
      default:
        return this.#request(frame);
    }
  }

  close() {
    this.#isClosed = true;
    this.#leavePlace?.();
    this.#soon.stop();
    for (const answer of [this.#answer, ...this.#asking]) answer?.abort();
  }

  // What a page subscribes to at the same moment is one request.
  #askSoon() {
    if (!this.#isClosed) this.#soon.start(0, () => this.#follow());
  }

  async #follow() {
    this.#answer?.abort();
    const answer = (this.#answer = new AbortController());
    const isPresent = () => this.#answer === answer && !this.#isClosed;
    this.#heardAt = this.#environment.now(); // silence counts from here
    const hasPlace = await this.#takePlace();
    if (!isPresent()) return;
    const frames = [...this.#subscriptions.values(), ...this.#offers];
    const unanswered = new Set(this.#subscriptions.keys());
    const waitS = hasPlace ? null : this.#pollS;
    let end = { code: LOST, reason: "" };
    try {
      for await (const event of this.#events(frames, answer, waitS)) {
        if (!isPresent()) return;
        if (event.type === "close") end = JSON.parse(event.data);
        else unanswered.delete(this.#receive(event.data).id);
      }
    } catch {
      // As good as an answer that broke off.
    }
    if (!isPresent()) return;
    const isOver = end.code === GOING_AWAY && (this.#isGreeted || !hasPlace);
    if (!isOver) this.#lost(end);
    else if (hasPlace) this.#askSoon();
    else this.#pollLater(unanswered.size > 0);
  }

  #pollLater(isTooShort) {
    if (!this.#isPolling) console.info("Realtime Streams: other tabs hold the connections; polling");
    this.#isPolling = true;
    if (isTooShort) this.#pollS = Math.min(MAX_POLL_S, 2 * this.#pollS);
    const pauseMs = PAUSE_MS * (0.5 + this.#environment.random());
    this.#soon.start(pauseMs, () => this.#follow());
  }

  // It is kept until the end; one that polls tries to get one each time.
  async #takePlace() {
    const { takePlace } = this.#environment;
    if (takePlace === undefined || this.#leavePlace !== null) return true;
    this.#taking ??= takePlace(this.#url, () => this.#losePlace()).then((leave) => {
      this.#taking = null;
      if (this.#isClosed) leave?.();
      else this.#leavePlace = leave;
    });
    await this.#taking;
    return this.#leavePlace !== null;
  }

  #losePlace() {
    this.#leavePlace = null;
    this.#askSoon();
  }

  // One that is not answered is for the connection to send again.
  async #request(frame) {
    const asking = new AbortController();
    this.#asking.add(asking);
    try {
      for await (const { type, data } of this.#events([frame], asking)) {
        const received = JSON.parse(data);
        if (type === "close") return this.#lost(received);
        if (received.type === "welcome" || received.type === "pong") continue;
        this.onmessage({ data });
        if (received.id === frame.id) return;
      }
      this.#lost({ code: LOST, reason: "" });
    } catch {
      this.#lost({ code: LOST, reason: "" });
    } finally {
      this.#asking.delete(asking);
      asking.abort();
    }
  }

  async *#events(frames, { signal }, waitS = null) {
    const lines = [this.#hello, ...frames.map((frame) => JSON.stringify(frame))];
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
    yield* eventsOf(answer.body);
  }

  async #fetch(query, options) {
    try {
      return await this.#environment.fetch(this.#url + query, options);
    } catch (error) {
      if (!options.signal.aborted) this.failure = `${this.#url}: ${error.message}`;
      throw error;
    }
  }

  #receive(data) {
    const frame = JSON.parse(data);
    this.#heardAt = this.#environment.now();
    const isFirstWelcome = frame.type === "welcome" && !this.#isGreeted;
    if (isFirstWelcome) this.#isGreeted = true;
    else if (frame.type === "welcome" || frame.type === "pong") return frame;
    else this.#remember(frame);
    this.onmessage({ data });
    return frame;
  }

  // Where each subscription has come to is where the next request goes on.
  #remember({ type, id, subscription, position }) {
    const asked = this.#subscriptions.get(id);
    if (type === "token_accepted") this.#offerAnswered(id, true);
    else if (type === "error" && subscription !== undefined) this.#offerAnswered(subscription, false);
    else if (type === "end" || type === "error") this.#forget(id);
    else if (asked?.stream !== undefined && position !== undefined) asked.start = { position };
  }

  // A token of what is over would be offered, and refused, with every request to come.
  #forget(id) {
    this.#offers = this.#offers.filter((offer) => offer.id !== id);
    return this.#subscriptions.delete(id);
  }

  #offerAnswered(id, isAccepted) {
    const index = this.#offers.findIndex((offer) => offer.id === id);
    if (index === -1) return;
    const [{ token }] = this.#offers.splice(index, 1);
    if (isAccepted && this.#subscriptions.has(id)) this.#subscriptions.get(id).token = token;
  }

  #pong() {
    const isPausing = this.#soon.running;
    if (isPausing) this.#askSoon(); // it may be that the page has just been shown
    else if (this.#environment.now() - this.#heardAt > ALIVE_MS) return; // it will be given up
    this.#environment.setTimeout(() => {
      if (!this.#isClosed) this.onmessage({ data: '{"type":"pong"}' });
    }, 0);
  }

  #lost({ code, reason }) {
    if (this.#isClosed) return;
    this.close();
    this.onclose({ code, reason });
  }
}
