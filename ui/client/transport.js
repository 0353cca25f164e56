/**
 * Which way a connection goes: by WebSocket, or by plain HTTP where these are blocked.
 *
 * Nobody says that WebSockets are blocked: a try fails, or stays without an answer. So both ways
 * are tried in turn until one works, and from HTTP a WebSocket is tried again now and then.
 */

import { Timer } from "./platform.js";
import { HttpSocket } from "./http_socket.js";
import { helloFrame } from "./protocol.js";

const MAX_FAILURES = 3; // tries in a row, where WebSockets have worked: more likely the gateway restarts
const ANSWER_MS = 10_000;
const PROBE_MS = 30_000; // the pause before the first try from HTTP; it doubles
const RESTART_PROBE_MS = 2_000; // likewise, where WebSockets have worked: the gateway was only away
const MAX_PROBE_MS = 600_000;

export class Transport {
  #url;
  #platform;
  #isHttp = false;
  #failures = 0;
  #hasWorked = false;
  #probePauseMs = PROBE_MS;
  #probeTimer;
  /** The WebSocket that is tried while HTTP serves. */
  #probe = null;

  /** @param {string} url @param {import("./platform.js").Platform} platform */
  constructor(url, platform) {
    this.#url = url;
    this.#platform = platform;
    this.#probeTimer = new Timer(platform);
  }

  get isHttp() {
    return this.#isHttp;
  }

  /** Open the next socket. */
  open() {
    this.stopProbing();
    return this.#isHttp
      ? new HttpSocket(this.#url, this.#platform)
      : new this.#platform.WebSocket(this.#url);
  }

  /** A socket was lost before anything was heard on it. */
  failed() {
    if (this.#isHttp) {
      this.#isHttp = false;
      return;
    }
    this.#failures++;
    const isBlocked = this.#failures >= (this.#hasWorked ? MAX_FAILURES : 1);
    this.#isHttp = isBlocked && this.#platform.fetch !== undefined;
    if (this.#isHttp && this.#hasWorked) this.#probePauseMs = RESTART_PROBE_MS;
  }

  /**
   * The gateway has answered.
   *
   * @param {(socket: WebSocket, welcome: MessageEvent) => void} adopt takes a WebSocket that works
   *   in the place of the present one
   */
  succeeded(adopt) {
    if (this.#isHttp) {
      this.#scheduleProbe(adopt);
      return;
    }
    this.#hasWorked = true;
    this.#failures = 0;
    this.#probePauseMs = PROBE_MS;
  }

  /** Try nothing more for now. */
  stopProbing() {
    this.#probeTimer.stop();
    const probe = this.#probe;
    this.#probe = null;
    probe?.close();
  }

  #scheduleProbe(adopt) {
    this.#probeTimer.start(this.#probePauseMs, () => this.#startProbe(adopt));
    this.#probePauseMs = Math.min(MAX_PROBE_MS, 2 * this.#probePauseMs);
  }

  #startProbe(adopt) {
    const probe = (this.#probe = new this.#platform.WebSocket(this.#url));
    const over = () => {
      if (this.#probe !== probe) return;
      this.stopProbing();
      this.#scheduleProbe(adopt);
    };
    this.#probeTimer.start(ANSWER_MS, over);
    probe.onopen = () => this.#probe === probe && probe.send(JSON.stringify(helloFrame()));
    probe.onclose = over;
    probe.onerror = () => {};
    probe.onmessage = (event) => {
      if (this.#probe !== probe || JSON.parse(event.data).type !== "welcome") return;
      this.#probe = null; // from now on it is the connection's
      this.#probeTimer.stop();
      this.#isHttp = false;
      adopt(probe, event);
    };
  }
}
