"""HTTP for pages and backends, over a real server."""

import asyncio

import httpx
import jsonschema
import pytest

from gateway import runs, task, tokens
from gateway.errors import InvalidValue
from tests.support.gateways import SECRET, serving, token_for


@pytest.fixture
async def gateway():
    async with serving() as running:
        yield running


@pytest.fixture
async def http(gateway):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def trigger_token(task_id: str, **options) -> str:
    return tokens.mint_trigger(task_id, secret_key=SECRET, **options)


@pytest.fixture
def add():
    @task
    async def add(a: int, b: int = 1) -> int:
        return a + b

    return add


async def test_a_page_triggers_a_task_and_reads_its_run(http, add):
    answer = await http.post(
        "/v1/tasks/add/trigger", headers=bearer(trigger_token("add")), json={"payload": {"a": 2}}
    )
    assert answer.status_code == 201
    handle = answer.json()
    assert (await add.wait(handle["id"])).output == 3
    run = await http.get(f"/v1/runs/{handle['id']}", headers=bearer(handle["access_token"]))
    assert (run.json()["status"], run.json()["output"]) == ("completed", 3)


async def test_a_trigger_token_is_good_for_one_run(http, add):
    request = {"headers": bearer(trigger_token("add")), "json": {"payload": {"a": 1}}}
    answers = await asyncio.gather(
        *(http.post("/v1/tasks/add/trigger", **request) for _ in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 403, 403, 403, 403]
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert refused.json()["code"] == "token_spent"
    assert len(await runs.list()) == 1


async def test_a_token_for_three_runs_triggers_three(http, add):
    headers = bearer(trigger_token("add", uses=3))
    codes = [
        (await http.post("/v1/tasks/add/trigger", headers=headers, json={"payload": {"a": i}}))
        for i in range(4)
    ]
    assert [answer.status_code for answer in codes] == [201, 201, 201, 403]


async def test_a_wrong_payload_does_not_cost_the_tokens_use(http, add):
    headers = bearer(trigger_token("add"))
    wrong = await http.post("/v1/tasks/add/trigger", headers=headers, json={"payload": {"a": "x"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_value")
    assert "a: " in wrong.json()["message"]
    right = await http.post("/v1/tasks/add/trigger", headers=headers, json={"payload": {"a": 1}})
    assert right.status_code == 201


async def test_the_token_sets_the_tags_and_the_page_cannot_add_any(http, add):
    headers = bearer(trigger_token("add", tags=["user_7"]))
    body = {"payload": {"a": 1}, "tags": ["user_8"]}
    refused = await http.post("/v1/tasks/add/trigger", headers=headers, json=body)
    assert refused.status_code == 422 and "tags" in refused.json()["message"]
    await http.post("/v1/tasks/add/trigger", headers=headers, json={"payload": {"a": 1}})
    (run,) = await runs.list(tag="user_7")
    assert run.tags == ["user_7"]


async def test_a_payload_over_the_tokens_limit_is_refused(http):
    @task
    async def echo(text: str) -> str:
        return text

    headers = bearer(trigger_token("echo", max_payload_bytes=100))
    body = {"payload": {"text": "x" * 5000}}
    answer = await http.post("/v1/tasks/echo/trigger", headers=headers, json=body)
    assert answer.status_code == 422 and "100 bytes" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "scopes", "status", "code"),
    [
        ("POST", "/v1/tasks/other/trigger", ["trigger:tasks:add"], 403, "forbidden"),
        ("POST", "/v1/tasks/add/trigger", ["read:runs:*"], 403, "forbidden"),
        ("POST", "/v1/tasks/nobody/trigger", ["trigger:tasks:*"], 404, "task_not_found"),
        ("GET", "/v1/runs/run_1", ["read:runs:run_2"], 403, "forbidden"),
        ("GET", "/v1/runs/run_1", ["read:tags:x"], 403, "forbidden"),
        ("GET", "/v1/runs/run_1", ["read:runs:run_1"], 404, "run_not_found"),
        ("GET", "/v1/runs/zork", ["read:runs:*"], 422, "invalid_id"),
        ("GET", "/v1/runs", ["read:tags:x"], 403, "forbidden"),
        ("GET", "/v1/runs?tag=y", ["read:tags:x"], 403, "forbidden"),
        ("GET", "/v1/runs?limit=0", ["read:runs:*"], 422, "invalid_value"),
        ("GET", "/v1/runs?limit=1001", ["read:runs:*"], 422, "invalid_value"),
        ("POST", "/v1/runs/run_1/cancel", ["read:runs:run_1"], 403, "forbidden"),
        ("POST", "/v1/runs/run_1/cancel", ["write:runs:run_1"], 404, "run_not_found"),
        ("POST", "/v1/tokens", ["write:runs:*", "read:runs:*"], 401, "invalid_token"),
    ],
)
async def test_each_refusal_has_its_status_and_code(http, add, method, path, scopes, status, code):
    answer = await http.request(method, path, headers=bearer(token_for(*scopes)))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message", "retryable"}


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Basic x"}, {"Authorization": "Bearer x"}]
)
async def test_without_a_good_token_nothing_is_answered(http, header):
    for path in ("/v1/runs", "/v1/runs/run_1"):
        answer = await http.get(path, headers=header)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body"),
        (b"[]", "the body"),
        (b'{"payload": 3}', "payload"),
        (b'{"payloda": {}}', "payloda"),
        (b"x" * 600_000, "limit of 540672 bytes"),
    ],
)
async def test_a_bad_body_is_refused_and_the_message_says_why(http, add, body, message):
    answer = await http.post("/v1/tasks/add/trigger", headers=bearer(SECRET), content=body)
    assert answer.status_code in (413, 422)
    assert message in answer.json()["message"]


async def test_runs_with_a_tag_are_listed_page_by_page_newest_first(http, add):
    ids = [(await add.options(tags=["t"]).trigger(i)).id for i in range(5)]
    await add.trigger(9)
    headers = bearer(token_for("read:tags:t"))
    listed: list[str] = []
    before = ""
    while True:
        path = f"/v1/runs?tag=t&limit=2{before}"
        page = (await http.get(path, headers=headers)).json()
        listed += [run["id"] for run in page["runs"]]
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"
    assert listed == sorted(ids, reverse=True)


async def test_cancel_over_http_ends_the_run(http):
    @task
    async def sleep() -> None:
        await asyncio.sleep(3600)

    run = await sleep.trigger()
    answer = await http.post(f"/v1/runs/{run.id}/cancel", headers=bearer(SECRET))
    assert answer.status_code == 200
    assert (await run.wait()).status == "canceled"


async def test_a_backend_mints_a_token_with_the_secret_key(http, add):
    run = await add.trigger(1)
    body = {"scopes": [f"read:runs:{run.id}"], "ttl_s": 60, "subject": "user_7"}
    answer = await http.post("/v1/tokens", headers=bearer(SECRET), json=body)
    token = answer.json()["token"]
    assert (await http.get(f"/v1/runs/{run.id}", headers=bearer(token))).status_code == 200
    assert (await http.get("/v1/runs", headers=bearer(token))).status_code == 403
    body["scopes"] = ["everything"]
    assert (await http.post("/v1/tokens", headers=bearer(SECRET), json=body)).status_code == 422


async def test_the_description_names_every_endpoint_and_describes_the_run(http, add, gateway):
    document = (await http.get("/v1/openapi.json")).json()
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in gateway.app.routes
        for method in getattr(route, "methods", None) or ()
        if route.path.startswith("/v1/") and (method != "HEAD" or "stream" in route.path)
    } - {("/v1/openapi.json", "get")}
    described = {(path, method) for path, item in document["paths"].items() for method in item}
    assert described == routes
    run = await add.trigger(1)
    stored = (await http.get(f"/v1/runs/{run.id}", headers=bearer(SECRET))).json()
    jsonschema.validate(stored, document["components"]["schemas"]["Run"])


PREFLIGHT = {
    "Origin": "https://app.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.mark.parametrize(
    ("origins", "answered"),
    [
        ((), None),
        (("https://other.example",), None),
        (("https://app.example",), "https://app.example"),
        (("*",), "*"),
    ],
)
async def test_which_pages_may_ask(origins, answered):
    async with serving(origins=origins) as gateway, httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{gateway.port}/v1/tasks/add/trigger"
        answer = await http.options(url, headers=PREFLIGHT)
        assert answer.headers.get("access-control-allow-origin") == answered
        assert answer.is_success == (answered is not None)
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("name", ["token", "access_token", "x-api-key", "jwt", "other"])
async def test_a_token_in_a_url_is_refused_though_it_is_good(http, name):
    token = token_for("read:runs:*")
    answer = await http.get("/v1/runs", params={name: token}, headers=bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (400, "token_in_url")
    assert token not in answer.text


def test_a_trigger_token_without_a_use_cannot_be_minted():
    with pytest.raises(InvalidValue, match="at least 1"):
        trigger_token("add", uses=0)


async def test_what_a_token_leaves_out_is_left_out_of_every_answer(http, add):
    handle = await add.options(tags=["x"]).trigger(2)
    await add.wait(handle.id)
    minted = await http.post(
        "/v1/tokens",
        headers=bearer(SECRET),
        json={"scopes": ["read:tags:x", "write:runs:*"], "skip": ["payload", "output"]},
    )
    headers = bearer(minted.json()["token"])
    answers = [
        await http.get(f"/v1/runs/{handle.id}", headers=headers),
        await http.get("/v1/runs", params={"tag": "x"}, headers=headers),
        await http.post(f"/v1/runs/{handle.id}/cancel", headers=headers),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        run = answer.json().get("runs", [answer.json()])[0]
        assert run["id"] == handle.id
        assert run.keys().isdisjoint({"payload", "output"})
    refused = {"scopes": ["read:tags:x"], "skip": ["status"]}
    assert (await http.post("/v1/tokens", headers=bearer(SECRET), json=refused)).status_code == 422


async def test_unknown_task_error_lists_only_permitted_tasks(http, add):
    @task
    async def secret_work(): ...

    async def message(*scopes):
        headers = bearer(token_for(*scopes))
        answer = await http.post("/v1/tasks/ad/trigger", headers=headers, json={"payload": {}})
        assert answer.status_code == 404
        return answer.json()["message"]

    everything = await message("trigger:tasks:*")
    assert "no task 'ad' is defined in this process; the tasks here are add" in everything
    assert "secret-work" in everything
    assert "the tasks here are add" in await message("trigger:tasks:a*")
    assert "secret-work" not in await message("trigger:tasks:a*")
    assert await message("trigger:tasks:ad") == (
        "no task 'ad' is defined in this process; import the module that defines it"
    )
