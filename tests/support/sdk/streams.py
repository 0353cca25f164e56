"""Streams of several types, and a run that is written to."""

from gateway import streams
from gateway.model.records import StreamKey

numbers = streams.define("numbers", int)
answer = streams.define("answer")


async def values_of(runtime, run, stream):
    await runtime.flush()
    page = await runtime.store.read(StreamKey(run.id, stream.id), max_bytes=1 << 30)
    return [stream.decode(record.data) for record in page.records]


async def complete(runtime, run, status="completed"):
    await runtime.store.patch_run(run.id, {"status": "executing"})
    await runtime.store.patch_run(run.id, {"status": status})
