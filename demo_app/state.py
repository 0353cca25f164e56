"""What the server keeps for a visitor: who they are, and the run that a page shows."""

from __future__ import annotations

import secrets
from typing import Any

import reflex as rx
from reflex.event import EventSpec

from demo_app.census import sources
from demo_app.streams import decision, stop
from demo_app.tasks import MAX_QUESTION_CHARACTERS, ask, deliver, take_census
from gateway import Run, runs, tokens
from gateway.errors import RealtimeError

TOKEN_TTL_S = 3600.0


class Visitor(rx.State):
    """A visitor of the dashboard. Their runs carry a tag that nobody else can guess."""

    tag: str = rx.LocalStorage(name="realtime_visitor")

    def own_tag(self) -> str:
        """Return the visitor's tag, making one at the first visit."""
        if not self.tag.startswith("visitor-") or len(self.tag) != 40:
            self.tag = f"visitor-{secrets.token_hex(16)}"
        return self.tag


class Census(rx.State):
    """The form that starts a census."""

    source: str = "stdlib"
    workers: str = "4"
    choices: list[dict[str, str]] = []

    @rx.event
    def load(self) -> None:
        """List what may be read."""
        self.choices = [
            {"id": choice.id, "label": f"{choice.label} ({choice.file_count} files)"}
            for choice in sources.sources()
        ]

    @rx.event
    def choose(self, source: str) -> None:
        """Pick what to read."""
        self.source = source

    @rx.event
    def set_workers(self, workers: str | list[str]) -> None:
        """Pick how many children share the work."""
        self.workers = str(workers)

    @rx.event
    async def start(self) -> EventSpec:
        """Start a census and show it."""
        visitor = await self.get_state(Visitor)
        try:
            sources.resolve(self.source)  # a visitor may send anything
            workers = int(self.workers)
            task = take_census.options(tags=[visitor.own_tag()])
            handle = await task.trigger(source_id=self.source, workers=workers)
        except (RealtimeError, ValueError) as error:
            return rx.toast.error(str(error))
        return rx.redirect(f"/census/{handle.id}")


class Ask(rx.State):
    """The form that asks a question."""

    question: str = ""

    @rx.event
    def set_question(self, question: str) -> None:
        """Keep what is typed."""
        self.question = question[:MAX_QUESTION_CHARACTERS]

    @rx.event
    async def submit(self, form: dict[str, Any]) -> EventSpec:
        """Ask what is in the form."""
        return await self._ask(form.get("question", ""), ask_first=bool(form.get("ask_first")))

    @rx.event
    async def example(self, question: str) -> EventSpec:
        """Ask an example."""
        self.question = question
        return await self._ask(question)

    async def _ask(self, question: str, *, ask_first: bool = False) -> EventSpec:
        if not question.strip():
            return rx.toast.info("Type a question first.")
        visitor = await self.get_state(Visitor)
        try:
            task = ask.options(tags=[visitor.own_tag()])
            question = question.strip()[:MAX_QUESTION_CHARACTERS]
            handle = await task.trigger(question=question, ask_first=ask_first)
        except RealtimeError as error:
            return rx.toast.error(error.message)
        self.question = ""
        return rx.redirect(f"/ask/{handle.id}")


class Shown(rx.State):
    """The run that the page shows; who knows its id, which nobody can guess, may watch it."""

    id: str = ""
    task: str = ""
    question: str = ""
    access_token: str = ""
    paste_token: str = ""
    command: str = ""
    problem: str = ""

    @rx.event
    async def load(self) -> None:
        """Find the run of the address and mint a token that reads it and its children."""
        run_id = str(self.run)  # type: ignore[attr-defined]  # the route's
        if run_id != self.id:
            self.reset()  # type: ignore[no-untyped-call]
        try:
            run = await runs.retrieve(run_id)
        except RealtimeError as error:
            self.reset()  # type: ignore[no-untyped-call]
            self.problem = error.message
            return
        self.id, self.task = run.id, run.task
        self.question = str((run.payload or {}).get("question", ""))
        self.access_token = _token(run)
        self.paste_token = tokens.mint([f"read:runs:{run.id}"], ttl_s=TOKEN_TTL_S)
        stream = {"ask": "answer", "deliver": "events"}.get(run.task, "progress")
        arguments = f"{run.id} {self.paste_token} {stream} {self._gateway_url()}"
        self.command = f".venv/bin/python docs/watch.py {arguments}"

    @rx.event
    def leave(self) -> None:
        """Forget the run, so that the next one's page does not begin with this one's."""
        self.reset()  # type: ignore[no-untyped-call]

    def _gateway_url(self) -> str:
        # As this visitor's browser reaches the backend, under whatever name and port.
        headers = self.router.headers
        scheme = "wss" if headers.origin.startswith("https:") else "ws"
        return f"{scheme}://{headers.host}/v1/ws"

    @rx.event
    async def renew(self, error: dict[str, str]) -> None:
        """Mint a new token when the old one has expired; the page goes on where it was."""
        if error.get("code") == "token_expired" and self.id:
            self.access_token = _token(await runs.retrieve(self.id))

    @rx.event
    async def cancel(self) -> EventSpec | None:
        """Cancel the run and its children."""
        try:
            await runs.cancel(self.id)
        except RealtimeError as error:
            return rx.toast.error(error.message)
        return None


class Recent(rx.State):
    """What a visitor's page may do by itself: follow their runs, trigger one task."""

    tag: str = ""
    access_token: str = ""
    trigger_token: str = ""

    @rx.event
    async def load(self) -> None:
        """Let the page follow and trigger."""
        await self._mint()

    async def _mint(self) -> None:
        visitor = await self.get_state(Visitor)
        self.tag = visitor.own_tag()
        self.access_token = tokens.mint([f"read:tags:{self.tag}"], ttl_s=TOKEN_TTL_S)
        self.trigger_token = tokens.mint_trigger(
            deliver.id, uses=20, tags=[self.tag], max_payload_bytes=200, ttl_s=TOKEN_TTL_S
        )

    @rx.event
    async def renew(self, error: dict[str, str]) -> None:
        """Mint new tokens when the old ones have expired."""
        if error.get("code") == "token_expired":
            await self._mint()


def _token(run: Run) -> str:
    # The children carry their parent's tags, so that one token shows the whole tree.
    scopes = [f"read:runs:{run.id}", *(f"read:tags:{tag}" for tag in run.tags)]
    scopes += [f"write:streams:{run.id}/{input.id}" for input in (decision, stop)]
    return tokens.mint(scopes, ttl_s=TOKEN_TTL_S, subject="visitor")
