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
    ├── NotStarted            500  the SDK was used without a store
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

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class MalformedFrame(RealtimeError):
    """The frame is not one JSON object of a known shape."""

    code = "malformed_frame"
    http_status = 400


class UnknownFrame(RealtimeError):
    """No frame has this type."""

    code = "unknown_frame"
    http_status = 400


class FrameTooLarge(RealtimeError):
    """The frame is over the limit of bytes."""

    code = "frame_too_large"
    http_status = 413


class ProtocolVersion(RealtimeError):
    """The client speaks another version of the protocol."""

    code = "protocol_version"
    http_status = 400
    close_code = 4406


class HelloExpected(RealtimeError):
    """The first frame was not `hello`."""

    code = "hello_expected"
    http_status = 400
    close_code = 4400


class HelloTimeout(RealtimeError):
    """No `hello`, or no token that is good, arrived in time."""

    code = "hello_timeout"
    http_status = 408
    close_code = 4408
    retryable = True


class TokenInUrl(RealtimeError):
    """A token came in the address, where logs and histories keep it."""

    code = "token_in_url"
    http_status = 400
    close_code = 4400


class OriginForbidden(RealtimeError):
    """The page's origin is not one that may connect."""

    code = "origin_forbidden"
    http_status = 403
    close_code = 4403


class TooManyConnections(RealtimeError):
    """The subject, the address or the gateway has as many connections as it may."""

    code = "too_many_connections"
    http_status = 429
    close_code = 4429
    retryable = True


class InvalidToken(RealtimeError):
    """The token is missing, malformed, or not signed by this gateway."""

    code = "invalid_token"
    http_status = 401
    close_code = 4401


class TokenExpired(RealtimeError):
    """The token's `exp` has passed."""

    code = "token_expired"
    http_status = 401
    close_code = 4401


class TokenRevoked(RealtimeError):
    """The token, or one that it was made from, was revoked."""

    code = "token_revoked"
    http_status = 401
    close_code = 4401


class Forbidden(RealtimeError):
    """No scope of the token allows it."""

    code = "forbidden"
    http_status = 403


class InvalidId(RealtimeError):
    """A run, stream, tag, task or writer id is outside its rule."""

    code = "invalid_id"
    http_status = 422


class InvalidPosition(RealtimeError):
    """The string is not a position."""

    code = "invalid_position"
    http_status = 422


class InvalidValue(RealtimeError):
    """A value or payload does not fit its type, or is no JSON."""

    code = "invalid_value"
    http_status = 422


class RecordTooLarge(RealtimeError):
    """One record is over the limit of bytes."""

    code = "record_too_large"
    http_status = 413


class MetadataTooLarge(RealtimeError):
    """A run's metadata would be over the limit of bytes."""

    code = "metadata_too_large"
    http_status = 413


class TooManySubscriptions(RealtimeError):
    """The connection holds as many subscriptions as it may."""

    code = "too_many_subscriptions"
    http_status = 429


class DuplicateId(RealtimeError):
    """The connection uses this `id` for something else that is live."""

    code = "duplicate_id"
    http_status = 409


class UnknownSubscription(RealtimeError):
    """The connection has no subscription with this `id`."""

    code = "unknown_subscription"
    http_status = 404


class RunNotFound(RealtimeError):
    """There is no such run."""

    code = "run_not_found"
    http_status = 404


class RunExists(RealtimeError):
    """A run with this id is there already."""

    code = "run_exists"
    http_status = 409


class IllegalTransition(RealtimeError):
    """A run's status does not go from where it is to where the patch wants it."""

    code = "illegal_transition"
    http_status = 409


class StreamEnded(RealtimeError):
    """The stream has ended; nothing can be appended any more."""

    code = "stream_ended"
    http_status = 409


class WriterFenced(RealtimeError):
    """A newer epoch of this writer exists; this one must stop.

    Attributes:
        epoch: The newest seen; None if the error came over the wire.
    """

    code = "writer_fenced"
    http_status = 409
    epoch: int | None = None


class WriterGap(RealtimeError):
    """An earlier append of this writer is missing.

    Attributes:
        expected: The sequence that comes next; None if the error came over the wire.
        is_new_epoch: The writer is known and has named a newer epoch, which begins with 0.
    """

    code = "writer_gap"
    http_status = 409
    expected: int | None = None
    is_new_epoch: bool = False


class OutOfOrder(RealtimeError):
    """The append's `order` is not after that of the last one that had one."""

    code = "out_of_order"
    http_status = 409


class WriterFull(RealtimeError):
    """Too much waits to be written; await a receipt first."""

    code = "writer_full"
    http_status = 429
    retryable = True


class StoreUnavailable(RealtimeError):
    """The store cannot be reached, read or written."""

    code = "store_unavailable"
    http_status = 503
    retryable = True


class StoreLocked(RealtimeError):
    """Another process owns the store's file."""

    code = "store_locked"
    http_status = 503


class ConnectionLost(RealtimeError):
    """The gateway did not answer in time."""

    code = "connection_lost"
    http_status = 503
    retryable = True


class QueueUnavailable(RealtimeError):
    """The task queue that should bring a run to its workers cannot be reached."""

    code = "queue_unavailable"
    http_status = 503
    retryable = True


class ShuttingDown(RealtimeError):
    """The gateway is going down; come back."""

    code = "shutting_down"
    http_status = 503
    close_code = 4503
    retryable = True


class Silent(RealtimeError):
    """Nothing was heard from the client for too long."""

    code = "silent"
    http_status = 408
    close_code = 4508
    retryable = True


class Idle(RealtimeError):
    """Nothing was subscribed or asked for, for too long."""

    code = "idle"
    http_status = 408
    close_code = 4509
    retryable = True


class ConnectionAged(RealtimeError):
    """The connection has been open for as long as one may be; come back."""

    code = "connection_aged"
    http_status = 503
    close_code = 4510
    retryable = True


class Internal(RealtimeError):
    """An error of the gateway's own; the log has more."""

    code = "internal"
    http_status = 500
    close_code = 1011
    retryable = True


class ConfigurationError(RealtimeError):
    """A setting that cannot work."""

    code = "configuration_error"
    http_status = 500


class NotStarted(RealtimeError):
    """The SDK has no store: use `async with connect():` or run inside an app."""

    code = "not_started"
    http_status = 500


class TokenSpent(RealtimeError):
    """The trigger token has been used as often as it may be."""

    code = "token_spent"
    http_status = 403


class NoParent(RealtimeError):
    """`target="parent"` or `"root"` outside a run, or in a run without a parent."""

    code = "no_parent"
    http_status = 422


class NotInRun(RealtimeError):
    """What belongs to a run was called outside a task."""

    code = "not_in_run"
    http_status = 422


class TaskNotFound(RealtimeError):
    """No task with this id is defined in this process."""

    code = "task_not_found"
    http_status = 404


class RunCanceled(RealtimeError):
    """Raised inside a task that is being canceled."""

    code = "run_canceled"
    http_status = 409


class RunFailed(RealtimeError):
    """A run that was waited for did not complete."""

    code = "run_failed"
    http_status = 500


class StreamIncomplete(RealtimeError):
    """The stream that was read has ended without completing."""

    code = "stream_incomplete"
    http_status = 409


class ReadTimeout(RealtimeError):
    """No record came within the reader's time."""

    code = "read_timeout"
    http_status = 504


class WaitTimeout(RealtimeError):
    """A wait token was not completed in time."""

    code = "wait_timeout"
    http_status = 504


class AbortTask(RealtimeError):
    """Raise it in a task to fail the run at once: trying again will not help."""

    code = "abort_task"
    http_status = 500


BY_CODE: dict[str, type[RealtimeError]] = {
    error.code: error for error in RealtimeError.__subclasses__()
}
"""The error class of each code on the wire."""


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
