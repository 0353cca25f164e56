/**
 * Chooses between a WebSocket and HTTP.
 *
 * A blocked WebSocket looks like any failure: it closes, or there is no answer. So the transport
 * alternates between both until one works. While it uses HTTP, it probes a WebSocket from time to
 * time.
 */

import { Timer } from "./platform.js";
import { HttpSocket } from "./http_socket.js";
import { helloFrame } from "./protocol.js";

const MAX_FAILURES = 3; // in a row, after a WebSocket has worked: the gateway may be restarting
const ANSWER_MS = 10_000;
const PROBE_MS = 30_000; // delay of the first probe; it doubles with each failure
const RESTART_PROBE_MS = 2_000; // the same if a WebSocket has worked before
const MAX_PROBE_MS = 600_000;

export class Transport {
  #url;
  #platform;
  #isHttp = false;
  #failures = 0;
  #hasWorked = false;
  #probePauseMs = PROBE_MS;
  #probeTimer;
  /** The WebSocket of the current probe. */
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

  /** Record that a socket closed before its first frame. */
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
   * Record that the gateway has answered.
   *
   * @param {(socket: WebSocket, welcome: MessageEvent) => void} adopt replaces the current socket by
   *   a WebSocket that works
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

  /** Stop the current and the scheduled probe. */
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
    const onFailure = () => {
      if (this.#probe !== probe) return;
      this.stopProbing();
      this.#scheduleProbe(adopt);
    };
    this.#probeTimer.start(ANSWER_MS, onFailure);
    probe.onopen = () => this.#probe === probe && probe.send(JSON.stringify(helloFrame()));
    probe.onclose = onFailure;
    probe.onerror = () => {};
    probe.onmessage = (event) => {
      if (this.#probe !== probe || JSON.parse(event.data).type !== "welcome") return;
      this.#probe = null; // the connection owns it from now on
      this.#probeTimer.stop();
      this.#isHttp = false;
      adopt(probe, event);
    };
  }
}
