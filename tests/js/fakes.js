/** A clock that the test advances, and sockets whose peer is the test. */

export class FakeClock {
  #nowMs = 0;
  #timers = new Map();
  #nextHandle = 1;

  now = () => this.#nowMs;

  setTimeout = (action, ms) => {
    this.#timers.set(this.#nextHandle, { atMs: this.#nowMs + ms, action });
    return this.#nextHandle++;
  };

  clearTimeout = (handle) => this.#timers.delete(handle);

  /** Run the timers of the next `ms`, in order. */
  advance(ms) {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.atMs <= untilMs);
      if (due.length === 0) break;
      due.sort(([, a], [, b]) => a.atMs - b.atMs);
      const [handle, timer] = due[0];
      this.#timers.delete(handle);
      this.#nowMs = Math.max(this.#nowMs, timer.atMs);
      timer.action();
    }
    this.#nowMs = untilMs;
  }
}

export class FakeSocket {
  sent = [];
  isClosedByClient = false;

  constructor(url) {
    this.url = url;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.isClosedByClient = true;
  }

  // From here on: actions of the peer and the network.

  open() {
    this.onopen({});
  }

  receive(...frames) {
    for (const frame of frames) this.onmessage({ data: JSON.stringify(frame) });
  }

  drop(code = 1006, reason = "") {
    this.onclose({ code, reason });
  }

  welcome(pingMs = 20_000) {
    this.open();
    this.receive({ type: "welcome", protocol: 1, connection: "c_1", ping_ms: pingMs, limits: {} });
  }

  /** Return the frames sent since the last call. */
  taken() {
    return this.sent.splice(0);
  }
}

/** A page whose clock, sockets and randomness the test controls. */
export class FakePage {
  clock = new FakeClock();
  sockets = [];
  chance = 0.5;
  #wakeListeners = [];

  get platform() {
    const { clock, sockets } = this;
    return {
      WebSocket: class extends FakeSocket {
        constructor(url) {
          super(url);
          sockets.push(this);
        }
      },
      setTimeout: clock.setTimeout,
      clearTimeout: clock.clearTimeout,
      now: clock.now,
      random: () => this.chance,
      onWake: (listener) => this.#wakeListeners.push(listener),
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  wake() {
    for (const listener of this.#wakeListeners) listener();
  }

  /** Run the pending reconnect and welcome it. */
  reconnect() {
    const before = this.sockets.length;
    while (this.sockets.length === before) this.clock.advance(50);
    this.socket.welcome();
    this.socket.sent.shift(); // hello
  }
}

export const SINK_METHODS = [
  "subscribed",
  "records",
  "gap",
  "reset",
  "end",
  "error",
  "disconnected",
  "unreachable",
  "tokenExpiring",
  "tokenAccepted",
  "tokenRejected",
];

export const URL_OF_GATEWAY = "ws://gateway.test/v1/ws";

export const position = (offset, epoch = "019aab37c2f1a3d4") =>
  `${epoch}_${String(offset).padStart(16, "0")}`;

/** Return a `records` frame with these values, from this offset. */
export const records = (id, offset, ...values) => ({
  type: "records",
  id,
  records: values.map((data, i) => ({ offset: offset + i, time_ms: 1, data })),
  position: position(offset + values.length),
});

export const subscribed = (id, offset = 0) => ({
  type: "subscribed",
  id,
  position: position(offset),
});
