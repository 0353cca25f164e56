"""What a client must stay below, and what a gateway spends at most. No I/O.

There are two kinds. The constants are the limits of what users make. They hold on every way in
(WebSocket, HTTP, SDK, command line) and are no settings, since a value that one process has
accepted must be readable by all others. `VALUE_LIMITS` is the table of them that PROTOCOL.md shows.

The fields of `Limits` are what one gateway spends on its clients. Each is read from the
environment as `REALTIME_` and its name in capitals, for example `REALTIME_SUBSCRIPTIONS=100`. The
default stands beside it, and what raising it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.errors import (
    ConfigurationError,
    InvalidId,
    InvalidValue,
    MalformedFrame,
    MetadataTooLarge,
    RealtimeError,
)
from gateway.model.records import MAX_RUN_ID_CHARACTERS, MAX_STREAM_ID_CHARACTERS

SPARE_BYTES = 4096  # of a frame that carries one record: what is around the record

# Names.
MAX_TASK_CHARACTERS = 256  # Celery and Taskiq name tasks by their module
MAX_TAG_CHARACTERS = 128
MAX_BATCH_ID_CHARACTERS = 128
MAX_OWNER_CHARACTERS = 64
MAX_WRITER_ID_CHARACTERS = 64
MAX_KEY_CHARACTERS = 256  # of an idempotency key
MAX_ORDER_CHARACTERS = 256
MAX_METADATA_KEY_CHARACTERS = 128

# A run's values, as JSON. A listing of runs leaves large ones out; any other answer holds them all.
MAX_TAGS = 10  # each is a log that gets a copy of every change of the run
MAX_PAYLOAD_BYTES = 512 << 10
MAX_OUTPUT_BYTES = (2 << 20) - SPARE_BYTES  # what fits into a data frame of the default size
MAX_METADATA_BYTES = 256 << 10  # part of every snapshot of the run
MAX_ERROR_TYPE_CHARACTERS = 200
MAX_ERROR_CHARACTERS = 2000
MAX_ATTEMPTS = 2**32 - 1
MAX_SECONDS = 10 * 365 * 24 * 3600.0  # of any delay or limit; more is a mistake

# Numbers of things in one request, and in its answer.
MAX_APPEND_RECORDS = 1000  # one atomic unit
MAX_OPERATIONS = 1000  # on metadata, in one `run_patch`
MAX_BATCH_RUNS = 1000
MAX_SET_TAGS = 20  # in one union of sets: a cursor each
MAX_LISTED_RUNS = 1000  # in one answer: a page of a list, or a snapshot of a set
LIST_BYTES = 4 << 20  # of one such answer, and of what a store reads for it
LEAST_LISTED_RUNS = 10  # in it, if there are so many: a shorter page of a list is the last
LISTED_FIELD_BYTES = 64 << 10  # of one field of a run in such an answer: a larger one is left out
MAX_THROTTLE_MS = 60_000

MAX_INTEGER = 2**53  # every client knows whole numbers up to here exactly


# Arrays and objects inside each other, of a value: Pydantic reads 200, and a record has some more
# around it. What is deeper could be stored and not be read again.
JSON_DEPTH = 128
FRAME_DEPTH = JSON_DEPTH + 4  # of a frame: what is around the value in it


class ValueLimit(NamedTuple):
    """One row of the table in PROTOCOL.md.

    Attributes:
        what: The limited value.
        most: How much of it is allowed.
        unit: Of `most`; of several things, nothing.
        error: What refuses more; None: no error, the answer is cut.
    """

    what: str
    most: float
    unit: str
    error: type[RealtimeError] | None


VALUE_LIMITS: tuple[ValueLimit, ...] = (
    ValueLimit("run id", MAX_RUN_ID_CHARACTERS, "characters", InvalidId),
    ValueLimit("stream id", MAX_STREAM_ID_CHARACTERS, "characters", InvalidId),
    ValueLimit("`task` of a run", MAX_TASK_CHARACTERS, "characters", InvalidValue),
    ValueLimit("`batch_id` of a run", MAX_BATCH_ID_CHARACTERS, "characters", InvalidValue),
    ValueLimit("`owner` of a run", MAX_OWNER_CHARACTERS, "characters", InvalidValue),
    ValueLimit("`idempotency_key` of a run", MAX_KEY_CHARACTERS, "characters", InvalidValue),
    ValueLimit("tags of a run", MAX_TAGS, "", InvalidValue),
    ValueLimit("one tag", MAX_TAG_CHARACTERS, "characters", InvalidId),
    ValueLimit("`payload` of a run", MAX_PAYLOAD_BYTES, "bytes", InvalidValue),
    ValueLimit("`output` of a run", MAX_OUTPUT_BYTES, "bytes", InvalidValue),
    ValueLimit("`metadata` of a run", MAX_METADATA_BYTES, "bytes", MetadataTooLarge),
    ValueLimit("one key of the metadata", MAX_METADATA_KEY_CHARACTERS, "characters", InvalidValue),
    ValueLimit("`type` of a run's error", MAX_ERROR_TYPE_CHARACTERS, "characters", InvalidValue),
    ValueLimit("`message` of a run's error", MAX_ERROR_CHARACTERS, "characters", InvalidValue),
    ValueLimit("`attempt`, `max_attempts`", MAX_ATTEMPTS, "", InvalidValue),
    ValueLimit("`max_duration_s`", MAX_SECONDS, "seconds", InvalidValue),
    ValueLimit("nesting depth of a record", JSON_DEPTH, "", MalformedFrame),
    ValueLimit("records of an `append`", MAX_APPEND_RECORDS, "", MalformedFrame),
    ValueLimit("`id` of a writer", MAX_WRITER_ID_CHARACTERS, "characters", MalformedFrame),
    ValueLimit("`order` of an `append`", MAX_ORDER_CHARACTERS, "characters", MalformedFrame),
    ValueLimit("operations of a `run_patch`", MAX_OPERATIONS, "", MalformedFrame),
    ValueLimit("runs of a batch that the SDK triggers", MAX_BATCH_RUNS, "", InvalidValue),
    ValueLimit("`throttle_ms`", MAX_THROTTLE_MS, "ms", MalformedFrame),
    ValueLimit("tags of a set of runs", MAX_SET_TAGS, "", MalformedFrame),
    ValueLimit("`limit` of a list, or of a set of runs", MAX_LISTED_RUNS, "", MalformedFrame),
    ValueLimit("all runs of such an answer", LIST_BYTES, "bytes", None),
    ValueLimit("one field of a run in such an answer", LISTED_FIELD_BYTES, "bytes", None),
)
"""The limits of what users make, in the order of the documents' table."""

# A JSON Schema that a worker registers, and the checks by it. They run on the event loop, so their
# costs are bounded in advance: no check of a value takes more than about half a second.
SCHEMA_BYTES = 256 << 10  # of one schema; compiling it takes up to 0.1 s
SCHEMA_LEVELS = 64  # of schemas in schemas, and of references to references
SCHEMA_PARTS = 2000  # schemas in one schema; looking through them takes up to 0.1 s
SCHEMA_PATTERNS = 128  # in one schema; compiling one takes up to 3 ms
REGISTERED_SCHEMAS = 1000  # in one gateway
CHECK_STEPS = 1_000_000  # comparisons of a part of a value with a part of a schema; 0.5 us each
PATTERN_WORK_US = 500_000  # of all texts of one value that are held against patterns
HASHED_ITEMS = 1000  # of a set or of keys, where a client can choose values of equal hash


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one gateway.

    Attributes:
        frame_bytes: Of a frame from a client that carries no data. Before `hello` every frame is
            one, so a stranger costs no more than this. On the gateway's own server a larger one,
            its fragments together, closes the connection while it arrives.
        data_frame_bytes: Of `append`, `run_create`, `run_patch` and `register`: records of 1 MiB,
            or a payload, and what is around them. Memory of the gateway while it is read.
        record_bytes: Of one record. It is kept whole in memory for as long as it is sent.
        subscriptions: Of one connection; about 2 KB each.
        requests: Under way on one connection. One that has as many is not read until one of them
            is answered.
        flight_bytes: Of one connection's requests under way and of answers that wait to be taken.
            Above it the connection is not read: what it may cost at once, and a frame.
        subject_connections: Open with tokens of one subject (workers and tokens without a subject
            are not counted); about 24 KB each.
        address_connections: Open from one address (of IPv6: from one /64); about 24 KB each.
        accepts_per_s: New connections of the whole gateway, after a burst of two seconds' worth.
            A greeting costs about 0.5 ms of CPU.
        hello_s: For `hello`, and for a token that is good; a stranger holds a socket so long.
        idle_s: Without a subscription or a request; workers may rest. A socket and 24 KB.
        send_s: A client that takes nothing and says nothing for so long is cut off.
        ring_bytes: Of all rings of recent records together; a reader that lags further behind
            than they reach reads the store.
        max_age_s: After which a connection is asked to come back anew (from 0.9 to 1 of it, at
            random); 0: never. Spreads clients over gateways that were added.
        drain_s: From SIGTERM to the process's end.
        lease_s: A worker that is away for so long, or a gateway of a Redis store, is taken for dead
            and its runs are marked crashed.
        long_poll_s: For something to be appended, of a request over HTTP that waits for it. Below
            what proxies allow, commonly 60.
        events_s: Of an answer of server-sent events (from 0.8 to 1 of it, at random), after which
            its reader comes back where it was: spreads readers over gateways, and lets caches
            collapse them.
    """

    frame_bytes: int = 64 << 10
    data_frame_bytes: int = 2 << 20
    record_bytes: int = 1 << 20
    subscriptions: int = 256
    requests: int = 64
    flight_bytes: int = 4 << 20
    subject_connections: int = 100
    address_connections: int = 1000
    accepts_per_s: float = 500.0
    hello_s: float = 10.0
    idle_s: float = 300.0
    send_s: float = 60.0
    ring_bytes: int = 256 << 20
    max_age_s: float = 0.0
    drain_s: float = 10.0
    lease_s: float = 60.0
    long_poll_s: float = 20.0
    events_s: float = 60.0

    def check(self) -> Limits:
        """Return the limits if they fit each other.

        Raises:
            ConfigurationError: names the two that do not.
        """
        if self.record_bytes + SPARE_BYTES > self.data_frame_bytes:
            raise ConfigurationError(
                f"REALTIME_RECORD_BYTES is {self.record_bytes}; with what is around a record that "
                f"does not fit REALTIME_DATA_FRAME_BYTES, which is {self.data_frame_bytes}"
            )
        return self


def arriving_bytes(limits: Limits) -> int:
    """Return the most that a server gathers of one message, after `hello`.

    It is more than any frame may have, so that one that is too large is answered with both numbers.
    """
    return 2 * limits.data_frame_bytes


DEFAULT_LIMITS = Limits()
