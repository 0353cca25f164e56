"""Records that stores write themselves: new streams of a run, and changes of run sets."""

from __future__ import annotations

from gateway.errors import InvalidId
from gateway.model.log import is_set_log
from gateway.model.records import PATH_CONFIG, STREAMS_STREAM, RunSet, StreamKey, path_of
from gateway.model.runs import Run
from gateway.stores.base import CONFIG_RECORDS, SET_RECORDS


def is_user_stream(key: StreamKey) -> bool:
    """Whether users write the stream; its creation is then recorded in its run's `$streams`."""
    return not key.stream_id.startswith("$")


def stream_created_record(key: StreamKey) -> tuple[StreamKey, bytes]:
    """Return the log and the record that announce a new stream."""
    return StreamKey(key.run_id, STREAMS_STREAM), b'{"stream":"%b"}' % key.stream_id.encode()


def check_path_log(key: StreamKey) -> None:
    """Reject a log that does not belong to a path.

    Raises:
        InvalidId: the log belongs to a run or to the gateway.
    """
    if path_of(key) is None:
        raise InvalidId(f"{key} is no log of a path, and cannot be dropped")


def min_records_kept(key: StreamKey) -> int | None:
    """Return how many of its newest records a log retains at least; None: no such limit."""
    if is_set_log(key):
        return SET_RECORDS
    return CONFIG_RECORDS if key.stream_id == PATH_CONFIG else None


def sets_of(run: Run) -> list[RunSet]:
    """Return the sets that a run belongs to."""
    sets = [RunSet("tag", tag) for tag in dict.fromkeys(run.tags)]
    if run.batch_id is not None:
        sets.append(RunSet("batch", run.batch_id))
    if run.parent_id is not None:
        sets.append(RunSet("parent", run.parent_id))
    return sets


def set_records(
    before: Run | None, run: Run, version: int, patch: bytes, snapshot: bytes
) -> list[tuple[StreamKey, bytes]]:
    """Return the records that a change of a run appends to the logs of its sets.

    Args:
        before: The run before the change; None for a new run.
        run: The run after the change.
        version: Offset of the change in the log of the run.
        patch: The change as JSON.
        snapshot: The run after the change, as JSON.
    """
    known = sets_of(before) if before is not None else []
    whole, part = (
        b'{"id":"%b","version":%d,"%b":%b}' % (run.id.encode(), version, name, data)
        for name, data in ((b"run", snapshot), (b"patch", patch))
    )
    entered = [each for each in sets_of(run) if each not in known]
    return [(each.log, part) for each in known] + [(each.log, whole) for each in entered]


def deletion_records(run: Run, version: int) -> list[tuple[StreamKey, bytes]]:
    """Return the records that the deletion of a run appends to the logs of its sets.

    Args:
        run: The run before its deletion.
        version: Number of changes in the log of the run.
    """
    data = b'{"id":"%b","version":%d,"deleted":true}' % (run.id.encode(), version)
    return [(each.log, data) for each in sets_of(run)]
