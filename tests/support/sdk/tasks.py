"""Runs of tasks in this process."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gateway import connect, streams
from gateway.model.log import run_log
from gateway.model.records import StreamKey
from tests.support.gateways import SECRET

notes = streams.define("notes")


@dataclass
class Item:
    name: str
    count: int = 1


async def statuses(runtime, run_id):
    page = await runtime.store.read(run_log(run_id))
    patches = [record.data.decode() for record in page.records]
    return [part.split('"')[0] for patch in patches for part in patch.split('"status":"')[1:]]


async def notes_of(runtime, run_id):
    page = await runtime.store.read(StreamKey(run_id, "notes"))
    return [(notes.decode(record.data), record.source) for record in page.records]


@asynccontextmanager
async def room_for(concurrency):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALTIME_CONCURRENCY", str(concurrency))
        async with connect(store="memory:", secret_key=SECRET) as runtime:
            yield runtime
