"""Subscriptions of a client."""

import json
from contextlib import asynccontextmanager

from gateway.model.records import StreamKey
from tests.support.gateways import (
    worker_token,
)


async def subscribed(client, run, id=1, stream="s", **more):
    named = {} if stream is None else {"stream": stream}
    answer = await client.ask(type="subscribe", id=id, run=run.id, **named, **more)
    assert answer["type"] == "subscribed", answer
    return answer


async def append(gateway, run, *values, stream="s", **more):
    data = [json.dumps(value).encode() for value in values]
    return await gateway.store.append(StreamKey(run.id, stream), data, **more)


def data_of(frame):
    assert frame["type"] == "records", frame
    return [record["data"] for record in frame["records"]]


async def no_more(client):
    """After a ping nothing but its answer is under way."""
    assert await client.ask(type="ping") == {"type": "pong"}


@asynccontextmanager
async def beside(gateway, run, **hello):
    """A client with a subscription that has to go on whatever happens."""
    hello = {"token": worker_token()} | hello
    async with gateway.client(**hello) as client:
        await subscribed(client, run, 1000, stream="beside")
        yield client
        await append(gateway, run, "on", stream="beside")
        frame = await client.receive()
        assert (frame["id"], data_of(frame)) == (1000, ["on"])
