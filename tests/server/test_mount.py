"""A gateway mounted in another application, under a prefix, with and without its lifespan."""

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import gateway
from gateway import streams, task
from gateway.cli._http import request
from gateway.cli._target import Target
from gateway.errors import ConfigurationError
from gateway.model.records import StreamKey
from gateway.sdk.session import opened
from gateway.server.app import make_app
from gateway.server.gateway import LIFESPAN_NOT_RUN
from gateway.server.mount import under
from gateway.server.serve import configure
from gateway.settings import Settings
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    SECRET,
    free_socket,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)

HELLO = {"type": "hello", "protocol": 1}
SETTINGS = Settings(store="memory:", secret_key=SECRET)
marks = streams.define("marks", int)


@task
async def mark(number: int) -> None:
    marks.append(number)


def read_marks(socket, run):
    socket.send_text(json.dumps(HELLO))
    subscribe = {"type": "subscribe", "id": 1, "run": run["id"], "stream": "marks"}
    socket.send_text(json.dumps(subscribe | {"token": run["token"]}))
    found = []
    while (frame := json.loads(socket.receive_text()))["type"] != "end":
        found += [record["data"] for record in frame.get("records", [])]
    return found


@pytest.mark.parametrize("path", ["/live", "/a/b/"])
def test_mounted_gateway_runs_around_the_lifespan_of_the_application(path):
    seen = []

    @asynccontextmanager
    async def lifespan(app):
        handle = await mark.trigger(1)
        seen.append((handle.id, handle.access_token))
        yield {"color": "blue"}
        seen.append((await mark.trigger_and_wait(3)).status)

    async def view(request):
        run = await mark.trigger(2)
        color = request.state.color  # the state that the application's lifespan yields
        return JSONResponse({"id": run.id, "token": run.access_token, "color": color})

    app = Starlette(routes=[Route("/mark", view)], lifespan=lifespan)
    mounted = gateway.mount(app, path, SETTINGS)
    prefix = path.rstrip("/")
    with TestClient(app) as client:
        [(id, token)] = seen
        made = client.get("/mark").json()
        assert made["color"] == "blue"
        for run, number in [({"id": id, "token": token}, 1), (made, 2)]:
            with client.websocket_connect(f"{prefix}/v1/ws") as socket:
                assert read_marks(socket, run) == [number]
        assert client.get(f"{prefix}/readyz").json() == {"status": "ready"}
        assert client.get(f"{prefix}/v1/client.js").status_code == 200
        refused = client.get(f"{prefix}/v1/runs/{id}")
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    assert seen[1] == "completed" and not mounted.is_running


@pytest.mark.parametrize("path", ["", "/", "live", "/live/{x}", "//", "/a b"])
def test_mount_refuses_a_path_that_is_no_prefix(path):
    with pytest.raises(ConfigurationError, match="prefix like '/live'"):
        gateway.mount(Starlette(), path, SETTINGS)


async def test_mount_with_a_gateway_elsewhere_mounts_nothing_and_works_through_it():
    async with serving() as elsewhere:
        app = Starlette()
        settings = Settings(url=elsewhere.url)
        assert gateway.mount(app, "/live", settings) is None
        assert app.routes == []


@asynccontextmanager
async def served(app):
    listening = free_socket()
    server = uvicorn.Server(configure(app, SETTINGS, log_level="error"))
    task = asyncio.create_task(server._serve([listening]))  # `serve` would install signal handlers
    try:
        await until(lambda: server.started or task.done())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def test_worker_and_command_line_reach_a_gateway_below_a_path():
    app = Starlette()
    gateway.mount(app, "/live", SETTINGS)
    async with served(app) as url:
        async with opened(RemoteStore(f"{url}/live", worker_token)) as store:
            run = await store.create_run(new_run())
            await store.append(StreamKey(run.id, "marks"), [b"1"])
        target = Target(replace(SETTINGS, url=f"{url}/live"))
        answer = await request(target, "GET", f"/v1/runs/{run.id}", None, f"read:runs:{run.id}")
        assert answer.value["id"] == run.id


@pytest.fixture
def without_lifespan():
    return TestClient(Starlette(routes=[Mount("/live", gateway.create_app(SETTINGS))]))


def test_gateway_without_lifespan_reports_it_over_http(without_lifespan, caplog):
    with caplog.at_level(logging.ERROR, logger="uvicorn.error"):
        headers = {"Authorization": f"Bearer {token_for('read:runs:*')}"}
        for path in ("/v1/runs", "/v1/stream/run_a/s"):
            answer = without_lifespan.get(f"/live{path}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (500, "not_started")
            assert answer.json()["message"] == LIFESPAN_NOT_RUN
            assert answer.json()["retryable"] is False
    assert caplog.messages == [LIFESPAN_NOT_RUN]  # once
    assert "lifespan" in without_lifespan.get("/live/readyz").json()["status"]


def test_gateway_without_lifespan_closes_clients_permanently(without_lifespan):
    with without_lifespan.websocket_connect("/live/v1/ws") as socket:
        error = json.loads(socket.receive_text())
        assert (error["code"], error["message"]) == ("not_started", LIFESPAN_NOT_RUN)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 4404
    assert "gateway.mount" in LIFESPAN_NOT_RUN and "add_gateway" in LIFESPAN_NOT_RUN


def test_gateway_that_was_stopped_is_shutting_down():
    app = gateway.create_app(SETTINGS)
    with TestClient(app):
        pass
    answer = TestClient(app).get("/v1/runs", headers={"Authorization": f"Bearer {SECRET}"})
    assert answer.json()["code"] == "shutting_down"


def test_routes_under_a_prefix_leave_other_paths_below_it_alone():
    """A Reflex app with `backend_path="/api"` has its routes below that path, too."""
    mounted = make_app(gateway.create_app(SETTINGS).state.gateway)
    mounted.router.routes = under("/api", mounted.routes)
    mounted.mount("", Starlette(routes=[Route("/api/ping", lambda _: JSONResponse("pong"))]))
    client = TestClient(mounted)
    assert client.get("/api/ping").json() == "pong"
    assert "lifespan" in client.get("/api/readyz").json()["status"]
    assert client.get("/readyz").status_code == 404
    with client.websocket_connect("/api/v1/ws") as socket:
        assert json.loads(socket.receive_text())["code"] == "not_started"
