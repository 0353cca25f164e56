"""The protocol's frames over plain HTTP."""

import json
from contextlib import asynccontextmanager

import httpx

from tests.support.gateways import token_for

HELLO = {"type": "hello", "protocol": 1}


def client_of(gateway):
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=20)


class Answer:
    """What comes, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def event(self) -> tuple[str, str]:
        kind, data = "message", []
        async for line in self._lines:
            if line.startswith("event:"):
                kind = line.removeprefix("event: ")
            elif line.startswith("data:"):
                data.append(line.removeprefix("data: "))
            elif not line:
                return kind, "\n".join(data)
        raise EOFError

    async def frame(self) -> dict:
        while True:
            kind, data = await self.event()
            assert kind == "message", data
            if json.loads(data)["type"] != "pong":
                return json.loads(data)


@asynccontextmanager
async def asking(gateway, *frames, headers=None, http=None):
    body = "\n".join(frame if isinstance(frame, str) else json.dumps(frame) for frame in frames)
    async with (
        client_of(gateway) as own,
        (http or own).stream("POST", "/v1/events", content=body, headers=headers or {}) as response,
    ):
        assert response.status_code == 200
        yield Answer(response)


def subscribe(run, **more):
    token = token_for(f"read:runs:{run.id}")
    return {"type": "subscribe", "id": 1, "run": run.id, "token": token} | more
