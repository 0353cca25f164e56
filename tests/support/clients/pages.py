"""Shared by tests of pages: runs to show, and the code blocks of documents."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gateway.model.records import StreamKey
from tests.support.gateways import Serving, new_run, token_for

DOCUMENT = Path(__file__).parents[3] / "docs" / "clients.md"
ADDRESS = "https://live.example.com"


def block(language: str, containing: str = "") -> str:
    """Return the document's only code block of a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    (found,) = [text for text in blocks if containing in text]
    return found


class Written:
    """A run with a stream that a test appends to.

    Attributes:
        id: The run's id.
        token: A token that reads the run and writes to its stream `approval`.
    """

    def __init__(self, gateway: Serving, stream: str = "progress") -> None:
        self._gateway = gateway
        run = new_run()
        self.id = run.id
        self.key = StreamKey(run.id, stream)
        self._run = run
        self.token = token_for(f"read:runs:{run.id}", f"write:streams:{run.id}/approval")

    async def create(self) -> Written:
        await self._gateway.store.create_run(self._run)
        return self

    async def append(self, *values: object, end: str | None = None) -> None:
        records = [json.dumps(value).encode() for value in values]
        await self._gateway.store.append(self.key, records, end=end)

    async def records(self, stream: str) -> list[object]:
        page = await self._gateway.store.read(StreamKey(self.id, stream), None, 1 << 20)
        return [json.loads(record.data) for record in page.records]
