"""Observe a page: its console, its errors, and the frames of its sockets."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websockets
from playwright.async_api import ConsoleMessage, Page, WebSocket

from gateway import tokens
from tests.support.browser.reflex_process import SECRET

DEADLINE_MS = 60_000  # for a condition to become true; much longer than it takes
WIRE_PATH = "/v1/ws"


@dataclass
class Socket:
    """One WebSocket to the gateway, with its frames in both directions."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    is_open: bool = True

    def of(self, frame_type: str) -> list[dict[str, Any]]:
        return [frame for frame in self.sent if frame["type"] == frame_type]

    def subscriptions(self) -> dict[int, tuple[str, str | None]]:
        asked = [frame for frame in self.of("subscribe") if "run" in frame]
        return {frame["id"]: (frame["run"], frame.get("stream")) for frame in asked}

    def records(self, run: str, stream: str) -> list[dict[str, Any]]:
        ids = {id for id, key in self.subscriptions().items() if key == (run, stream)}
        frames = [f for f in self.received if f["type"] == "records" and f["id"] in ids]
        return [record for frame in frames for record in frame["records"]]


class WatchedPage:
    """A page whose console errors and sockets are recorded."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.sockets: list[Socket] = []
        self.errors: list[str] = []
        self.tolerated: tuple[str, ...] = ()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("websocket", self._opened)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location['url']})")

    def _opened(self, websocket: WebSocket) -> None:
        if not websocket.url.endswith(WIRE_PATH):
            return
        socket = Socket()
        self.sockets.append(socket)
        websocket.on("framesent", lambda text: socket.sent.append(json.loads(text)))
        websocket.on("framereceived", lambda text: socket.received.append(json.loads(text)))
        websocket.on("close", lambda _: setattr(socket, "is_open", False))

    def tolerate(self, *parts: str) -> None:
        """Ignore error messages that contain one of these texts."""
        self.tolerated = parts

    def check(self) -> None:
        faults = [e for e in self.errors if not any(part in e for part in self.tolerated)]
        assert not faults, faults

    # ---- the page's content ----

    async def goto(self, path: str) -> None:
        await self.page.goto(self.base_url + path)

    async def text(self, selector: str) -> str:
        return await self.page.locator(selector).first.inner_text()

    async def texts(self, selector: str) -> list[str]:
        return await self.page.locator(selector).all_inner_texts()

    async def until_texts(self, selector: str, expected: list[str]) -> None:
        """Wait until the elements of a selector are as many, each beginning with its text."""
        await self.until(
            "([selector, expected]) => {"
            " const all = [...document.querySelectorAll(selector)].map(e => e.innerText.trim());"
            " const words = all.map(text => text.split(/\\s+/).join(' '));"
            " return words.length === expected.length"
            " && words.every((text, i) => (text + ' ').startsWith(expected[i] + ' ')) }",
            [selector, expected],
        )

    async def until(self, condition: str, arg: Any = None, timeout_ms: float = DEADLINE_MS) -> None:
        """Wait until a JavaScript condition holds; its failure shows the page's text."""
        try:
            await self.page.wait_for_function(condition, arg=arg, timeout=timeout_ms)
        except Exception as error:
            shown = await self.page.locator("body").inner_text()
            raise AssertionError(f"never came true: {condition} {arg!r}\n{shown}") from error

    async def until_status(self, *statuses: str) -> None:
        """Wait until the page's run, whose badge is the first, has one of these statuses."""
        await self.until(
            "statuses => statuses.includes(document.querySelector('.run-status')?.innerText)",
            list(statuses),
        )

    async def until_shown(self, text: str) -> None:
        await self.until("text => document.body.innerText.includes(text)", text)

    async def lines(self, stream: str) -> list[dict[str, Any]]:
        """Return the raw records of a stream that a run's page shows."""
        text = await self.page.locator(f"#stream-{stream}").first.text_content() or ""
        return [json.loads(line) for line in text.splitlines()]

    async def until_lines(self, stream: str, count: int) -> None:
        await self.until(
            "([id, count]) => { const text = document.getElementById(id)?.textContent;"
            " return text ? JSON.parse(text.split('\\n').at(-1)).offset >= count - 1 : false }",
            [f"stream-{stream}", count],
        )

    # ---- the demo ----

    @property
    def run_id(self) -> str:
        return self.page.url.rstrip("/").rpartition("/")[2]

    async def start_census(self, source: str = "stdlib", workers: int = 4) -> str:
        """Start a census with the form, and wait for its page. Returns the run's id."""
        await self.goto("/")
        await self.page.locator("#source").click()
        label = {"stdlib": "Python standard library", "project": "Realtime Streams"}
        name = label.get(source, f"{source} ")
        await self.page.get_by_role("option").filter(has_text=name).first.click()
        await self.page.get_by_role("radio", name=str(workers), exact=True).click()
        await self.page.locator("#start").click()
        await self.page.wait_for_url("**/census/run_*")
        return self.run_id

    async def ask(self, question: str) -> str:
        """Send a question with the form, and wait for its page. Returns the run's id."""
        await self.goto("/")
        await self.page.locator("#question").fill(question)
        await self.page.locator("#ask").click()
        await self.page.wait_for_url("**/ask/run_*")
        return self.run_id

    async def cancel_census(self, run_id: str) -> None:
        await self.goto(f"/census/{run_id}")
        await self.page.locator("#cancel").click()
        await self.until_status("canceled")


def subscriptions(watched: WatchedPage) -> Counter[tuple[str, str | None]]:
    """Count the subscriptions to each stream, over all sockets of the page."""
    return Counter(key for socket in watched.sockets for key in socket.subscriptions().values())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a Python condition holds."""
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while not condition():  # noqa: ASYNC110 - Playwright's callbacks change it
            await asyncio.sleep(0.02)


class Observer:
    """Reads runs and streams from the gateway, to compare a page with them."""

    def __init__(self, url: str) -> None:
        self._url = url + WIRE_PATH

    async def records(self, run: str, stream: str) -> list[dict[str, Any]]:
        """Return all records of a stream that has ended."""
        token = tokens.mint([f"read:runs:{run}"], ttl_s=60, secret_key=SECRET)
        found: list[dict[str, Any]] = []
        async with websockets.connect(self._url, max_size=None) as socket:
            await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": token}))
            await socket.send(
                json.dumps({"type": "subscribe", "id": 1, "run": run, "stream": stream})
            )
            deadline = time.monotonic() + DEADLINE_MS / 1000
            while time.monotonic() < deadline:
                frame = json.loads(await socket.recv())
                assert frame["type"] not in ("error", "gap", "reset"), frame
                found += frame.get("records", [])
                if frame["type"] == "end":
                    return found
        raise AssertionError(f"stream {stream} of {run} has not ended")

    async def run(self, run: str) -> dict[str, Any]:
        """Return a run from the gateway."""
        token = tokens.mint([f"read:runs:{run}"], ttl_s=60, secret_key=SECRET)
        async with websockets.connect(self._url) as socket:
            await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": token}))
            await socket.send(json.dumps({"type": "run_get", "id": 1, "run": run}))
            while True:
                frame = json.loads(await socket.recv())
                assert frame["type"] != "error", frame
                if frame["type"] == "result":
                    return frame["value"]["run"]
