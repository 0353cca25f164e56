"""A worker written from `gateway/PROTOCOL.md` alone: blocking, one thread, no code of the project.

    python protocol_worker.py URL TOKEN [FIRST_BACKOFF_S]

It creates a run, answers each value of the run's input `question` with a record of the stream
`answers`, counts the answers in the metadata, and completes at the question `null`. It stops when
cancellation is requested. Lost connections lose no data: it sends unanswered requests again.
"""

import json
import random
import secrets
import sys
import time
from datetime import UTC, datetime

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_run_id():
    """Section 3: 9 digits of time, so that ids sort by time, and 100 random bits."""
    time_ms = int(time.time() * 1000)
    digits = [ALPHABET[time_ms // 36**place % 36] for place in reversed(range(9))]
    return "run_" + "".join(digits + random.SystemRandom().choices(ALPHABET, k=20))


def now():
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Refused(Exception):
    """An `error` that is not retryable."""

    def __init__(self, frame):
        super().__init__(f"{frame['code']}: {frame['message']}")
        self.code = frame["code"]


class Link:
    """Requests and subscriptions that outlive connections: sections 7 and 8."""

    def __init__(self, url, token, owner, first_backoff_s):
        self.url, self.hello = url, {"type": "hello", "protocol": 1, "token": token, "owner": owner}
        self.first_backoff_s = first_backoff_s
        self.attempt, self.advice_s = 0, 0.0
        self.last_id = 0
        self.subscriptions = {}  # by id: the frame that resumes at the last position
        self.unanswered = {}  # by id, in order
        self.later = []  # frames of subscriptions that arrived during the wait for an answer
        self.socket = None

    def send(self, frame):
        if self.socket is not None:
            try:
                self.socket.send(json.dumps(frame))
            except ConnectionClosed:
                pass  # `receive` detects it, and sends everything again

    def subscribe(self, **what):
        self.last_id += 1
        frame = {"type": "subscribe", "id": self.last_id, **what}
        self.subscriptions[self.last_id] = frame
        self.send(frame)
        return self.last_id

    def ask(self, type, **fields):
        """Send a request, repeat it after lost connections, and return its answer."""
        self.last_id += 1
        id = self.last_id
        self.unanswered[id] = {"type": type, "id": id, **fields}
        self.send(self.unanswered[id])
        while id in self.unanswered:
            frame = self.receive()
            if frame.get("id") != id:
                self.later.append(frame)
            elif frame["type"] == "error" and frame["retryable"]:
                self.advice_s = frame.get("retry_after_ms", 0) / 1000
                self.disconnect()
            elif frame["type"] == "error":
                raise Refused(self.unanswered.pop(id) and frame)
            else:
                del self.unanswered[id]
        return frame

    def next(self):
        return self.later.pop(0) if self.later else self.receive()

    def receive(self):
        """Return the next frame of a subscription or request, whatever the connection does."""
        while True:
            if self.socket is None:
                self.connect()
            try:
                frame = json.loads(self.socket.recv(timeout=self.ping_s))
            except TimeoutError:
                self.send({"type": "ping"})
                continue
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                if 4400 <= code <= 4499 and code not in (4408, 4429):
                    raise SystemExit(f"the gateway closed with {code}") from None
                self.disconnect()
                continue
            if "id" in frame:
                if self.is_in_order(frame):
                    return frame
                self.disconnect()  # a record is missing: section 5 says to resume before it
            elif frame["type"] == "error":
                self.advice_s = frame.get("retry_after_ms", 0) / 1000
                print(frame, file=sys.stderr, flush=True)

    def is_in_order(self, frame):
        """Store the position of a subscription; return whether no record is missing."""
        subscription = self.subscriptions.get(frame["id"])
        if subscription is None:
            return True
        position = frame.get("to", frame.get("position"))
        if frame["type"] == "records":
            wanted = subscription.setdefault("at", frame["records"][0]["offset"])
            if [each["offset"] for each in frame["records"]] != list(
                range(wanted, wanted + len(frame["records"]))
            ):
                return False
            subscription["at"] = wanted + len(frame["records"])
        elif frame["type"] in ("gap", "reset", "subscribed"):
            subscription.pop("at", None)
        if frame["type"] in ("end", "error"):
            del self.subscriptions[frame["id"]]
        elif position is not None and "stream" in subscription:
            subscription["start"] = {"position": position}
        return True

    def disconnect(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def connect(self):
        while self.socket is None:
            limit_s = min(30.0, self.first_backoff_s * 2**self.attempt)
            time.sleep(self.advice_s + random.random() * limit_s)
            self.attempt, self.advice_s = self.attempt + 1, 0.0
            try:
                self.socket = connect(self.url, max_size=None, compression=None)
                self.socket.send(json.dumps(self.hello))
                welcome = json.loads(self.socket.recv(timeout=10))
            except (OSError, ConnectionClosed):  # TimeoutError is an OSError
                self.disconnect()
                continue
            if welcome["type"] == "error" and not welcome["retryable"]:
                raise Refused(welcome)
            if welcome["type"] != "welcome":
                self.disconnect()
                continue
            self.ping_s = welcome["ping_ms"] / 1000
            for frame in (*self.subscriptions.values(), *self.unanswered.values()):
                self.send({name: value for name, value in frame.items() if name != "at"})


class Run:
    """A run of this worker: sections 4, 6 and 8."""

    def __init__(self, link, task, owner):
        self.link, self.id, self.began_s = link, new_run_id(), time.time()
        self.writer = {"id": secrets.token_hex(8), "epoch": 0}
        self.sequences = {}  # by stream; `$run` counts patches
        value = {"id": self.id, "root_id": self.id, "task": task, "status": "executing"}
        value |= {"created_at": now(), "started_at": now(), "owner": owner, "tags": ["foreign"]}
        try:
            link.ask("run_create", value=value)
        except Refused as refused:
            if refused.code != "run_exists":  # else it was made before the connection broke
                raise

    def numbered(self, stream, count):
        sequence = self.sequences.get(stream, 0)
        self.sequences[stream] = sequence + count
        return {**self.writer, "sequence": sequence}

    def append(self, stream, *records):
        writer = self.numbered(stream, len(records))
        self.link.ask("append", run=self.id, stream=stream, records=records, writer=writer)

    def patch(self, patch=None, operations=()):
        writer = self.numbered("$run", 1)
        fields = {"patch": patch or {}, "operations": operations, "writer": writer}
        return self.link.ask("run_patch", run=self.id, **fields)["value"]

    def end(self, status, **fields):
        duration_ms = round((time.time() - self.began_s) * 1000)
        over = {"status": status, "finished_at": now(), "duration_ms": duration_ms}
        self.patch(over | fields)


def main(url, token, first_backoff_s=0.5):
    owner = "worker" + secrets.token_hex(8)
    link = Link(url, token, owner, float(first_backoff_s))
    run = Run(link, "foreign-task", owner)
    print(run.id, flush=True)
    questions = link.subscribe(run=run.id, stream="question")
    changes = link.subscribe(run=run.id)
    answered = 0
    while True:
        frame = link.next()
        if frame["type"] == "error":
            raise Refused(frame)
        if frame["id"] == changes:
            known = [frame.get("run") or {}, *(each["data"] for each in frame.get("records", []))]
            if any(each.get("cancel_requested_at") for each in known):
                return run.end("canceled")
        elif frame["id"] == questions:
            for record in frame.get("records", []):
                if record["data"] is None:
                    return run.end("completed", output={"answered": answered})
                run.append("answers", {"answer": record["data"] * 2})
                run.patch(operations=[{"op": "increment", "key": "answered", "value": 1}])
                answered += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
