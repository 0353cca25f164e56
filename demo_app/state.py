"""Server-side state of a visitor: their tag, the forms, and the run that a page shows."""

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
    """A visitor of the dashboard. Their runs carry a random tag that others cannot guess."""

    tag: str = rx.LocalStorage(name="realtime_visitor")

    def ensure_tag(self) -> str:
        """Return the visitor's tag. Create it on the first visit."""
        if not self.tag.startswith("visitor-") or len(self.tag) != 40:
            self.tag = f"visitor-{secrets.token_hex(16)}"
        return self.tag


class CensusForm(rx.State):
    """The form that starts a census."""

    source: str = "stdlib"
    workers: str = "4"
    choices: list[dict[str, str]] = []

    @rx.event
    def load(self) -> None:
        """Load the list of sources."""
        self.choices = [
            {"id": choice.id, "label": f"{choice.label} ({choice.file_count} files)"}
            for choice in sources.sources()
        ]

    @rx.event
    def choose(self, source: str) -> None:
        """Select the source."""
        self.source = source

    @rx.event
    def set_workers(self, workers: str | list[str]) -> None:
        """Set the number of child runs."""
        self.workers = str(workers)

    @rx.event
    async def start(self) -> EventSpec:
        """Start a census and redirect to its page."""
        visitor = await self.get_state(Visitor)
        try:
            sources.resolve(self.source)  # the browser can send any value
            workers = int(self.workers)
            task = take_census.options(tags=[visitor.ensure_tag()])
            handle = await task.trigger(source_id=self.source, workers=workers)
        except (RealtimeError, ValueError) as error:
            return rx.toast.error(str(error))
        return rx.redirect(f"/census/{handle.id}")


class AskForm(rx.State):
    """The form that asks a question."""

    question: str = ""

    @rx.event
    def set_question(self, question: str) -> None:
        """Store the text of the input, cut to the maximum length."""
        self.question = question[:MAX_QUESTION_CHARACTERS]

    @rx.event
    async def submit(self, form: dict[str, Any]) -> EventSpec:
        """Ask the question in the form."""
        return await self._ask(form.get("question", ""), ask_first=bool(form.get("ask_first")))

    @rx.event
    async def example(self, question: str) -> EventSpec:
        """Ask one of the example questions."""
        self.question = question
        return await self._ask(question)

    async def _ask(self, question: str, *, ask_first: bool = False) -> EventSpec:
        if not question.strip():
            return rx.toast.info("Type a question first.")
        visitor = await self.get_state(Visitor)
        try:
            task = ask.options(tags=[visitor.ensure_tag()])
            question = question.strip()[:MAX_QUESTION_CHARACTERS]
            handle = await task.trigger(question=question, ask_first=ask_first)
        except RealtimeError as error:
            return rx.toast.error(error.message)
        self.question = ""
        return rx.redirect(f"/ask/{handle.id}")


class RunView(rx.State):
    """The run that the page shows. Anyone who knows its id may read it; ids are random."""

    id: str = ""
    task: str = ""
    question: str = ""
    access_token: str = ""
    paste_token: str = ""
    command: str = ""
    error_message: str = ""

    @rx.event
    async def load(self) -> None:
        """Retrieve the run named in the URL, and mint a token that reads it and its children."""
        run_id = str(self.run)  # type: ignore[attr-defined]  # from the route
        if run_id != self.id:
            self.reset()  # type: ignore[no-untyped-call]
        try:
            run = await runs.retrieve(run_id)
        except RealtimeError as error:
            self.reset()  # type: ignore[no-untyped-call]
            self.error_message = error.message
            return
        self.id, self.task = run.id, run.task
        self.question = str((run.payload or {}).get("question", ""))
        self.access_token = _token(run)
        self.paste_token = tokens.mint([f"read:runs:{run.id}"], ttl_s=TOKEN_TTL_S)
        stream = {"ask": "answer", "deliver": "events"}.get(run.task, "progress")
        arguments = f"{run.id} {self.paste_token} {stream} {self._gateway_url()}"
        self.command = f".venv/bin/python docs/watch.py {arguments}"

    @rx.event
    def clear(self) -> None:
        """Reset the state, so that the next run's page does not show this run first."""
        self.reset()  # type: ignore[no-untyped-call]

    def _gateway_url(self) -> str:
        # The host and port under which this visitor's browser reached the backend.
        headers = self.router.headers
        scheme = "wss" if headers.origin.startswith("https:") else "ws"
        return f"{scheme}://{headers.host}/v1/ws"

    @rx.event
    async def renew(self, error: dict[str, str]) -> None:
        """Mint a new token when the old one has expired. The page resumes from its position."""
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


class MyRuns(rx.State):
    """Tokens with which the browser follows the visitor's runs and triggers one task."""

    tag: str = ""
    access_token: str = ""
    trigger_token: str = ""

    @rx.event
    async def load(self) -> None:
        """Mint the tokens."""
        await self._mint()

    async def _mint(self) -> None:
        visitor = await self.get_state(Visitor)
        self.tag = visitor.ensure_tag()
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
    # Children inherit their parent's tags, so one token reads the whole tree.
    scopes = [f"read:runs:{run.id}", *(f"read:tags:{tag}" for tag in run.tags)]
    scopes += [f"write:streams:{run.id}/{input.id}" for input in (decision, stop)]
    return tokens.mint(scopes, ttl_s=TOKEN_TTL_S, subject="visitor")
