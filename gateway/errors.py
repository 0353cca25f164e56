"""Every error of the gateway and the SDK, and what each means on the wire.

    RealtimeError
    ├── MalformedFrame        400  the frame is not one JSON object of a known shape
    ├── UnknownFrame          400  no frame has this type
    ├── FrameTooLarge         413  over the frame limit
    ├── ProtocolVersion       400  close 4406
    ├── HelloExpected         400  close 4400
    ├── HelloTimeout          408  close 4408, retryable
    ├── TokenInUrl            400  close 4400
    ├── OriginForbidden       403  close 4403; a page of another origin
    ├── TooManyConnections    429  close 4429, retryable
    ├── InvalidToken          401  close 4401
    ├── TokenExpired          401  close 4401
    ├── TokenRevoked          401  close 4401
    ├── Forbidden             403  no scope allows it
    ├── InvalidId             422  a run, stream, tag or token id outside its rule
    ├── InvalidPosition       422
    ├── InvalidValue          422  a value or payload that its type refuses
    ├── RecordTooLarge        413
    ├── MetadataTooLarge      413  a run's metadata would be over its limit
    ├── TooManySubscriptions  429
    ├── DuplicateId           409  the connection uses this id already
    ├── UnknownSubscription   404
    ├── RunNotFound           404
    ├── RunExists             409
    ├── IllegalTransition     409  a run's status does not go there
    ├── StreamEnded           409  nothing can be appended any more
    ├── WriterFenced          409  a newer epoch of this writer exists
    ├── WriterGap             409  an earlier append of this writer is missing
    ├── OutOfOrder            409  the append's order is not after that of the last one
    ├── WriterFull            429  retryable; too much waits to be written
    ├── StoreUnavailable      503  retryable
    ├── StoreLocked           503  another process owns the store's file
    ├── ConnectionLost        503  retryable; the gateway did not answer in time
    ├── QueueUnavailable      503  retryable; the task queue took no run
    ├── ShuttingDown          503  close 4503, retryable
    ├── Silent                408  close 4508, retryable; nothing heard from the client
    ├── Idle                  408  close 4509, retryable; nothing subscribed or asked for
    ├── ConnectionAged        503  close 4510, retryable; open for as long as it may be
    ├── Internal              500  close 1011, retryable
    ├── ConfigurationError    500  settings that cannot work
    ├── NotStarted            500  close 4404; no store was opened
    ├── TokenSpent            403  a trigger token used as often as it may be
    ├── NoParent              422  target "parent" or "root" without one
    ├── NotInRun              422  called outside a task
    ├── TaskNotFound          404
    ├── RunCanceled           409  raised inside a task that is being canceled
    ├── RunFailed             500  a run that was waited for did not complete
    ├── StreamIncomplete      409  the stream that was read ended without completing
    ├── ReadTimeout           504  no record came within the reader's time
    ├── WaitTimeout           504  a wait token was not completed in time
    └── AbortTask             500  raised by a task: trying again will not help

Each class carries ``code`` (the string on the wire), ``http_status``, ``close_code`` (None: the
connection goes on) and ``retryable`` (the same thing may work later without a change).
"""

from __future__ import annotations


class RealtimeError(Exception):
    """Base of every error here.

    Args:
        message: What happened, with the thing's name and the limit.
        retry_after_s: Before which trying again does not help; None: nobody said.
    """

    code: str = "internal"
    http_status: int = 500
    close_code: int | None = None
    retryable: bool = False

    def __init_subclass__(
        cls,
        *,
        code: str | None = None,
        http_status: int | None = None,
        close_code: int | None = None,
        retryable: bool = False,
        **more: object,
    ) -> None:
        super().__init_subclass__(**more)
        if code is not None and http_status is not None:  # else it is a kind of one of these
            cls.code, cls.http_status = code, http_status
            cls.close_code, cls.retryable = close_code, retryable

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class MalformedFrame(RealtimeError, code="malformed_frame", http_status=400):
    """The frame is not one JSON object of a known shape."""


class UnknownFrame(RealtimeError, code="unknown_frame", http_status=400):
    """No frame has this type."""


class FrameTooLarge(RealtimeError, code="frame_too_large", http_status=413):
    """The frame is over the limit of bytes."""


class ProtocolVersion(RealtimeError, code="protocol_version", http_status=400, close_code=4406):
    """The client speaks another version of the protocol."""


class HelloExpected(RealtimeError, code="hello_expected", http_status=400, close_code=4400):
    """The first frame was not `hello`."""


class HelloTimeout(
    RealtimeError, code="hello_timeout", http_status=408, close_code=4408, retryable=True
):
    """No `hello`, or no token that is good, arrived in time."""


class TokenInUrl(RealtimeError, code="token_in_url", http_status=400, close_code=4400):
    """A token came in the address, where logs and histories keep it."""


class OriginForbidden(RealtimeError, code="origin_forbidden", http_status=403, close_code=4403):
    """The page's origin is not one that may connect."""


class TooManyConnections(
    RealtimeError, code="too_many_connections", http_status=429, close_code=4429, retryable=True
):
    """The subject, the address or the gateway has as many connections as it may."""


class InvalidToken(RealtimeError, code="invalid_token", http_status=401, close_code=4401):
    """The token is missing, malformed, or not signed by this gateway."""


class TokenExpired(RealtimeError, code="token_expired", http_status=401, close_code=4401):
    """The token's `exp` has passed."""


class TokenRevoked(RealtimeError, code="token_revoked", http_status=401, close_code=4401):
    """The token, or one that it was made from, was revoked."""


class Forbidden(RealtimeError, code="forbidden", http_status=403):
    """No scope of the token allows it."""


class InvalidId(RealtimeError, code="invalid_id", http_status=422):
    """A run, stream, tag, task or writer id is outside its rule."""


class InvalidPosition(RealtimeError, code="invalid_position", http_status=422):
    """The string is not a position."""


class InvalidValue(RealtimeError, code="invalid_value", http_status=422):
    """A value or payload does not fit its type, or is no JSON."""


class RecordTooLarge(RealtimeError, code="record_too_large", http_status=413):
    """One record is over the limit of bytes."""


class MetadataTooLarge(RealtimeError, code="metadata_too_large", http_status=413):
    """A run's metadata would be over the limit of bytes."""


class TooManySubscriptions(RealtimeError, code="too_many_subscriptions", http_status=429):
    """The connection holds as many subscriptions as it may."""


class DuplicateId(RealtimeError, code="duplicate_id", http_status=409):
    """The connection uses this `id` for something else that is live."""


class UnknownSubscription(RealtimeError, code="unknown_subscription", http_status=404):
    """The connection has no subscription with this `id`."""


class RunNotFound(RealtimeError, code="run_not_found", http_status=404):
    """There is no such run."""


class RunExists(RealtimeError, code="run_exists", http_status=409):
    """A run with this id is there already."""


class IllegalTransition(RealtimeError, code="illegal_transition", http_status=409):
    """A run's status does not go from where it is to where the patch wants it."""


class StreamEnded(RealtimeError, code="stream_ended", http_status=409):
    """The stream has ended; nothing can be appended any more."""


class WriterFenced(RealtimeError, code="writer_fenced", http_status=409):
    """A newer epoch of this writer exists; this one must stop.

    Attributes:
        epoch: The newest seen; None if the error came over the wire.
    """

    epoch: int | None = None


class WriterGap(RealtimeError, code="writer_gap", http_status=409):
    """An earlier append of this writer is missing.

    Attributes:
        expected: The sequence that comes next; None if the error came over the wire.
        is_new_epoch: The writer is known and has named a newer epoch, which begins with 0.
    """

    expected: int | None = None
    is_new_epoch: bool = False


class OutOfOrder(RealtimeError, code="out_of_order", http_status=409):
    """The append's `order` is not after that of the last one that had one."""


class WriterFull(RealtimeError, code="writer_full", http_status=429, retryable=True):
    """Too much waits to be written; await a receipt first."""


class StoreUnavailable(RealtimeError, code="store_unavailable", http_status=503, retryable=True):
    """The store cannot be reached, read or written."""


class StoreLocked(RealtimeError, code="store_locked", http_status=503):
    """Another process owns the store's file."""


class ConnectionLost(RealtimeError, code="connection_lost", http_status=503, retryable=True):
    """The gateway did not answer in time."""


class QueueUnavailable(RealtimeError, code="queue_unavailable", http_status=503, retryable=True):
    """The task queue that should bring a run to its workers cannot be reached."""


class ShuttingDown(
    RealtimeError, code="shutting_down", http_status=503, close_code=4503, retryable=True
):
    """The gateway is going down; come back."""


class Silent(RealtimeError, code="silent", http_status=408, close_code=4508, retryable=True):
    """Nothing was heard from the client for too long."""


class Idle(RealtimeError, code="idle", http_status=408, close_code=4509, retryable=True):
    """Nothing was subscribed or asked for, for too long."""


class ConnectionAged(
    RealtimeError, code="connection_aged", http_status=503, close_code=4510, retryable=True
):
    """The connection has been open for as long as one may be; come back."""


class Internal(RealtimeError, code="internal", http_status=500, close_code=1011, retryable=True):
    """An error of the gateway's own; the log has more."""


class ConfigurationError(RealtimeError, code="configuration_error", http_status=500):
    """A setting that cannot work."""


class MissingExtra(ConfigurationError, ModuleNotFoundError):
    """A package that an extra brings is not installed; the message has the command."""


class NotStarted(RealtimeError, code="not_started", http_status=500, close_code=4404):
    """No store was opened: the gateway's lifespan was not run, or there is no `connect()`."""


class TokenSpent(RealtimeError, code="token_spent", http_status=403):
    """The trigger token has been used as often as it may be."""


class NoParent(RealtimeError, code="no_parent", http_status=422):
    """`target="parent"` or `"root"` outside a run, or in a run without a parent."""


class NotInRun(RealtimeError, code="not_in_run", http_status=422):
    """What belongs to a run was called outside a task."""


class TaskNotFound(RealtimeError, code="task_not_found", http_status=404):
    """No task with this id is defined in this process."""


class RunCanceled(RealtimeError, code="run_canceled", http_status=409):
    """Raised inside a task that is being canceled."""


class RunFailed(RealtimeError, code="run_failed", http_status=500):
    """A run that was waited for did not complete."""


class StreamIncomplete(RealtimeError, code="stream_incomplete", http_status=409):
    """The stream that was read has ended without completing."""


class ReadTimeout(RealtimeError, code="read_timeout", http_status=504):
    """No record came within the reader's time."""


class WaitTimeout(RealtimeError, code="wait_timeout", http_status=504):
    """A wait token was not completed in time."""


class AbortTask(RealtimeError, code="abort_task", http_status=500):
    """Raise it in a task to fail the run at once, also in a group: trying again will not help."""


BY_CODE: dict[str, type[RealtimeError]] = {
    error.code: error for error in RealtimeError.__subclasses__()
}
"""The error class of each code on the wire."""

_OF_THE_SDK: frozenset[type[RealtimeError]] = frozenset(
    {
        WriterFull,
        StoreLocked,
        ConnectionLost,
        ConfigurationError,
        NoParent,
        NotInRun,
        RunCanceled,
        RunFailed,
        StreamIncomplete,
        ReadTimeout,
        WaitTimeout,
        AbortTask,
    }
)


def on_the_wire() -> list[type[RealtimeError]]:
    """Return those that gateways send; the others are raised where the SDK is used."""
    return [error for error in BY_CODE.values() if error not in _OF_THE_SDK]


def from_wire(code: str, message: str, retry_after_s: float | None = None) -> RealtimeError:
    """Make the error that a gateway's `error` frame speaks of.

    Args:
        code: The frame's code; one that is not known here gives a plain `RealtimeError`.
        message: The frame's message.
        retry_after_s: The frame's `retry_after_ms`, if it has one.

    Returns:
        An instance, not raised.

    Source:
        PROTOCOL.md, section 9.
    """
    return BY_CODE.get(code, RealtimeError)(message, retry_after_s)
