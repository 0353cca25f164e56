"""Tokens that are good no more: the list, the gateway that hears of them, and those it ends."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect as open_socket

from gateway import connect, tokens
from gateway.auth.permissions import Permissions
from gateway.auth.revocations import KEPT_S, Revocation, RevocationList
from gateway.errors import InvalidValue, NotStarted, StoreUnavailable
from gateway.model.log import Page
from gateway.model.records import REVOCATIONS, Position, StreamKey
from gateway.server.ops.revocation_follower import RevocationFollower
from gateway.stores.memory import MemoryStore
from gateway.tokens import attenuate, mint, verify
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Client,
    environment,
    gateway_process,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)
from tests.support.redis.servers import fresh_url

NOW_S = 1_795_352_174.5


def access(id="t", subject="", issued_at_s=NOW_S, ancestors=(), first_issued_at_s=None):
    first = issued_at_s if first_issued_at_s is None else first_issued_at_s
    return Permissions(
        frozenset(),
        NOW_S + 60,
        subject,
        id,
        issued_at_s=issued_at_s,
        ancestors=ancestors,
        first_issued_at_s=first,
    )


def read(token, now_s=NOW_S):
    return verify(token, secret_key=SECRET, now_s=now_s)


# The list.


def test_token_is_revoked_by_its_id_or_an_ancestors_id():
    known = RevocationList()
    known.add(Revocation(token_id="a"), NOW_S)
    assert known.is_revoked(access("a"))
    assert known.is_revoked(access("b", ancestors=("x", "a")))
    assert not known.is_revoked(access("b", subject="a", ancestors=("x",)))
    assert not known.is_revoked(access(""))


def test_a_subject_is_revoked_up_to_a_time():
    known = RevocationList()
    known.add(Revocation(subject="user_7", issued_before_s=NOW_S), NOW_S)
    known.add(Revocation(subject="user_7", issued_before_s=NOW_S - 50), NOW_S)  # takes nothing back
    assert known.is_revoked(access(subject="user_7", issued_at_s=NOW_S))
    assert known.is_revoked(access(subject="user_7", issued_at_s=NOW_S - 10))
    assert not known.is_revoked(access(subject="user_7", issued_at_s=NOW_S + 0.001))
    assert not known.is_revoked(access(subject="user_77"))
    assert not known.is_revoked(access(subject=""))
    later = access(subject="user_7", issued_at_s=NOW_S + 5, first_issued_at_s=NOW_S - 1)
    assert known.is_revoked(later)


@given(st.floats(0, 5), st.floats(-5, 5))
def test_subject_revocation_covers_tokens_minted_up_to_its_time(at_s, later_s):
    known = RevocationList()
    known.add(Revocation(subject="s", issued_before_s=NOW_S + at_s), NOW_S)
    minted_at_s = NOW_S + at_s + later_s
    token = mint(["read:runs:a"], subject="s", secret_key=SECRET, now_s=minted_at_s)
    if later_s <= 0:
        assert known.is_revoked(read(token))
    elif later_s > 0.0011:
        assert not known.is_revoked(read(token))


def test_a_token_with_whole_seconds_of_the_very_second_is_taken_for_older():
    known = RevocationList()
    known.add(Revocation(subject="s", issued_before_s=NOW_S), NOW_S)
    for iat, is_revoked in ((int(NOW_S), True), (int(NOW_S) + 1, False)):
        claims = {"aud": "realtime-streams", "iat": iat, "exp": iat + 60, "sub": "s", "scopes": []}
        claims["jti"] = "t_1"
        assert known.is_revoked(read(jwt.encode(claims, SECRET))) == is_revoked


def test_children_of_a_revoked_token_are_revoked_with_it():
    parent = mint(["read:runs:*"], subject="s", secret_key=SECRET, now_s=NOW_S)
    child = attenuate(parent, scopes=["read:runs:a"], secret_key=SECRET, now_s=NOW_S + 5)
    grandchild = attenuate(child, secret_key=SECRET, now_s=NOW_S + 6)
    for revocation in (
        Revocation(token_id=tokens.id_of(parent)),
        Revocation(subject="s", issued_before_s=NOW_S),
    ):
        known = RevocationList()
        known.add(revocation, NOW_S)
        assert all(known.is_revoked(read(token)) for token in (parent, child, grandchild))
    known = RevocationList()
    known.add(Revocation(token_id=tokens.id_of(child)), NOW_S)
    assert [known.is_revoked(read(token)) for token in (parent, child, grandchild)] == [
        False,
        True,
        True,
    ]


def test_revocations_are_forgotten_only_after_tokens_expire():
    known = RevocationList()
    known.add(Revocation(token_id="a"), NOW_S)
    known.add(Revocation(subject="s", issued_before_s=NOW_S), NOW_S)
    known.forget(NOW_S + tokens.MAX_TTL_S + 300)
    assert len(known) == 2
    known.forget(NOW_S + KEPT_S + 1)
    assert len(known) == 0


@pytest.mark.parametrize(
    "revocation",
    [
        Revocation(),
        Revocation(token_id="a", subject="s"),
        Revocation(token_id="a", issued_before_s=NOW_S),
        Revocation(issued_before_s=NOW_S),
        Revocation(subject="s"),
        Revocation(subject="s", issued_before_s=NOW_S + 301),
        Revocation(subject="s", issued_before_s=NOW_S * 1000),
    ],
)
def test_a_revocation_says_one_thing(revocation):
    with pytest.raises(InvalidValue):
        revocation.check(NOW_S)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"token_id":""}',
        b'{"token_id":7}',
        b'{"id":"a"}',
        b'{"subject":null,"x":1}',
    ],
)
def test_decode_rejects_invalid_revocation(data):
    with pytest.raises(InvalidValue):
        Revocation.decode(data)


def test_a_revocation_is_read_back():
    for revocation in (Revocation("a"), Revocation(subject="s", issued_before_s=NOW_S)):
        assert Revocation.decode(revocation.encode()) == revocation


# Hearing of it.


class Faulty(MemoryStore):
    """A store whose follow does what the test wants."""

    def __init__(self):
        super().__init__()
        self.mode = "well"
        self.follows = 0
        self.broken = asyncio.Event()

    async def follow(self, key, after=None, on_page=None):
        self.follows += 1
        if self.mode == "refuses":
            raise StoreUnavailable("the follow was refused")
        if self.mode == "raises":
            raise RuntimeError("a fault of the library below")
        pages = super().follow(key, after)
        while True:
            taking = asyncio.ensure_future(anext(pages))
            breaking = asyncio.ensure_future(self.broken.wait())
            await asyncio.wait({taking, breaking}, return_when=asyncio.FIRST_COMPLETED)
            breaking.cancel()
            if self.mode == "is deaf":
                await asyncio.Event().wait()
            if self.broken.is_set():
                taking.cancel()
                self.broken.clear()
                raise StoreUnavailable("the connection broke")
            yield await taking


@asynccontextmanager
async def hearing(store, **options):
    await store.open()
    changes = []
    options = {"check_s": 0.01, "jitter": lambda: 0.01} | options
    heard = RevocationFollower(store, changes.append, **options)
    await heard.start()
    try:
        yield heard
    finally:
        await heard.stop()
        await store.close()


async def revoke_in(store, id):
    await store.append(REVOCATIONS, [Revocation(token_id=id).encode()])


async def test_follower_loads_earlier_revocations_at_start():
    store = MemoryStore()
    await store.open()
    for n in range(5000):
        await revoke_in(store, f"t_{n}")
    async with hearing(store) as heard:
        assert heard.is_revoked(access("t_0"))
        assert heard.is_revoked(access("t_4999"))
        assert not heard.is_revoked(access("t_5000"))
        assert heard.is_current


async def test_follower_is_notified_of_revocation_without_polling():
    store = MemoryStore()
    async with hearing(store, check_s=3600) as heard:
        await revoke_in(store, "t")
        await until(lambda: heard.is_revoked(access("t")))


@pytest.mark.parametrize("mode", ["refuses", "raises"])
async def test_a_follow_that_fails_is_noticed_logged_and_taken_up_again(mode, caplog):
    store = Faulty()
    async with hearing(store) as heard:
        store.mode = mode
        store.broken.set()
        await until(lambda: not heard.is_current)
        tries = store.follows
        await until(lambda: store.follows > tries + 5)
        assert not heard.is_current
        await revoke_in(store, "t")
        await until(lambda: heard.is_revoked(access("t")))  # by looking, all the same
        assert not heard.is_current
        store.mode = "well"
        await until(lambda: heard.is_current)
        await revoke_in(store, "u")
        await until(lambda: heard.is_revoked(access("u")))
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_stalled_follow_is_detected_and_replaced(caplog):
    store = Faulty()
    async with hearing(store) as heard:
        store.mode = "is deaf"
        await revoke_in(store, "t")
        await until(lambda: heard.is_revoked(access("t")))
        await until(lambda: not heard.is_current)
        assert "follower of revoked tokens is behind the log" in caplog.text
        store.mode = "well"
        await until(lambda: heard.is_current)
        await revoke_in(store, "u")
        await until(lambda: heard.is_revoked(access("u")))


async def test_a_store_that_cannot_be_read_is_noticed():
    store = MemoryStore()
    async with hearing(store) as heard:
        await store.close()
        await until(lambda: not heard.is_current)
        await store.open()
        await until(lambda: heard.is_current)


async def test_a_gateway_that_cannot_know_does_not_start():
    store = MemoryStore()
    with pytest.raises(StoreUnavailable):
        await RevocationFollower(store, lambda _: None).start()


async def test_restarted_log_does_not_undo_revocations():
    class Emptied(MemoryStore):
        async def read(self, key, after=None, max_bytes=0):
            if key == REVOCATIONS and self.page is not None:
                page, self.page = self.page, None
                return page
            return await super().read(key, after)

    store = Emptied()
    store.page = None
    async with hearing(store) as heard:
        await revoke_in(store, "t")
        await until(lambda: heard.is_revoked(access("t")))
        store.page = Page([], Position("f" * 16, 0), reset="epoch_changed")
        await until(lambda: store.page is None)
        assert heard.is_revoked(access("t"))


async def test_invalid_record_does_not_stop_the_follower(caplog):
    store = MemoryStore()
    async with hearing(store) as heard:
        await store.append(REVOCATIONS, [b'"nonsense"', Revocation(token_id="t").encode()])
        await until(lambda: heard.is_revoked(access("t")))
        assert "is invalid" in caplog.text
        assert heard.is_current


# Gateways.


async def append(gateway, run, value):
    await gateway.store.append(StreamKey(run.id, "s"), [value])


async def post(gateway, path, token, **body):
    url = gateway.url.replace("ws", "http", 1)
    async with httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bearer {token}"}
        return await client.post(f"{url}{path}", headers=headers, json=body)


async def get(gateway, path, token):
    url = gateway.url.replace("ws", "http", 1)
    async with httpx.AsyncClient() as client:
        return await client.get(f"{url}{path}", headers={"Authorization": f"Bearer {token}"})


async def test_revoked_token_ends_only_its_own_subscriptions():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        bad, good = token_for("read:runs:*"), token_for("read:runs:*")
        async with gateway.client(token=worker_token()) as client:
            for id, token in ((1, bad), (2, good), (3, None)):
                own = {"token": token} if token else {}
                await client.ask(type="subscribe", id=id, run=run.id, stream="s", **own)
            await tokens.revoke(token_id=tokens.id_of(bad))
            error = await client.receive()
            assert (error["id"], error["code"]) == (1, "token_revoked")
            await append(gateway, run, b"1")
            assert {(await client.receive())["id"] for _ in range(2)} == {2, 3}
            again = await client.ask(type="subscribe", id=4, run=run.id, stream="s", token=bad)
            assert (again["id"], again["code"]) == (4, "token_revoked")
            refused = await client.ask(type="run_get", id=5, run=run.id, token=bad)
            assert (refused["id"], refused["code"]) == (5, "token_revoked")


async def test_a_connection_whose_own_token_is_revoked_is_closed():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        bad = token_for("read:runs:*")
        async with gateway.client(token=bad) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            await tokens.revoke(token_id=tokens.id_of(bad))
            error = await client.receive()
            assert error["code"] == "token_revoked"
            assert "id" not in error
            assert await client.close_code() == 4401
        async with gateway.client(greet=False) as client:
            assert (await client.ask(type="hello", protocol=1, token=bad))[
                "code"
            ] == "token_revoked"
            assert await client.close_code() == 4401


async def test_a_refresh_with_a_revoked_token_is_refused_and_the_old_one_stays():
    async with serving() as gateway:
        bad = token_for("read:runs:*")
        async with gateway.client(token=worker_token()) as client:
            await tokens.revoke(token_id=tokens.id_of(bad))
            error = await client.ask(type="token", token=bad)
            assert error["code"] == "token_revoked"
            assert await client.ask(type="ping") == {"type": "pong"}


async def test_http_refuses_a_revoked_token():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        token = token_for("read:runs:*", "write:runs:*")
        assert (await get(gateway, f"/v1/runs/{run.id}", token)).status_code == 200
        await tokens.revoke(token_id=tokens.id_of(token))
        answer = await get(gateway, f"/v1/runs/{run.id}", token)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
        assert (await post(gateway, f"/v1/runs/{run.id}/cancel", token)).status_code == 401


async def test_a_subject_is_shut_out_and_let_in_again_by_a_new_token():
    async with serving() as gateway:
        old = [mint(["read:runs:*"], subject="user_7") for _ in range(2)]
        other = mint(["read:runs:*"], subject="user_8")
        async with gateway.client(token=old[0]) as client, gateway.client(token=other) as unhurt:
            done = await tokens.revoke(subject="user_7")
            assert (await client.receive())["code"] == "token_revoked"
            assert await client.close_code() == 4401
            await until(lambda: time.time() > done.issued_before_s + 0.002)
            async with gateway.client(token=mint(["read:runs:*"], subject="user_7")):
                pass
            assert await unhurt.ask(type="ping") == {"type": "pong"}
        async with gateway.client(greet=False) as client:
            error = await client.ask(type="hello", protocol=1, token=old[1])
            assert error["code"] == "token_revoked"


async def test_second_follower_is_notified_within_five_seconds():
    """Two gateways as there are on one Redis: here each has its own follow of one store."""
    store = MemoryStore()
    await store.open()
    told = [[], []]
    gateways = [
        RevocationFollower(store, each.append) for each in told
    ]  # as slow to look as in earnest
    for each in gateways:
        await each.start()
    async with asyncio.timeout(DEADLINE_S):
        await revoke_in(store, "t")
        await until(lambda: all(each.is_revoked(access("t")) for each in gateways))
    assert all(each and each[-1](access("t")) for each in told)
    for each in gateways:
        await each.stop()


async def test_revocation_reaches_second_gateway_within_five_seconds(tmp_path):
    store = fresh_url()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        gateway_process(store, tmp_path / "a") as first,
        gateway_process(store, tmp_path / "b") as second,
    ):
        bad = token_for("read:runs:*")
        async with open_socket(f"{second.url}/v1/ws") as opened:
            client = Client(opened)
            await client.ask(type="hello", protocol=1, token=bad)
            began_s = time.monotonic()
            answer = await post(first, "/v1/tokens/revoke", SECRET, token_id=tokens.id_of(bad))
            assert answer.status_code == 200
            assert (await client.receive())["code"] == "token_revoked"
            assert await client.close_code() == 4401
            assert time.monotonic() - began_s < DEADLINE_S
        for gateway in (first, second):
            assert (await get(gateway, "/v1/runs", bad)).json()["code"] == "token_revoked"
            assert (await get(gateway, "/readyz", "none")).status_code == 200


async def test_a_worker_revokes_through_its_gateway(tmp_path):
    with gateway_process(f"sqlite:{tmp_path}/test.db", tmp_path) as gateway:
        async with connect(gateway.url, secret_key=SECRET):
            bad = mint(["read:runs:*"], subject="user_7")
            url = gateway.url.replace("ws", "http", 1)
            async with httpx.AsyncClient() as client:
                headers = {"Authorization": f"Bearer {bad}"}
                assert (await client.get(f"{url}/v1/runs", headers=headers)).status_code == 200
                await tokens.revoke(token_id=tokens.id_of(bad))
                async with asyncio.timeout(DEADLINE_S):
                    while (await client.get(f"{url}/v1/runs", headers=headers)).status_code == 200:
                        pass
                gateway.kill()
                await asyncio.to_thread(gateway.start)  # revoked is revoked, whatever happens
                answer = await client.get(f"{url}/v1/runs", headers=headers)
                assert answer.json()["code"] == "token_revoked"


async def test_only_a_revocation_gets_into_the_log():
    async with serving() as gateway, gateway.client(token=worker_token()) as client:
        frame = {"type": "append", "id": 1, "run": "gateway", "stream": "$revocations"}
        for wrong in (
            {"records": ["nonsense"]},
            {"records": [{}]},
            {"records": [{"subject": "s", "issued_before_s": time.time() + 4000}]},
            {"records": [{"token_id": "t"}], "end": "completed"},
            {"records": [{"token_id": "t"}], "source": "run_1"},
            {"records": [], "end": "completed"},
        ):
            error = await client.ask(**frame | wrong)
            assert (error["id"], error["code"]) == (1, "invalid_value")
        assert (await client.ask(**frame, records=[{"token_id": "t"}]))["type"] == "appended"


async def test_tokens_are_revoked_over_http_with_the_secret_alone():
    async with serving() as gateway:
        made = (await post(gateway, "/v1/tokens", SECRET, scopes=["read:runs:*"])).json()
        assert made["id"] == tokens.id_of(made["token"])
        for bearer in (made["token"], worker_token(), "nonsense"):
            assert (
                await post(gateway, "/v1/tokens/revoke", bearer, token_id="t")
            ).status_code == 401
        assert (await get(gateway, "/v1/runs", made["token"])).status_code == 200
        answer = await post(gateway, "/v1/tokens/revoke", SECRET, token_id=made["id"])
        assert answer.json() == {"token_id": made["id"], "subject": None, "issued_before_s": None}
        await until(lambda: gateway.gateway._revocations.is_revoked(access(made["id"])))
        assert (await get(gateway, "/v1/runs", made["token"])).status_code == 401
        answer = await post(gateway, "/v1/tokens/revoke", SECRET, subject="s")
        assert answer.json()["issued_before_s"] == pytest.approx(time.time(), abs=DEADLINE_S)
        for wrong in (
            {},
            {"token_id": "a", "subject": "b"},
            {"subject": "s", "issued_before_s": 1e12},
        ):
            answer = await post(gateway, "/v1/tokens/revoke", SECRET, **wrong)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_value")


async def test_gateway_with_failed_follower_is_unready_but_healthy(monkeypatch):
    async with serving() as gateway:
        assert (await get(gateway, "/readyz", "none")).status_code == 200

    async def follow(self, key, after=None, on_page=None):
        raise StoreUnavailable("the follow was refused")
        yield

    monkeypatch.setattr(MemoryStore, "follow", follow)
    async with serving() as gateway:
        await until(lambda: not gateway.gateway._revocations.is_current)
        answer = await get(gateway, "/readyz", "none")
        assert (answer.status_code, answer.json()) == (503, {"status": "revocations unheard"})
        answer = await get(gateway, "/healthz", "none")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_time_is_a_datetime_with_a_zone_or_seconds():
    async with connect(store="memory:", secret_key=SECRET):
        moment = datetime.now(UTC)
        done = await tokens.revoke(subject="s", issued_before=moment)
        assert done.issued_before_s == moment.timestamp()
        assert (await tokens.revoke(subject="s", issued_before=5)).issued_before_s == 5
        with pytest.raises(InvalidValue, match="zone"):
            await tokens.revoke(subject="s", issued_before=datetime(2026, 1, 1))
        with pytest.raises(InvalidValue, match="ahead of now"):
            await tokens.revoke(subject="s", issued_before=time.time() + 1000)
    with pytest.raises(NotStarted):
        await tokens.revoke(token_id="t")


def test_the_command_line_revokes_through_a_running_gateway(tmp_path):
    with gateway_process(f"sqlite:{tmp_path}/test.db", tmp_path) as gateway:
        url = gateway.url.replace("ws", "http", 1)
        by_name = command("token", "read:runs:*", "--subject", "user_7").strip()
        by_token = command("token", "mint", "read:runs:*").strip()

        def status(token):
            return httpx.get(
                f"{url}/v1/runs", headers={"Authorization": f"Bearer {token}"}
            ).status_code

        assert (status(by_name), status(by_token)) == (200, 200)
        said = command("token", "revoke", "--subject", "user_7", "--url", gateway.url)
        assert said.startswith("revoked: the tokens of user_7 issued up to 20")
        assert (status(by_name), status(by_token)) == (401, 200)
        said = command("token", "revoke", by_token, "--url", gateway.url)
        assert said.strip() == f"revoked: token {tokens.id_of(by_token)}"
        assert status(by_token) == 401


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env=environment(PATH=os.environ["PATH"]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
