/**
 * Which way a connection goes: by WebSocket, or by plain HTTP where these are blocked.
 *
 * Nobody says that WebSockets are blocked: a try fails, or stays without an answer. So both ways
 * are tried in turn until one works, and from HTTP a WebSocket is tried again now and then.
 */

import { Timer } from "./environment.js";
import { HttpSocket } from "./http_socket.js";
import { helloFrame } from "./protocol.js";

const PATIENCE = 3; // tries in a row, where WebSockets have worked: more likely the gateway restarts
const ANSWER_MS = 10_000;
const PROBE_MS = 30_000; // the pause before the first try from HTTP; it doubles
const SOON_MS = 2_000; // likewise, where WebSockets have worked: the gateway was only away
const MAX_PROBE_MS = 600_000;

export class Transport {
  #url;
  #environment;
  #isHttp = false;
  #failures = 0;
  #hasWorked = false;
  #pauseMs = PROBE_MS;
  #timer;
  /** The WebSocket that is tried while HTTP serves. */
  #probe = null;

  /** @param {string} url @param {import("./environment.js").Environment} environment */
  constructor(url, environment) {
    this.#url = url;
    this.#environment = environment;
    this.#timer = new Timer(environment);
  }

  get isHttp() {
    return this.#isHttp;
  }

  /** Open the next socket. */
  open() {
    this.rest();
    return this.#isHttp
      ? new HttpSocket(this.#url, this.#environment)
      : new this.#environment.WebSocket(this.#url);
  }

  /** A socket was lost before anything was heard on it. */
  failed() {
    if (this.#isHttp) {
      this.#isHttp = false;
      return;
    }
    this.#failures++;
    const isBlocked = this.#failures >= (this.#hasWorked ? PATIENCE : 1);
    this.#isHttp = isBlocked && this.#environment.fetch !== undefined;
    if (this.#isHttp && this.#hasWorked) this.#pauseMs = SOON_MS;
  }

  /**
   * The gateway has answered.
   *
   * @param {(socket: WebSocket, welcome: MessageEvent) => void} adopt takes a WebSocket that works
   *   in the place of the present one
   */
  worked(adopt) {
    if (this.#isHttp) {
      this.#probeLater(adopt);
      return;
    }
    this.#hasWorked = true;
    this.#failures = 0;
    this.#pauseMs = PROBE_MS;
  }

  /** Try nothing more for now. */
  rest() {
    this.#timer.stop();
    const probe = this.#probe;
    this.#probe = null;
    probe?.close();
  }

  #probeLater(adopt) {
    this.#timer.start(this.#pauseMs, () => this.#try(adopt));
    this.#pauseMs = Math.min(MAX_PROBE_MS, 2 * this.#pauseMs);
  }

  #try(adopt) {
    const probe = (this.#probe = new this.#environment.WebSocket(this.#url));
    const over = () => {
      if (this.#probe !== probe) return;
      this.rest();
      this.#probeLater(adopt);
    };
    this.#timer.start(ANSWER_MS, over);
    probe.onopen = () => this.#probe === probe && probe.send(JSON.stringify(helloFrame()));
    probe.onclose = over;
    probe.onerror = () => {};
    probe.onmessage = (event) => {
      if (this.#probe !== probe || JSON.parse(event.data).type !== "welcome") return;
      this.#probe = null; // from now on it is the connection's
      this.#timer.stop();
      this.#isHttp = false;
      adopt(probe, event);
    };
  }
}
