"""Access control of streams over HTTP."""

import pytest

from gateway.errors import ConfigurationError
from gateway.settings import Settings
from tests.support.gateways import new_run, serving, token_for
from tests.support.http.streams import EVERYTHING, JSON, TEXT, visitor


@pytest.mark.parametrize(
    ("scopes", "may_read", "may_write"),
    [
        ((), 401, 401),
        (("read:runs:*", "write:runs:*"), 403, 403),
        (("read:paths:docs/a",), 200, 403),
        (("read:paths:docs/*", "write:paths:docs/b"), 200, 403),
        (("read:paths:doc", "write:paths:docs/*"), 403, 204),
        (("read:paths:*", "write:paths:*"), 200, 204),
    ],
)
async def test_path_stream_requires_a_path_scope(gateway, http, scopes, may_read, may_write):
    await http.put("docs/a", headers=TEXT)
    async with visitor(gateway, *scopes) as client:
        assert (await client.get("docs/a")).status_code == may_read
        assert (await client.head("docs/a")).status_code == may_read
        for live in ("long-poll", "sse"):
            refused = await client.get("docs/a", params={"live": live, "offset": "x"})
            assert refused.status_code == (400 if may_read == 200 else may_read)
        post = await client.post("docs/a", headers=TEXT, content="x")
        assert post.status_code == may_write
        put = await client.put("docs/a", headers=TEXT)
        assert put.status_code == (200 if may_write == 204 else may_write)
        assert (await client.delete("docs/a")).status_code == may_write


async def test_the_stream_of_a_run_needs_the_scopes_that_the_websocket_asks_for(gateway, key):
    other = await gateway.store.create_run(new_run(tags=["user_7"]))
    async with visitor(gateway, f"read:streams:{key}", f"write:streams:{key}") as client:
        assert (await client.get(str(key))).status_code == 200
        assert (await client.post(str(key), headers=JSON, content="1")).status_code == 204
        assert (await client.delete(str(key))).status_code == 403
        assert (await client.get(f"{other.id}/progress")).status_code == 403
    async with visitor(gateway, "read:tags:user_7") as client:
        assert (await client.get(f"{other.id}/progress")).status_code == 200
        assert (await client.get(str(key))).status_code == 403


async def test_forbidden_reader_cannot_tell_missing_from_existing(gateway, http, key):
    await http.put("docs/a", headers=TEXT)
    async with visitor(gateway, "read:paths:other", "write:paths:other") as client:
        for there, absent in (("docs/a", "docs/b"), (str(key), "run_nowhere/progress")):
            for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                answers = [await client.request(method, path) for path in (there, absent)]
                assert [answer.status_code for answer in answers] == [403, 403]
                bodies = [
                    answer.text.replace(path, "…").replace(path.partition("/")[0], "…")
                    for answer, path in zip(answers, (there, absent), strict=True)
                ]
                assert bodies[0] == bodies[1]


async def test_a_fork_needs_read_on_its_source(gateway, http):
    await http.put("private/a", headers=TEXT, content="secret")
    async with visitor(gateway, "read:paths:mine/*", "write:paths:mine/*") as client:
        fork = {"Stream-Forked-From": "/v1/stream/private/a"}
        assert (await client.put("mine/a", headers=fork)).status_code == 403
        assert (await client.get("mine/a")).status_code == 404


async def test_a_token_in_the_url_is_refused(gateway):
    async with visitor(gateway) as client:
        answer = await client.get("docs/a", params={"token": token_for(*EVERYTHING)})
        assert answer.status_code in (400, 401) and "URL" in answer.json()["message"]


async def test_the_open_mode_needs_no_token_and_refuses_pages_of_other_origins(tmp_path):
    async with serving(http_open=True) as gateway, visitor(gateway) as client:
        assert (await client.put("a", headers=TEXT, content="x")).status_code == 201
        assert (await client.get("a")).headers["Cache-Control"] == "public, no-cache"
        elsewhere = {"Origin": "https://elsewhere.example"}
        assert (await client.post("a", headers=TEXT | elsewhere, content="y")).status_code == 403
        assert (await client.get("a", headers=elsewhere)).status_code == 403
        assert (await client.get("a")).text == "x"
        async with gateway.client(greet=False) as socket:  # nothing else is open
            await socket.send(type="hello", protocol=1, token="x")
            assert (await socket.receive())["code"] == "invalid_token"


def test_the_open_mode_is_refused_in_production_and_asked_for_by_one_value():
    with pytest.raises(ConfigurationError, match="REALTIME_HTTP_OPEN is 1"):
        Settings.from_env({"REALTIME_HTTP_OPEN": "1", "REALTIME_ENV": "production"})
    with pytest.raises(ConfigurationError, match="REALTIME_HTTP_OPEN is 'yes'"):
        Settings.from_env({"REALTIME_HTTP_OPEN": "yes"})
    assert Settings.from_env({"REALTIME_HTTP_OPEN": "1"}).http_open
    assert not Settings.from_env({}).http_open


async def test_every_answer_has_the_headers_that_browsers_go_by(http):
    await http.put("a", headers=TEXT)
    for method, path in [("GET", "a"), ("HEAD", "a"), ("POST", "a"), ("GET", "b"), ("GET", "ä")]:
        answer = await http.request(method, path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert answer.headers["Vary"] == "Authorization"
        assert "public" not in answer.headers["Cache-Control"]
