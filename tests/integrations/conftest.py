"""A model's API as a real HTTP server, for the providers' own clients."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.sdk import background
from tests.support.queues.workers import CELERY_SHOP, shop


class Provider:
    """Answers each request with the prepared server-sent events.

    Attributes:
        url: Address of the server.
        requests: Bodies of the requests so far.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self._answers: list[bytes] = []

    def will_send(self, *events: dict[str, Any], done: bool = False, whole: bool = True) -> None:
        """Answer the next request with events.

        Args:
            events: Sent as JSON; an event with a `type` also has it as its event name.
            done: Whether `[DONE]` follows, as in OpenAI's chat completions.
            whole: Whether the response is complete; otherwise the connection breaks.
        """
        lines = []
        for event in events:
            if "type" in event:
                lines.append(f"event: {event['type']}\n")
            lines.append(f"data: {json.dumps(event)}\n\n")
        text = "".join([*lines, "data: [DONE]\n\n" if done else ""])
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        self._add(head, text, whole)

    def will_refuse(self, status: int, body: dict[str, Any]) -> None:
        """Answer the next request with an error."""
        self._add(
            f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\n", json.dumps(body)
        )

    def _add(self, head: str, text: str, whole: bool = True) -> None:
        body = text.encode()
        length = len(body) if whole else len(body) + 1_000
        head += f"connection: close\r\ncontent-length: {length}\r\n\r\n"
        self._answers.append(head.encode() + body)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        self.requests.append(json.loads(await reader.readexactly(length)))
        writer.write(self._answers.pop(0))
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass  # the client closed the connection


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.answer, "127.0.0.1")
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield provider
    server.close()
    await server.wait_closed()


class Collected(list):
    """The parts of a stream, and the exception that ended it."""

    error: Exception | None = None


@pytest.fixture
def collect():
    """Read a stream of parts until its end or its failure."""

    async def read(parts) -> Collected:
        collected = Collected()
        try:
            async for part in parts:
                collected.append(part)
        except Exception as error:
            collected.error = error
        return collected

    return read


@pytest.fixture(scope="session")
def celery_place(tmp_path_factory):
    """A broker, a gateway and a Celery worker with two child processes, for all Celery tests."""
    worker = ("celery", "-A", CELERY_SHOP, "worker", "-c", "2", "-l", "info")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    with shop(tmp_path_factory.mktemp("celery")) as place, place.worker(*worker, *quiet):
        os.environ["BROKER"] = place.broker  # before the import of celery_shop in this process
        yield place
        background.stop()
