"""Which scope a frame needs: every request and subscription is refused unless a token allows it.

Source:
    PROTOCOL.md, sections 4 and 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway import protocol
from gateway.auth.permissions import Permissions, require
from gateway.errors import InvalidValue, RecordTooLarge
from gateway.model.log import RunState, belongs_to_no_run
from gateway.model.records import (
    REVOCATIONS,
    RUN_STREAM,
    RUNS_STREAM,
    STREAMS_STREAM,
    RunSet,
    StreamKey,
    check_run_id,
    check_stream_id,
    shown,
)
from gateway.protocol import Request


def require_request(access: Permissions, frame: Request, record_bytes: int) -> bool:
    """Refuse a request that no scope allows, or whose records are over the limit.

    Args:
        access: What the token allows.
        frame: The request.
        record_bytes: Of one record, at most.

    Returns:
        Whether it is allowed; false if that depends on the tags or the batch of the run that it
        reads: then `require_read` decides, with the run.

    Raises:
        Forbidden: no scope allows it.
        InvalidId: a run or stream id is outside its rule.
        InvalidValue: an append without records or end.
        RecordTooLarge: states both numbers.
    """
    match frame:
        case protocol.Append():
            _require_append(access, frame, record_bytes)
        case protocol.Head() | protocol.Read() | protocol.RunGet():
            key = read_key(frame)
            if access.depends_on_run() and not belongs_to_no_run(key) and not access.may_read(key):
                return False
            require_read(access, key, None)
        case protocol.Delete() | protocol.RunDelete():
            _require_write(access, readable_key(frame.run, None))
        case protocol.RunPatch():
            _require_write(access, readable_key(frame.run, None))
            _require_sets_of(access, frame.run, frame.patch)
        case protocol.RunCreate():
            run_id = check_run_id(frame.value.get("id") or "")
            _require_write(access, StreamKey(run_id, RUN_STREAM))
            _require_sets_of(access, run_id, frame.value)
            if frame.value.get("idempotency_key") is not None:
                # The answer may be another run than the one that the token names.
                require(access.may_write_every_run(), "use an idempotency key")
        case protocol.Spend() | protocol.Register():
            require(access.may_write_every_run(), "do a worker's requests")
        case protocol.RunList():
            _require_list(access, frame)
        case protocol.RunsGet():
            require_sets(access, frame.runs.sets)
    return True


def _require_sets_of(access: Permissions, run_id: str, fields: Mapping[str, Any]) -> None:
    """Refuse to put a run into sets, or below runs, that the token does not name.

    Others read these sets, and the task of a run writes to the streams of its parent and root.
    """
    if access.may_write_every_run():
        return
    # What is of the wrong kind is refused with the run's other fields, by its form.
    tags, batch_id = fields.get("tags"), fields.get("batch_id")
    tags = tags if isinstance(tags, list) else []
    sets = [RunSet("tag", tag) for tag in tags if isinstance(tag, str)]
    if isinstance(batch_id, str):
        sets.append(RunSet("batch", batch_id))
    for name in ("parent_id", "root_id"):
        if (parent := fields.get(name)) not in (None, run_id):
            sets.append(RunSet("parent", check_run_id(parent)))
    for each in sets:
        require(access.may_put_into(each), f"put run {run_id} into {shown(str(each))}")


def read_key(frame: protocol.Head | protocol.Read | protocol.RunGet) -> StreamKey:
    """Return the key of what a request reads.

    Raises:
        InvalidId: the run or stream id is outside its rule.
    """
    return readable_key(frame.run, None if isinstance(frame, protocol.RunGet) else frame.stream)


def _require_append(access: Permissions, frame: protocol.Append, record_bytes: int) -> None:
    key = StreamKey(frame.run, frame.stream)
    if key != REVOCATIONS:
        key = StreamKey(check_run_id(frame.run), check_stream_id(frame.stream))
    _require_write(access, key)
    if frame.source is not None:
        _require_write(access, StreamKey(check_run_id(frame.source), RUN_STREAM))
    if not frame.records and frame.end is None:
        raise InvalidValue("append has no records; an empty one needs `end`")
    for record in frame.records:
        size = memoryview(record).nbytes
        if size > record_bytes:
            raise RecordTooLarge(f"record is {size} bytes; the limit is {record_bytes}")


def readable_key(run_id: str, stream_id: str | None) -> StreamKey:
    """Return the key of a stream that may be asked for, the reserved ones included.

    Raises:
        InvalidId: the run or stream id is outside its rule.
    """
    if stream_id == RUNS_STREAM:
        return RunSet.parse(run_id).log
    if stream_id == REVOCATIONS.stream_id and run_id == REVOCATIONS.run_id:
        return REVOCATIONS
    check_run_id(run_id)
    if stream_id is None or stream_id in (RUN_STREAM, STREAMS_STREAM):
        return StreamKey(run_id, stream_id or RUN_STREAM)
    return StreamKey(run_id, check_stream_id(stream_id))


def require_sets(access: Permissions, sets: Iterable[RunSet]) -> None:
    """Refuse unless every one of the sets of runs may be followed.

    Raises:
        Forbidden: names the first that may not.
    """
    for each in sets:
        require(access.may_read_set(each), f"read the runs of {each}")


def _require_list(access: Permissions, frame: protocol.RunList) -> None:
    # One set that may be read is enough: further conditions only leave runs of it out.
    asked = {"tag": frame.tag, "batch": frame.batch, "parent": frame.parent}
    named = [RunSet.parse(f"{kind}:{id}") for kind, id in asked.items() if id]
    may = access.may_read_every_run() or any(access.may_read_set(each) for each in named)
    require(may, f"list the runs of {', '.join(map(str, named))}" if named else "list runs")


def require_read(access: Permissions, key: StreamKey, run: RunState | None) -> None:
    """Refuse unless a stream, or with the reserved one the run, may be read.

    Args:
        access: What the token allows.
        key: Which stream.
        run: The run that owns it, whose tags and batch may decide; None while it is not known.

    Raises:
        Forbidden: says what no scope allows.
    """
    if key.stream_id == RUNS_STREAM:
        require_sets(access, [RunSet.parse(key.run_id)])
        return
    if key == REVOCATIONS:  # it names those for whom tokens were made
        require(access.may_write_every_run(), "read which tokens are revoked")
        return
    tags = run.run.tags if run is not None else ()
    batch_id = run.run.batch_id if run is not None else None
    what = f"run {key.run_id}" if key.stream_id == RUN_STREAM else f"stream {key}"
    require(access.may_read(key, tags, batch_id), f"read {what}")


def _require_write(access: Permissions, key: StreamKey) -> None:
    if key == REVOCATIONS:
        require(access.may_write_every_run(), "revoke tokens")
        return
    if not access.may_write(key):
        is_run = key.stream_id == RUN_STREAM
        require(False, f"change run {key.run_id}" if is_run else f"append to stream {key}")
