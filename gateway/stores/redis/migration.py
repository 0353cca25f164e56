"""A Redis store as the source and destination of a copy; see `gateway.stores.migration`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import groupby
from typing import Any

from gateway.errors import RunNotFound, StoreUnavailable
from gateway.model.log import Head, belongs_to_no_run
from gateway.model.records import Position, Record, StreamKey
from gateway.model.runs import Run
from gateway.stores.base import system_clock_ms
from gateway.stores.idempotency import WriterState
from gateway.stores.migration import StreamExtras, TokenUsage
from gateway.stores.redis.store import RedisStore, index_of
from gateway.stores.redis.topology import bucket_of

SCANNED = 1000  # keys of one SCAN call


class MovableRedisStore(RedisStore):
    """`RedisStore` with the additional methods of `CopyableStore`."""

    async def stream_ids(self, run_id: str) -> list[str]:
        """See `CopyableStore.stream_ids`."""
        found = await self._ask(run_id, "SMEMBERS", f"{run_id}:streams")
        return [id.decode() for id in found]

    async def stream_head(self, key: StreamKey) -> Head | None:
        """See `CopyableStore.stream_head`."""
        names = ("epoch", "next", "earliest", "end")
        found = await self._ask(key.run_id, "HMGET", f"{key.run_id}/{key.stream_id}:meta", *names)
        if found[0] is None:
            return None
        epoch, end = found[0].decode(), found[3].decode() or None
        return Head(Position(epoch, int(found[1])), Position(epoch, int(found[2])), end)

    async def stream_extras(self, key: StreamKey) -> StreamExtras:
        """See `CopyableStore.stream_extras`."""
        if (kept := await self.stream_head(key)) is None:
            return StreamExtras(None, None, {})
        stream = f"{key.run_id}/{key.stream_id}"
        order = await self._ask(key.run_id, "HGET", f"{stream}:meta", "order")
        found = await self._ask(key.run_id, "HGETALL", f"{stream}:writers")
        writers = {
            id.decode(): WriterState(*(int(number) for number in state.split()))
            for id, state in zip(found[::2], found[1::2], strict=True)
        }
        try:
            end = (await self.head(key)).end
        except RunNotFound:  # the run has not been copied yet
            end = kept.end
        return StreamExtras(end, order.decode() if order is not None else None, writers)

    async def _ask(self, owner: str, command: str, name: str, *arguments: Any) -> Any:
        bucket = bucket_of(owner)
        key = self._servers.base(bucket) + name
        return await self._servers.command(bucket, command, key, *arguments, kind="read")

    async def import_records(
        self, key: StreamKey, at: Position, records: Sequence[Record], rest: StreamExtras | None
    ) -> None:
        """See `CopyableStore.import_records`."""
        end, order, writers = rest or StreamExtras(None, None, {})
        stream = f"{key.run_id}/{key.stream_id}"
        what, *there = await self._servers.write(
            "import_records",
            bucket_of(key.run_id),
            (f"{stream}:meta", f"{stream}:log"),
            *key,
            *at,
            int(not belongs_to_no_run(key)),
            index_of(key),
            end or "",
            *((0, "") if order is None else (1, order)),
            len(writers),
            *(part for id, state in writers.items() for part in (id, *state)),
            *_lots(records),
            repeatable=False,
        )
        if what != b"ok":
            where = Position(there[0].decode(), there[1])
            raise StoreUnavailable(f"stream {key} is at {where}, and not at {at}")

    async def import_run(self, run: Run) -> None:
        """See `CopyableStore.import_run`."""
        await self._whole(self._runs.put(run))

    async def iter_token_uses(self) -> AsyncIterator[TokenUsage]:
        """See `CopyableStore.iter_token_uses`."""
        prefix = re.sub(r"([\[\]?*\\])", r"\\\1", self._servers.url.prefix)
        for server in self._servers.one_bucket_each():
            cursor: Any = 0
            while True:
                found = ("MATCH", f"{prefix}:{{*}}:spent:*", "COUNT", SCANNED)
                cursor, names = await self._servers.command(
                    server, "SCAN", cursor, *found, kind="read"
                )
                for name in names:
                    if (spent := await self._spent(name.decode())) is not None:
                        yield spent
                if int(cursor) == 0:
                    break

    async def _spent(self, name: str) -> TokenUsage | None:
        token_id = name.partition(":spent:")[2]
        key = f"spent:{token_id}"
        uses = await self._ask(token_id, "GET", key)
        left_ms = await self._ask(token_id, "PTTL", key)
        if uses is None or left_ms <= 0:
            return None  # it expired after the scan
        return TokenUsage(token_id, int(uses), system_clock_ms() + left_ms)

    async def import_token_uses(self, spent: TokenUsage) -> None:
        """See `CopyableStore.import_token_uses`."""
        id = spent.token_id
        await self._servers.write(
            "import_token_uses", bucket_of(id), (f"spent:{id}",), *spent, repeatable=True
        )


def _lots(records: Sequence[Record]) -> Iterator[Any]:
    """Group consecutive records of equal time and source, as the server stores them."""
    for (time_ms, source), lot in groupby(records, lambda each: (each.time_ms, each.source)):
        data = [each.data for each in lot]
        yield from (time_ms, source or "", len(data), *data)
