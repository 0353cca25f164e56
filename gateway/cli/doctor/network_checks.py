"""What `realtime doctor` finds out over the network: a gateway, its clock, the way to it."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from statistics import median

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)

from gateway import protocol
from gateway.auth.revocations import MAX_SKEW_S
from gateway.cli import _http as asking
from gateway.cli._target import Target
from gateway.cli.doctor.local_checks import Check
from gateway.errors import ConfigurationError, RealtimeError
from gateway.model.records import StreamKey
from gateway.model.runs import Run, iso_time, new_run_id
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.remote.store import gateway_url

PINGS = 5
SLOW_MS = 500.0  # of a round trip
BUFFERED_S = 1.0  # from an append to its arrival: somebody gathers
TIMEOUT_S = 10.0

UPGRADE = (
    "let the proxy pass the upgrade on; nginx: proxy_http_version 1.1; "
    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
)


async def check_gateway(reach: Target, url: str) -> list[Check]:
    """Ask a gateway whether it serves, and whether it takes the token."""
    try:
        await asking.ask(reach, "GET", "/healthz")
    except RealtimeError as error:
        return [Check("wrong", "gateway", error.message, "its log says why; `realtime serve`")]
    checks = [Check("ok", "gateway", f"{url} serves, and its store is ready")]
    try:
        async with _greeted(reach, url, None):
            checks.append(Check("ok", "tokens", "the gateway takes the token"))
    except _Failed as error:
        checks.append(error.check._replace(subject="tokens"))
    return checks


async def check_clock(reach: Target, clock_s: Callable[[], float] = time.time) -> list[Check]:
    """Compare this clock to the gateway's, by its `Date` header."""
    before_s = clock_s()
    try:
        answer = await asking.ask(reach, "GET", "/healthz")
    except RealtimeError:
        return []  # said by another check
    here_s = (before_s + clock_s()) / 2
    try:
        there_s = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() + 0.5
    except ValueError:
        return [Check("note", "clock", "the gateway's answer has no date to compare with")]
    skew_s = there_s - here_s
    what = f"the gateway's is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    advice = f"set both by NTP; tokens are refused from {MAX_SKEW_S:.0f} s on"
    if abs(skew_s) > MAX_SKEW_S:
        return [Check("wrong", "clock", what, advice)]
    if abs(skew_s) > 5:
        return [Check("note", "clock", what, advice)]
    return [Check("ok", "clock", "it agrees with the gateway's, to about a second")]


async def check_public(reach: Target, public: str, origin: str | None) -> list[Check]:
    """Go the way of a browser: upgrade, greeting, round trips, records as they come."""
    try:
        url = gateway_url(public)
    except ConfigurationError as error:
        return [Check("wrong", "public", error.message, "--public wss://app.example")]
    through = replace(reach, settings=replace(reach.settings, url=public))
    checks = []
    if not url.startswith("wss:"):
        advice = "let a proxy with TLS stand before the gateway, and give wss://"
        checks.append(Check("note", "public", "tokens travel unencrypted there", advice))
    try:
        async with _greeted(through, url, origin) as socket:
            what = f"{public} passes the upgrade and the token"
            checks.append(Check("ok", "public", what + (f", from {origin}" if origin else "")))
            checks.append(await _round_trips(socket))
        checks += await _records(through)
    except _Failed as error:
        checks.append(error.check)
    except RealtimeError as error:
        checks.append(Check("wrong", "public", error.message))
    return checks


class _Failed(Exception):
    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.check = Check("wrong", "public", what, advice)


@asynccontextmanager
async def _greeted(reach: Target, url: str, origin: str | None) -> AsyncIterator[ClientConnection]:
    socket = await _connected(gateway_url(url), origin)
    try:
        token = reach.bearer("read:runs:*", "write:runs:*")
        try:
            await socket.send(protocol.encode(protocol.Hello(protocol.VERSION, token)))
        except ConnectionClosed:
            pass  # why, it has said before
        await _welcome(socket, origin)
        yield socket
    except (WebSocketException, TimeoutError) as error:
        raise _Failed(f"the connection broke ({error or 'no answer'})", UPGRADE) from None
    finally:
        await socket.close()


async def _connected(url: str, origin: str | None) -> ClientConnection:
    try:
        return await connect(url, origin=origin, open_timeout=TIMEOUT_S, compression=None)  # type: ignore[arg-type]
    except InvalidStatus as error:
        code = error.response.status_code
        raise _Failed(f"{url} answered {code} to the upgrade", _advice(code)) from None
    except ssl.SSLError as error:
        raise _Failed(f"TLS of {url} fails: {error.reason}", "mend its certificate") from None
    except InvalidHandshake as error:
        raise _Failed(f"{url} does not speak WebSocket: {error}", UPGRADE) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        why = str(error) or "no answer"
        advice = "is the name right, the port open?"
        raise _Failed(f"{url} cannot be reached: {why}", advice) from None


def _advice(code: int) -> str:
    if code == 404:
        return "forward /v1/ to the gateway, with the path as it is"
    if code in (502, 503, 504):
        return "the proxy does not reach the gateway: does it run, at the address that it names?"
    if code in (301, 302, 307, 308):
        return "give the address that it leads to"
    if code in (401, 403):
        return "the proxy asks for something of its own before /v1/: the gateway checks tokens"
    return UPGRADE


async def _welcome(socket: ClientConnection, origin: str | None) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        frame = protocol.decode_gateway(await socket.recv())
    if isinstance(frame, protocol.Welcome):
        return
    code = frame.code if isinstance(frame, protocol.ErrorFrame) else type(frame).__name__
    message = frame.message if isinstance(frame, protocol.ErrorFrame) else "no welcome came"
    advice = {
        "origin_forbidden": f"add {origin} to the gateway's REALTIME_ORIGINS",
        "invalid_token": "give both sides the same REALTIME_SECRET_KEY",
        "token_expired": "compare the clocks",
        "too_many_connections": "REALTIME_ADDRESS_CONNECTIONS, and REALTIME_TRUSTED_PROXIES",
    }.get(code, "")
    raise _Failed(f"the gateway refuses: {message}", advice)


async def _round_trips(socket: ClientConnection) -> Check:
    times_ms = []
    for _ in range(PINGS):
        began_s = time.perf_counter()
        await socket.send(protocol.encode(protocol.Ping()))
        async with asyncio.timeout(TIMEOUT_S):
            while not isinstance(protocol.decode_gateway(await socket.recv()), protocol.Pong):
                pass
        times_ms.append((time.perf_counter() - began_s) * 1000)
    what = f"a ping comes back in {median(times_ms):.1f} ms (longest {max(times_ms):.1f})"
    slow = median(times_ms) > SLOW_MS
    return Check("note" if slow else "ok", "public", what, "a long way, or a busy gateway" * slow)


async def _records(through: Target) -> list[Check]:
    """Append to a run made for it, and take the time until each transport brings it."""
    async with through.store(owner="doctor") as store:
        run = await store.create_run(_run())
        try:
            one, two = StreamKey(run.id, "websocket"), StreamKey(run.id, "events")
            return [
                await _arrival("WebSocket", store, one, _over_websocket(store, one)),
                await _arrival("server-sent events", store, two, _over_http(through, two)),
            ]
        finally:
            await store.delete_run(run.id)


def _run() -> Run:
    now_ms = system_clock_ms()
    id = new_run_id(now_ms)
    return Run(id, "doctor", "executing", id, iso_time(now_ms), owner="doctor")


async def _arrival(name: str, store: Store, key: StreamKey, arrived: AsyncIterator[None]) -> Check:
    waits_s = []
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await store.append(key, [b"0"])  # it brings the reader to the tail
            await anext(arrived)
            for _ in range(3):
                began_s = time.perf_counter()
                await store.append(key, [b"1"])
                await anext(arrived)
                waits_s.append(time.perf_counter() - began_s)
    except (TimeoutError, StopAsyncIteration, OSError, http.client.HTTPException) as error:
        what = f"records do not come through as {name} ({error or 'nothing for 20 s'})"
        return Check("wrong", "public", what, _buffering(name))
    finally:
        await arrived.aclose()  # type: ignore[attr-defined]
    longest_s = max(waits_s)
    if longest_s > BUFFERED_S:
        what = f"records come as {name} only after {longest_s:.1f} s: somebody gathers them"
        return Check("wrong", "public", what, _buffering(name))
    return Check("ok", "public", f"records come as {name} within {longest_s * 1000:.0f} ms")


def _buffering(name: str) -> str:
    if name == "WebSocket":
        return UPGRADE
    return "turn buffering and compression off for /v1/ at the proxy; nginx: proxy_buffering off;"


async def _over_websocket(store: Store, key: StreamKey) -> AsyncIterator[None]:
    async with aclosing(store.follow(key)) as pages:
        async for page in pages:
            for _ in page.records:
                yield


async def _over_http(through: Target, key: StreamKey) -> AsyncIterator[None]:
    """Read server-sent events; each `data` event is what was appended at once."""
    url = f"{through.http_url}/v1/stream/{key}?offset=-1&live=sse"
    request = urllib.request.Request(url)
    request.add_header("Authorization", f"Bearer {through.bearer('read:runs:*')}")
    answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=TIMEOUT_S)
    try:
        while line := await asyncio.to_thread(answer.readline):
            if line.strip() == b"event: data":
                yield
    finally:
        await asyncio.to_thread(answer.close)
