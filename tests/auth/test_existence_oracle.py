"""What a stranger learns of a run: the same whether or not there is one.

Every way to ask is asked twice, for a run that exists and for one that does not; what comes back
must be the same but for the id that was asked for.
"""

import json

import httpx
import pytest

from gateway import tokens
from gateway.model.records import StreamKey
from gateway.model.runs import new_run_id
from tests.support.gateways import SECRET, new_run, serving, token_for

RUN = "RUN"

FRAMES = {
    "follow a stream": {"type": "subscribe", "run": RUN, "stream": "s"},
    "follow a run": {"type": "subscribe", "run": RUN},
    "follow a run's log": {"type": "subscribe", "run": RUN, "stream": "$run"},
    "follow a run's streams": {"type": "subscribe", "run": RUN, "stream": "$streams"},
    "follow from the end": {"type": "subscribe", "run": RUN, "stream": "s", "start": "latest"},
    "follow its children": {"type": "subscribe", "runs": {"parent": RUN}},
    "append": {"type": "append", "run": RUN, "stream": "s", "records": [1]},
    "end": {"type": "append", "run": RUN, "stream": "s", "records": [], "end": "completed"},
    "append for it": {
        "type": "append",
        "run": "run_own",
        "stream": "s",
        "records": [1],
        "source": RUN,
    },
    "head": {"type": "head", "run": RUN, "stream": "s"},
    "read": {"type": "read", "run": RUN, "stream": "s"},
    "read the log": {"type": "read", "run": RUN, "stream": "$run"},
    "delete": {"type": "delete", "run": RUN, "stream": "s"},
    "create": {"type": "run_create", "value": {"id": RUN, "task": "t", "status": "queued"}},
    "patch": {"type": "run_patch", "run": RUN, "patch": {"status": "executing"}},
    "get": {"type": "run_get", "run": RUN},
    "get its children": {"type": "runs_get", "runs": {"parent": RUN}},
    "list its children": {"type": "run_list", "parent": RUN},
}
REQUESTS = {
    "retrieve": ("GET", f"/v1/runs/{RUN}"),
    "cancel": ("POST", f"/v1/runs/{RUN}/cancel"),
    "retrieve with a token in the URL": ("GET", f"/v1/runs/{RUN}?token=x"),
}
STRANGERS = {  # and what makes their token
    "nobody": lambda: None,
    "with a token that is none": lambda: "nonsense",
    "whose token has expired": lambda: token_for("read:runs:*", "write:runs:*", age_s=100_000),
    "with a forged token": lambda: tokens.mint(["read:runs:*"], secret_key="x" * 40),
    "of another run": lambda: token_for("read:runs:run_own", "write:runs:run_own"),
    "of another stream": lambda: token_for("read:streams:run_own/s", "write:streams:run_own/s"),
    "of a tag that the run has not": lambda: token_for("read:tags:other"),
    "of a batch that the run is not in": lambda: token_for("read:batches:other"),
    "who may trigger": lambda: token_for("trigger:tasks:*"),
}


@pytest.fixture(params=STRANGERS.values(), ids=STRANGERS)
def token(request):
    return request.param()


@pytest.fixture
async def world():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run(tags=["tag"], batch_id="batch"))
        await gateway.store.append(StreamKey(run.id, "s"), [b"1"])
        yield gateway, (run.id, new_run_id(1_795_352_174_000))


async def test_frames_do_not_distinguish_forbidden_from_missing_run(world, token):
    gateway, runs = world
    for what, frame in FRAMES.items():
        answers = []
        for run in runs:
            text = json.dumps(frame | {"id": 7} | ({"token": token} if token else {}))
            async with gateway.client() as client:
                await client.socket.send(text.replace(RUN, run))
                answer = json.dumps(await client.receive())
                assert await client.ask(type="ping") == {"type": "pong"}, what
            answers.append(answer.replace(run, RUN))
        assert answers[0] == answers[1], what
        assert json.loads(answers[0])["type"] == "error", what


async def test_requests_do_not_distinguish_forbidden_from_missing_run(world, token):
    gateway, runs = world
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http:
        for what, (method, path) in REQUESTS.items():
            answers = []
            for run in runs:
                answer = await http.request(method, path.replace(RUN, run), headers=headers)
                told = {k: v for k, v in answer.headers.items() if k != "date"}
                answers.append((answer.status_code, answer.text.replace(run, RUN), told))
            assert answers[0] == answers[1], what
            assert answers[0][0] in (400, 401, 403), what


async def test_nearly_correct_secret_is_an_invalid_token():
    async with serving() as gateway, httpx.AsyncClient() as http:
        for wrong in (SECRET[:-1], SECRET + "x", SECRET.upper(), "x"):
            answer = await http.post(
                f"http://127.0.0.1:{gateway.port}/v1/tokens",
                headers={"Authorization": f"Bearer {wrong}"},
                json={"scopes": ["read:runs:*"]},
            )
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
