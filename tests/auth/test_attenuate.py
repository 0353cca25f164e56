"""Tokens made from tokens: never more than the one they were made from."""

import time

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import task, tokens
from gateway.auth.permissions import ParentUses, Permissions, TriggerGrant, check_scope, covers
from gateway.errors import Forbidden, InvalidToken, InvalidValue, TokenExpired
from gateway.model.records import RUN_STREAM, RunSet, StreamKey
from gateway.tokens import MAX_ANCESTORS, attenuate, mint, mint_trigger, verify
from tests.support.gateways import serving

SECRET = "a secret of the tests that is long enough"
NOW_S = 1_795_352_174.5


def read(token, now_s=NOW_S):
    return verify(token, secret_key=SECRET, now_s=now_s)


def parent(*scopes, **more):
    more = {"ttl_s": 600, "secret_key": SECRET, "now_s": NOW_S} | more
    return mint(scopes or ["read:runs:run_1"], **more)


def child(token, now_s=NOW_S, **more):
    return attenuate(token, secret_key=SECRET, now_s=now_s, **more)


@pytest.mark.parametrize(
    ("held", "scope", "is_covered"),
    [
        ("read:runs:run_1", "read:runs:run_1", True),
        ("read:runs:run_1", "read:runs:run_12", False),
        ("read:runs:run_1", "read:runs:run_1*", False),
        ("read:runs:run_1", "write:runs:run_1", False),
        ("read:runs:run_1", "read:streams:run_1/progress", True),
        ("read:runs:run_1", "read:streams:run_1/*", True),
        ("read:runs:run_1", "read:streams:run_1/a*", True),
        ("read:runs:run_1", "read:streams:run_1*", False),
        ("read:runs:run_1", "read:streams:run_12/progress", False),
        ("read:runs:run_1*", "read:runs:run_12", True),
        ("read:runs:run_1*", "read:runs:run_12*", True),
        ("read:runs:run_1*", "read:runs:run_*", False),
        ("read:runs:run_1*", "read:streams:run_12/progress", True),
        ("read:runs:run_1*", "read:streams:*", False),
        ("read:runs:run_1", "read:tags:run_1", False),
        ("read:runs:*", "read:tags:x", True),
        ("read:runs:*", "read:batches:*", True),
        ("read:runs:*", "trigger:tasks:x", False),
        ("read:streams:run_1/*", "read:streams:run_1/a", True),
        ("read:streams:run_1/*", "read:runs:run_1", False),
        ("read:streams:run_1/a", "read:streams:run_1/ab", False),
        ("read:tags:x", "read:runs:run_1", False),
        ("read:tags:x*", "read:tags:xy", True),
        ("write:runs:*", "write:streams:*", True),
        ("write:runs:*", "read:runs:run_1", False),
        ("trigger:tasks:a*", "trigger:tasks:ab", True),
        ("trigger:tasks:a", "trigger:tasks:*", False),
        ("read:runs:run_1/a*", "read:streams:run_1/a", False),
        ("nonsense", "read:runs:run_1", False),
        ("read:*", "read:runs:run_1", False),
        ("*", "read:runs:run_1", False),
    ],
)
def test_which_scopes_another_covers(held, scope, is_covered):
    assert covers([held], scope) == is_covered
    assert covers(["trigger:tasks:other", held], scope) == is_covered


ids = st.sampled_from(["run_1", "run_12", "run_2", "run_1/a", "run_1/ab", "run_12/a", "x", ""])
scopes = st.builds(
    lambda kind, id, star: f"{kind}:{id}{star}",
    st.sampled_from(
        ["read:runs", "read:streams", "read:tags", "read:batches", "write:runs", "write:streams"]
    ),
    ids,
    st.sampled_from(["", "*", "/*"]),
).filter(lambda scope: not scope.endswith((":", ":/")))
keys = [
    StreamKey(run_id, stream_id)
    for run_id in ("run_1", "run_12", "run_2", "x")
    for stream_id in ("a", "ab", RUN_STREAM, "$streams")
]
sets = [RunSet("tag", "x"), RunSet("batch", "x"), RunSet("parent", "run_1")]


def allowed(scope):
    access = Permissions(frozenset([scope]), NOW_S)
    return {
        *(("read", key) for key in keys if access.may_read(key)),
        *(("tagged", key) for key in keys if access.may_read(key, ["x"], "x")),
        *(("write", key) for key in keys if access.may_write(key)),
        *(("set", each) for each in sets if access.may_read_set(each)),
        *(["every"] if access.may_read_every_run() else []),
        *(["all"] if access.may_write_every_run() else []),
    }


@given(scopes, scopes)
def test_covered_scope_never_permits_more(held, scope):
    check_scope(held)
    if covers([held], check_scope(scope)):
        assert allowed(scope) <= allowed(held)


def test_a_child_has_less_of_everything():
    token = parent("read:runs:run_1", "write:runs:run_1", subject="user_7", skip=["payload"])
    made = read(child(token, NOW_S + 60, scopes=["read:streams:run_1/a"], skip=["output"]))
    assert made.scopes == {"read:streams:run_1/a"}
    assert made.skip == {"payload", "output"}
    assert made.subject == "user_7"
    assert made.expires_at_s == read(token).expires_at_s
    assert made.ancestors == (read(token).id,)
    assert made.id not in ("", read(token).id)
    assert (made.issued_at_s, made.first_issued_at_s) == (NOW_S + 60, NOW_S)


def test_a_child_left_to_itself_says_what_its_parent_says():
    token = parent("read:runs:run_1", "read:tags:x", subject="s")
    made, held = read(child(token)), read(token)
    assert (made.scopes, made.subject, made.skip) == (held.scopes, held.subject, held.skip)
    assert made.expires_at_s == held.expires_at_s


@pytest.mark.parametrize(("ttl_s", "lives_s"), [(10, 11), (1e9, 601), (600, 601)])
def test_a_child_never_outlives_its_parent(ttl_s, lives_s):
    token = parent()
    made = read(child(token, ttl_s=ttl_s))
    assert made.expires_at_s <= read(token).expires_at_s
    assert made.expires_at_s == int(NOW_S) + lives_s


def test_attenuate_rejects_rights_beyond_the_parent():
    for scope in ("read:runs:*", "write:runs:run_1", "read:tags:x", "read:runs:run_12"):
        with pytest.raises(Forbidden, match=f"covers {scope.replace('*', '.')}"):
            child(parent(), scopes=["read:runs:run_1", scope])
    with pytest.raises(InvalidValue, match="1 to 100 scopes"):
        child(parent(), scopes=[])
    with pytest.raises(InvalidValue, match="action:resource:id"):
        child(parent(), scopes=["read:*"])
    for ttl_s in (0, -1, float("nan")):
        with pytest.raises(InvalidValue, match="ttl_s"):
            child(parent(), ttl_s=ttl_s)
    with pytest.raises(InvalidValue, match="skip"):
        child(parent(), skip=["status"])


def test_only_a_good_token_has_children():
    with pytest.raises(TokenExpired):
        child(parent(ttl_s=10), NOW_S + 11)
    with pytest.raises(InvalidToken):
        child(parent(secret_key="another secret that is just as long, or longer"))
    with pytest.raises(InvalidToken):
        child("nonsense")
    nameless = jwt.encode(
        {"aud": "realtime-streams", "iat": NOW_S, "exp": NOW_S + 9, "scopes": ["read:runs:a"]},
        SECRET,
    )
    with pytest.raises(InvalidToken, match="jti"):
        child(nameless)


def test_a_line_of_tokens_names_all_of_them_and_has_an_end():
    token = parent()
    line = []
    for n in range(MAX_ANCESTORS):
        line.append(read(token).id)
        token = child(token, NOW_S + n)
        assert read(token, NOW_S + n).ancestors == tuple(line)
        assert read(token, NOW_S + n).first_issued_at_s == NOW_S
    with pytest.raises(InvalidValue, match=f"{MAX_ANCESTORS}th"):
        child(token)


def trigger_token(**more):
    return mint_trigger("work", secret_key=SECRET, now_s=NOW_S, **more)


def test_a_grant_only_shrinks():
    token = trigger_token(uses=3, tags=["x"], max_payload_bytes=100)
    held = read(token)
    share = ParentUses(held.id, 3, held.expires_at_s)
    assert read(child(token)).grant == TriggerGrant(3, ("x",), 100, (share,))
    smaller = child(token, uses=2, max_payload_bytes=50, tags=["x"])
    assert read(smaller).grant == TriggerGrant(2, ("x",), 50, (share,))
    larger = child(token, uses=9, max_payload_bytes=500)
    assert read(larger).grant == TriggerGrant(3, ("x",), 100, (share,))
    with pytest.raises(Forbidden, match="sets the tags x"):
        child(token, tags=["y"])
    second = ParentUses(read(smaller).id, 2, held.expires_at_s)
    assert read(child(smaller)).grant == TriggerGrant(2, ("x",), 50, (share, second))
    for wrong in ({"uses": 0}, {"max_payload_bytes": 0}):
        with pytest.raises(InvalidValue, match="at least 1"):
            child(token, **wrong)


def test_a_token_without_a_grant_may_give_one():
    token = parent("trigger:tasks:*")
    assert read(child(token)).grant is None
    made = read(child(token, scopes=["trigger:tasks:a"], uses=1, tags=["y"]))
    assert made.grant == TriggerGrant(1, ("y",), 64 << 10)


async def test_what_a_child_triggers_counts_for_its_parent():
    @task(id="attenuated-work")
    async def work():
        pass

    async with serving() as gateway:
        token = mint_trigger("attenuated-work", uses=2)
        first, second = (attenuate(token) for _ in range(2))
        answers = [
            await _post(gateway, bearer) for bearer in (first, attenuate(first, uses=1), second)
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 403]
        assert answers[2].json()["code"] == "token_spent"
        assert (await _post(gateway, token)).status_code == 403
        one = attenuate(mint_trigger("attenuated-work", uses=None), uses=1, ttl_s=60)
        assert (await _post(gateway, one)).status_code == 201
        assert (await _post(gateway, one)).status_code == 403


async def _post(gateway, token):
    async with httpx.AsyncClient() as client:
        return await client.post(
            f"{gateway.url.replace('ws', 'http')}/v1/tasks/attenuated-work/trigger",
            headers={"Authorization": f"Bearer {token}"},
            json={},
        )


def test_the_keys_of_the_process_make_children_too():
    tokens.use(SECRET)
    try:
        made = attenuate(tokens.mint(["read:runs:*"]), scopes=["read:runs:a"])
    finally:
        tokens.use(None)
    assert read(made, time.time()).scopes == {"read:runs:a"}
