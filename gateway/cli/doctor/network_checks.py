"""Checks of `realtime doctor` over the network: gateway, clock, and the way through a proxy."""

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
from gateway.cli import _http
from gateway.cli._target import Target
from gateway.cli.doctor.local_checks import Check
from gateway.errors import ConfigurationError, RealtimeError
from gateway.model.records import StreamKey
from gateway.model.runs import Run, iso_time, new_run_id
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.remote.store import gateway_url

PINGS = 5
SLOW_MS = 500.0  # median round trip
BUFFERED_S = 1.0  # delay from append to arrival above which a proxy must be buffering
TIMEOUT_S = 10.0

UPGRADE = (
    "let the proxy forward the upgrade; nginx: proxy_http_version 1.1; "
    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
)


async def check_gateway(target: Target, url: str) -> list[Check]:
    """Check that a gateway is healthy and accepts the token."""
    try:
        await _http.request(target, "GET", "/healthz")
    except RealtimeError as error:
        return [
            Check(
                "wrong", "gateway", error.message, "see its log, or start one with `realtime serve`"
            )
        ]
    checks = [Check("ok", "gateway", f"{url} is healthy")]
    try:
        async with _handshake(target, url, None):
            checks.append(Check("ok", "tokens", "the gateway accepts the token"))
    except _Failed as error:
        checks.append(error.check._replace(subject="tokens"))
    return checks


async def check_clock(target: Target, clock_s: Callable[[], float] = time.time) -> list[Check]:
    """Compare the local clock with the gateway's `Date` header."""
    before_s = clock_s()
    try:
        response = await _http.request(target, "GET", "/healthz")
    except RealtimeError:
        return []  # reported by `check_gateway`
    local_s = (before_s + clock_s()) / 2
    try:
        remote_s = parsedate_to_datetime(response.headers.get("date", "")).timestamp() + 0.5
    except ValueError:
        return [Check("note", "clock", "the gateway's response has no valid Date header")]
    skew_s = remote_s - local_s
    what = f"the gateway's clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    advice = f"set both by NTP; tokens are rejected from {MAX_SKEW_S:.0f} s on"
    if abs(skew_s) > MAX_SKEW_S:
        return [Check("wrong", "clock", what, advice)]
    if abs(skew_s) > 5:
        return [Check("note", "clock", what, advice)]
    return [Check("ok", "clock", "within about a second of the gateway's")]


async def check_public(target: Target, public: str, origin: str | None) -> list[Check]:
    """Check the public address as a browser uses it: upgrade, handshake, pings and records."""
    try:
        url = gateway_url(public)
    except ConfigurationError as error:
        return [Check("wrong", "public", error.message, "--public wss://app.example")]
    through = replace(target, settings=replace(target.settings, url=public))
    checks = []
    if not url.startswith("wss:"):
        advice = "put a proxy with TLS in front of the gateway, and use wss://"
        checks.append(Check("note", "public", "tokens are sent unencrypted", advice))
    try:
        async with _handshake(through, url, origin) as socket:
            what = f"{public} forwards the upgrade and accepts the token"
            checks.append(Check("ok", "public", what + (f", from {origin}" if origin else "")))
            checks.append(await _round_trips(socket))
        checks += await _check_records(through)
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
async def _handshake(
    target: Target, url: str, origin: str | None
) -> AsyncIterator[ClientConnection]:
    socket = await _connect(gateway_url(url), origin)
    try:
        token = target.token_for("read:runs:*", "write:runs:*")
        try:
            await socket.send(protocol.encode(protocol.Hello(protocol.VERSION, token)))
        except ConnectionClosed:
            pass  # the gateway may have sent an error before it closed
        await _welcome(socket, origin)
        yield socket
    except (WebSocketException, TimeoutError) as error:
        raise _Failed(f"the connection was lost ({error or 'no answer'})", UPGRADE) from None
    finally:
        await socket.close()


async def _connect(url: str, origin: str | None) -> ClientConnection:
    try:
        return await connect(url, origin=origin, open_timeout=TIMEOUT_S, compression=None)  # type: ignore[arg-type]
    except InvalidStatus as error:
        code = error.response.status_code
        raise _Failed(f"{url} responded to the upgrade with {code}", _advice(code)) from None
    except ssl.SSLError as error:
        raise _Failed(
            f"TLS of {url} fails: {error.reason}", "renew or correct its certificate"
        ) from None
    except InvalidHandshake as error:
        raise _Failed(f"{url} does not speak WebSocket: {error}", UPGRADE) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        reason = str(error) or "no answer"
        advice = "check the host name and that the port is open"
        raise _Failed(f"{url} is unreachable: {reason}", advice) from None


def _advice(code: int) -> str:
    if code == 404:
        return "forward /v1/ to the gateway, with an unchanged path"
    if code in (502, 503, 504):
        return "the proxy cannot reach the gateway: check that it runs at the configured address"
    if code in (301, 302, 307, 308):
        return "use the address that the redirect names"
    if code in (401, 403):
        return "forward /v1/ without the proxy's authentication: the gateway checks tokens"
    return UPGRADE


async def _welcome(socket: ClientConnection, origin: str | None) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        frame = protocol.decode_gateway(await socket.recv())
    if isinstance(frame, protocol.Welcome):
        return
    code = frame.code if isinstance(frame, protocol.ErrorFrame) else type(frame).__name__
    message = frame.message if isinstance(frame, protocol.ErrorFrame) else "no `welcome` received"
    advice = {
        "origin_forbidden": f"add {origin} to the gateway's REALTIME_ORIGINS",
        "invalid_token": "give both sides the same REALTIME_SECRET_KEY",
        "token_expired": "compare the clocks",
        "too_many_connections": "see REALTIME_ADDRESS_CONNECTIONS and REALTIME_TRUSTED_PROXIES",
    }.get(code, "")
    raise _Failed(f"the gateway rejects the connection: {message}", advice)


async def _round_trips(socket: ClientConnection) -> Check:
    times_ms = []
    for _ in range(PINGS):
        began_s = time.perf_counter()
        await socket.send(protocol.encode(protocol.Ping()))
        async with asyncio.timeout(TIMEOUT_S):
            while not isinstance(protocol.decode_gateway(await socket.recv()), protocol.Pong):
                pass
        times_ms.append((time.perf_counter() - began_s) * 1000)
    what = f"round trip {median(times_ms):.1f} ms (max {max(times_ms):.1f})"
    slow = median(times_ms) > SLOW_MS
    return Check("note" if slow else "ok", "public", what, "network or gateway is slow" * slow)


async def _check_records(through: Target) -> list[Check]:
    """Append to a temporary run, and measure the delay of each transport."""
    async with through.store(owner="doctor") as store:
        run = await store.create_run(_run())
        try:
            one, two = StreamKey(run.id, "websocket"), StreamKey(run.id, "events")
            return [
                await _check_delivery("WebSocket", store, one, _over_websocket(store, one)),
                await _check_delivery("server-sent events", store, two, _over_http(through, two)),
            ]
        finally:
            await store.delete_run(run.id)


def _run() -> Run:
    now_ms = system_clock_ms()
    id = new_run_id(now_ms)
    return Run(id, "doctor", "executing", id, iso_time(now_ms), owner="doctor")


async def _check_delivery(
    name: str, store: Store, key: StreamKey, arrived: AsyncIterator[None]
) -> Check:
    waits_s = []
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await store.append(key, [b"0"])  # after it the reader has caught up
            await anext(arrived)
            for _ in range(3):
                began_s = time.perf_counter()
                await store.append(key, [b"1"])
                await anext(arrived)
                waits_s.append(time.perf_counter() - began_s)
    except (TimeoutError, StopAsyncIteration, OSError, http.client.HTTPException) as error:
        what = f"records are not delivered as {name} ({error or 'none within 20 s'})"
        return Check("wrong", "public", what, _buffering_advice(name))
    finally:
        await arrived.aclose()  # type: ignore[attr-defined]
    longest_s = max(waits_s)
    if longest_s > BUFFERED_S:
        what = f"records arrive as {name} only after {longest_s:.1f} s: something buffers them"
        return Check("wrong", "public", what, _buffering_advice(name))
    return Check("ok", "public", f"records arrive as {name} within {longest_s * 1000:.0f} ms")


def _buffering_advice(name: str) -> str:
    if name == "WebSocket":
        return UPGRADE
    return "turn buffering and compression off for /v1/ at the proxy; nginx: proxy_buffering off;"


async def _over_websocket(store: Store, key: StreamKey) -> AsyncIterator[None]:
    async with aclosing(store.follow(key)) as pages:
        async for page in pages:
            for _ in page.records:
                yield


async def _over_http(through: Target, key: StreamKey) -> AsyncIterator[None]:
    """Read server-sent events; each `data` event is one append."""
    url = f"{through.http_url}/v1/stream/{key}?offset=-1&live=sse"
    request = urllib.request.Request(url)
    request.add_header("Authorization", f"Bearer {through.token_for('read:runs:*')}")
    response = await asyncio.to_thread(urllib.request.urlopen, request, timeout=TIMEOUT_S)
    try:
        while line := await asyncio.to_thread(response.readline):
            if line.strip() == b"event: data":
                yield
    finally:
        await asyncio.to_thread(response.close)
