import base64
import dataclasses
import json

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway import tokens
from gateway.auth.keys import KeyRing
from gateway.auth.permissions import Permissions, check_scope, require
from gateway.auth.verifier import Verifier
from gateway.errors import ConfigurationError, Forbidden, InvalidToken, InvalidValue, TokenExpired
from gateway.model.records import RUN_STREAM, RunSet, StreamKey
from gateway.tokens import mint, verify

SECRET = "a secret of the tests that is long enough"
OTHER = "another secret that is just as long, or longer"
NOW_S = 1_795_352_174.0
RUN = StreamKey("run_1", RUN_STREAM)
PROGRESS = StreamKey("run_1", "progress")
ANSWER = StreamKey("run_1", "answer")
ELSEWHERE = StreamKey("run_12", "progress")


def access(*scopes):
    return Permissions(frozenset(scopes), NOW_S + 60)


def forge(key=SECRET, algorithm="HS256", **claims):
    claims = {
        "aud": "realtime-streams",
        "iat": int(NOW_S),
        "exp": int(NOW_S) + 60,
        "jti": "t_1",
        "scopes": ["read:runs:run_1"],
    } | claims
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm)


def check(token):
    return verify(token, secret_key=SECRET, now_s=NOW_S)


# What scopes allow.


@pytest.mark.parametrize(
    ("scope", "readable", "writable"),
    [
        ("read:runs:run_1", {RUN, PROGRESS, ANSWER}, set()),
        ("read:runs:run_1*", {RUN, PROGRESS, ANSWER, ELSEWHERE}, set()),
        ("read:runs:*", {RUN, PROGRESS, ANSWER, ELSEWHERE}, set()),
        ("read:streams:run_1/progress", {PROGRESS}, set()),
        ("read:streams:run_1/*", {PROGRESS, ANSWER}, set()),
        ("read:streams:run_1*", {PROGRESS, ANSWER, ELSEWHERE}, set()),
        ("read:streams:*", {PROGRESS, ANSWER, ELSEWHERE}, set()),
        ("read:streams:run_1/$run", set(), set()),
        ("read:tags:user_7", set(), set()),
        ("read:batches:batch_1", set(), set()),
        ("write:runs:run_1", set(), {RUN, PROGRESS, ANSWER}),
        ("write:runs:*", set(), {RUN, PROGRESS, ANSWER, ELSEWHERE}),
        ("write:streams:run_1/answer", set(), {ANSWER}),
        ("write:streams:run_1/*", set(), {PROGRESS, ANSWER}),
        # None of these is a scope that can be minted; a stray one must allow nothing.
        ("read:runs:", set(), set()),
        ("read:runs", set(), set()),
        ("read:*", set(), set()),
        ("*", set(), set()),
        ("read:runs:r*1", set(), set()),
        ("READ:RUNS:run_1", set(), set()),
        ("read:tasks:*", set(), set()),
    ],
)
def test_a_scope_allows_this_and_nothing_else(scope, readable, writable):
    keys = {RUN, PROGRESS, ANSWER, ELSEWHERE}
    assert {key for key in keys if access(scope).may_read(key)} == readable
    assert {key for key in keys if access(scope).may_write(key)} == writable


def test_tags_and_batches_allow_the_runs_that_have_them():
    by_tag, by_batch = access("read:tags:user_7"), access("read:batches:batch_1")
    assert by_tag.may_read(RUN, ["x", "user_7"])
    assert by_tag.may_read(PROGRESS, ["user_7"])
    assert not by_tag.may_read(PROGRESS, ["user_77", "user_"])
    assert not by_tag.may_read(PROGRESS, [], "user_7")
    assert access("read:tags:user_*").may_read(PROGRESS, ["user_77"])
    assert by_batch.may_read(RUN, [], "batch_1")
    assert not by_batch.may_read(RUN, ["batch_1"], "batch_12")
    assert not by_tag.may_write(PROGRESS)


def test_without_a_scope_nothing_is_allowed():
    nothing = access()
    assert not nothing.may_read(RUN, ["x"], "y")
    assert not nothing.may_write(PROGRESS)
    assert not nothing.may_read_every_run()
    assert not nothing.may_write_every_run()
    assert not nothing.depends_on_run()


def test_every_run_means_the_scope_of_every_run():
    assert access("read:runs:*").may_read_every_run()
    assert not access("read:runs:run_*", "write:runs:*").may_read_every_run()
    assert access("write:runs:*").may_write_every_run()
    assert not access("write:runs:run_*", "read:runs:*").may_write_every_run()


def test_a_run_has_to_be_looked_at_only_for_tags_and_batches():
    assert access("read:tags:x").depends_on_run()
    assert access("read:runs:run_1", "read:batches:x").depends_on_run()
    assert not access("read:runs:*", "write:runs:*", "read:streams:*").depends_on_run()


def test_require_error_names_the_missing_permission():
    require(True, "read run run_1")
    with pytest.raises(Forbidden, match="no scope to read run run_1"):
        require(False, "read run run_1")


@pytest.mark.parametrize(
    "scope",
    [
        "read:runs:run_1",
        "read:runs:*",
        "read:streams:run_1/progress",
        "read:streams:run_1/*",
        "read:tags:user:7",
        "read:batches:b",
        "write:runs:run_1",
        "write:streams:run_1/approval",
    ],
)
def test_a_scope_of_the_form_is_taken(scope):
    assert check_scope(scope) == scope


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "read",
        "read:runs",
        "read:runs:",
        "read:*",
        "*",
        "read:runs:r*n",
        "read:runs:**",
        "read:streams:*/progress",
        "write:tags:x",
        "write:batches:x",
        "trigger:runs:x",
        "delete:runs:x",
        "Read:runs:x",
    ],
)
def test_mint_rejects_invalid_scope(scope):
    with pytest.raises(InvalidValue, match=r"action:resource:id.*\* only as the last"):
        mint([scope], secret_key=SECRET, now_s=NOW_S)


@given(st.text(max_size=30), st.sampled_from([RUN, PROGRESS, ELSEWHERE]))
def test_invalid_scope_permits_nothing(text, key):
    try:
        check_scope(text)
    except InvalidValue:
        assert not access(text).may_read(key)
        assert not access(text).may_write(key)


# Minting.


def test_token_round_trips_its_claims():
    token = mint(
        ["read:runs:run_1", "write:streams:run_1/a"],
        ttl_s=90,
        subject="user_7",
        secret_key=SECRET,
        now_s=NOW_S,
    )
    found = check(token)
    assert found.scopes == {"read:runs:run_1", "write:streams:run_1/a"}
    assert found.expires_at_s == NOW_S + 90
    assert found.subject == "user_7"
    assert len(found.id) >= 12
    assert jwt.get_unverified_header(token)["kid"] == tokens.key_id(SECRET)
    assert SECRET not in tokens.key_id(SECRET)


def test_two_tokens_differ_though_they_say_the_same():
    first, second = (mint(["read:runs:a"], secret_key=SECRET, now_s=NOW_S) for _ in range(2))
    assert first != second


def test_token_expires_after_15_minutes_by_default():
    token = mint(["read:runs:a"], secret_key=SECRET, now_s=NOW_S)
    assert check(token).expires_at_s == NOW_S + 900


@pytest.mark.parametrize("ttl_s", [0, -1, 30 * 24 * 3600 + 1, float("inf"), float("nan")])
def test_a_life_outside_its_limits_is_refused(ttl_s):
    with pytest.raises(InvalidValue, match="at most 2592000"):
        mint(["read:runs:a"], ttl_s=ttl_s, secret_key=SECRET, now_s=NOW_S)


@pytest.mark.parametrize("ttl_s", [0.2, 1, 30 * 24 * 3600])
def test_a_life_within_its_limits_is_a_life(ttl_s):
    now_s = NOW_S + 0.7
    token = mint(["read:runs:a"], ttl_s=ttl_s, secret_key=SECRET, now_s=now_s)
    assert verify(token, secret_key=SECRET, now_s=now_s).expires_at_s >= now_s + ttl_s
    with pytest.raises(TokenExpired):
        verify(token, secret_key=SECRET, now_s=now_s + ttl_s + 1)


@pytest.mark.parametrize("scopes", [[], "read:runs:a", ["read:runs:a"] * 101])
def test_a_token_has_one_to_a_hundred_scopes(scopes):
    with pytest.raises(InvalidValue, match="1 to 100 scopes"):
        mint(scopes, secret_key=SECRET, now_s=NOW_S)


def test_a_scope_in_place_of_a_list_of_scopes_is_named():
    with pytest.raises(InvalidValue, match="got the text 'read:runs:a'"):
        mint("read:runs:a", secret_key=SECRET, now_s=NOW_S)


def test_a_token_with_all_the_scopes_it_may_have_can_be_sent():
    scopes = [f"write:streams:run_{'x' * 25}/stream_{'y' * 35}{i:03}" for i in range(100)]
    assert check(mint(scopes, secret_key=SECRET, now_s=NOW_S)).scopes == set(scopes)
    longer = [f"read:tags:{'x' * 150}{i:03}" for i in range(100)]
    with pytest.raises(InvalidValue, match="characters; the limit is 16384"):
        mint(longer, secret_key=SECRET, now_s=NOW_S)


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_short_secret_is_refused_and_not_shown(secret):
    with pytest.raises(ConfigurationError, match=f"has {len(secret)} bytes; at least 32") as caught:
        mint(["read:runs:a"], secret_key=secret, now_s=NOW_S)
    assert not secret or f" {secret} " not in caught.value.message
    mint(["read:runs:a"], secret_key="ü" * 16, now_s=NOW_S)  # bytes count, not characters


def test_the_secret_is_the_processs_own_or_the_environments(monkeypatch):
    with pytest.raises(ConfigurationError, match="set REALTIME_SECRET_KEY"):
        mint(["read:runs:a"], now_s=NOW_S)
    monkeypatch.setenv("REALTIME_SECRET_KEY", SECRET)
    check(mint(["read:runs:a"], now_s=NOW_S))
    tokens.use(OTHER)
    try:
        with pytest.raises(InvalidToken):
            check(mint(["read:runs:a"], now_s=NOW_S))
    finally:
        tokens.use(None)


# Verifying.


def test_the_clock_is_an_argument():
    token = forge()
    assert verify(token, secret_key=SECRET, now_s=NOW_S + 59.9)
    for now_s in (NOW_S + 60, NOW_S + 61, 9e9):
        with pytest.raises(TokenExpired, match="has expired"):
            verify(token, secret_key=SECRET, now_s=now_s)
    assert verify(token, secret_key=SECRET, now_s=NOW_S - 299)


def rs256():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def with_algorithm_none(name):
    _, payload, _ = forge().split(".")
    return f"{part({'alg': name, 'typ': 'JWT'})}.{payload}."


def with_more_scopes():
    header, payload, signature = forge().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["scopes"] = ["write:runs:*"]
    return f"{header}.{part(claims)}.{signature}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: "",
        lambda: None,
        lambda: 7,
        lambda: b"bytes",
        lambda: "no-token",
        lambda: "a.b.c",
        lambda: "....",
        lambda: "é.ü.ß",
        lambda: "\ud800.a.b",
        lambda: "x" * 16_385,
        lambda: forge(OTHER),
        lambda: forge(exp=None),
        lambda: forge(iat=None),
        lambda: forge(aud=None),
        lambda: forge(aud="another-service"),
        lambda: forge(aud=["another-service"]),
        lambda: forge(scopes=None),
        lambda: forge(scopes="read:runs:*"),
        lambda: forge(scopes=[1]),
        lambda: forge(scopes={"read:runs:*": True}),
        lambda: forge(exp="soon"),
        lambda: forge(exp=True),
        lambda: forge(exp=float("nan")),
        lambda: forge(exp=float("inf")),
        lambda: forge(iat=True),
        lambda: forge(iat="now"),
        lambda: forge(iat=NOW_S + 301, exp=NOW_S + 400),
        lambda: forge(nbf=NOW_S + 301),
        lambda: forge(nbf="soon"),
        lambda: forge(exp=NOW_S + 31 * 24 * 3600),
        lambda: forge(par="parent"),
        lambda: forge(par=[1]),
        lambda: forge(par_iat="long ago"),
        lambda: forge(trigger={"uses": "many"}),
        lambda: forge(trigger={"uses": 0}),
        lambda: forge(trigger={"max_payload_byte": 10}),
        lambda: forge(trigger={"tags": ["x*"]}),
        lambda: forge(jti=None),
        lambda: forge(jti=""),
        lambda: forge(jti=7),
        lambda: forge(jti="x" * 129),
        lambda: forge(sub=""),
        lambda: forge(sub=["user_7"]),
        lambda: forge(skip=["payloads"]),
        lambda: forge(skips=["payload"]),
        lambda: forge(exp=10**400),
        lambda: forge(iat=-(10**400)),
        lambda: forge(nbf=10**400),
        lambda: forge(par_iat=10**400),
        lambda: forge(trigger=["uses"]),
        lambda: forge(SECRET * 2, "HS512"),
        lambda: forge(SECRET * 2, "HS384"),
        lambda: forge(SECRET.ljust(64, "x"), "HS512"),
        lambda: forge(rs256(), "RS256"),
        lambda: forge(None, "none"),
        lambda: with_algorithm_none("none"),
        lambda: with_algorithm_none("None"),
        lambda: with_algorithm_none("NONE"),
        lambda: with_algorithm_none("HS256"),
        with_more_scopes,
        lambda: forge()[:-3],
        lambda: forge() + "A",
        lambda: f"{part({'alg': 'HS256'})}.{part([1])}.x",
    ],
)
def test_invalid_token_is_rejected_and_never_quoted_in_the_error(make):
    token = make()
    with pytest.raises(InvalidToken) as caught:
        check(token)
    message = caught.value.message
    assert SECRET not in message
    if isinstance(token, str) and len(token) > 8:
        assert token not in message
        assert all(piece not in message for piece in token.split(".") if len(piece) > 8)
        assert len(message) < 200


def test_a_token_of_another_algorithm_with_the_right_secret_is_refused():
    long = "x" * 64
    token = forge(long, "HS512")
    with pytest.raises(InvalidToken):
        verify(token, secret_key=long, now_s=NOW_S)


@given(st.text(max_size=200))
def test_no_text_is_a_token_by_chance(text):
    with pytest.raises(InvalidToken):
        check(text)


@given(st.integers(0, 300), st.characters(codec="ascii"))
def test_a_token_with_one_character_changed_is_refused(place, character):
    token = forge()
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    if changed == token:
        return
    # The last character of base64 carries bits that say nothing: the same token, spelled otherwise.
    try:
        found = check(changed)
    except (InvalidToken, TokenExpired):
        return
    assert dataclasses.replace(found, id="") == dataclasses.replace(check(token), id="")


def test_a_token_says_which_fields_its_bearer_never_sees():
    skip = ["output", "payload", "output"]
    text = mint(["read:runs:*"], skip=skip, secret_key=SECRET, now_s=NOW_S)
    assert verify(text, secret_key=SECRET, now_s=NOW_S).skip == {"output", "payload"}


@pytest.mark.parametrize("skip", [["status"], "payload", ["payload", "id"]])
def test_only_what_may_be_left_out_is_left_out(skip):
    with pytest.raises(InvalidValue, match="metadata, output, payload"):
        mint(["read:runs:*"], skip=skip, secret_key=SECRET)


@pytest.mark.parametrize(
    ("scope", "runs", "may"),
    [
        ("read:tags:x", RunSet("tag", "x"), True),
        ("read:batches:b", RunSet("batch", "b"), True),
        ("read:runs:run_a", RunSet("parent", "run_a"), True),
        ("read:runs:*", RunSet("tag", "x"), True),
        ("read:tags:x", RunSet("batch", "x"), False),
        ("read:streams:run_a/*", RunSet("parent", "run_a"), False),
        ("write:runs:*", RunSet("tag", "x"), False),
    ],
)
def test_which_sets_a_scope_opens(scope, runs, may):
    assert access(scope).may_read_set(runs) == may


def test_the_list_of_a_runs_streams_needs_a_scope_for_the_run():
    streams = StreamKey("run_1", "$streams")
    assert access("read:runs:run_1").may_read(streams)
    assert access("read:tags:x").may_read(streams, ["x"])
    assert not access("read:streams:run_1/*").may_read(streams)


# What is remembered of tokens that were good.


def keys_of(*secrets):
    return KeyRing.of_secret(*secrets)


@pytest.fixture
def verifier():
    return Verifier(keys_of(SECRET))


def reading(monkeypatch):
    """List the tokens whose signatures are computed."""
    read, ring = [], KeyRing.read
    monkeypatch.setattr(
        KeyRing, "read", lambda keys, token, *rest: read.append(token) or ring(keys, token, *rest)
    )
    return read


def test_verifier_caches_valid_token(verifier, monkeypatch):
    token = mint(["read:runs:run_1"], subject="a", secret_key=SECRET, now_s=NOW_S)
    read = reading(monkeypatch)
    first, again = verifier.verify(token, NOW_S), verifier.verify(token, NOW_S + 1)
    assert first == again == check(token)
    assert read == [token, token]  # once by the verifier, once by `check`


def test_a_token_that_is_remembered_expires_all_the_same(verifier):
    token = mint(["read:runs:run_1"], ttl_s=60, secret_key=SECRET, now_s=NOW_S)
    verifier.verify(token, NOW_S)
    with pytest.raises(TokenExpired):
        verifier.verify(token, NOW_S + 61)
    assert verifier.verify(token, NOW_S + 59)  # a clock that was set back


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_that_is_remembered_is_not_good_before_its_time(verifier, claim):
    token = forge(**{claim: int(NOW_S)})
    verifier.verify(token, NOW_S)
    with pytest.raises(InvalidToken, match="ahead of now"):
        verifier.verify(token, NOW_S - 1000)


def test_verifier_does_not_cache_invalid_tokens(verifier, monkeypatch):
    read = reading(monkeypatch)
    early, forged = forge(nbf=NOW_S + 1000), forge(key=OTHER)
    for token in (early, forged):
        for _ in range(2):
            with pytest.raises(InvalidToken):
                verifier.verify(token, NOW_S)
    assert read == [early, early, forged, forged]
    assert len(verifier) == 0


@pytest.mark.parametrize("token", [None, 7, "", "x" * 20_000, "\ud800", "a.b.c"])
def test_verifier_rejects_malformed_token_with_the_same_message(verifier, token):
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(token, NOW_S)
    with pytest.raises(InvalidToken) as plain:
        check(token)
    assert refused.value.message == plain.value.message


def test_a_token_of_another_ring_is_not_known(verifier):
    token = mint(["read:runs:run_1"], secret_key=SECRET, now_s=NOW_S)
    verifier.verify(token, NOW_S)
    with pytest.raises(InvalidToken):
        Verifier(keys_of(OTHER)).verify(token, NOW_S)
    assert Verifier(keys_of(OTHER, SECRET)).verify(token, NOW_S)


def test_a_token_that_differs_in_its_last_character_is_another(verifier):
    token = mint(["read:runs:run_1"], secret_key=SECRET, now_s=NOW_S)
    verifier.verify(token, NOW_S)
    for end in "AEQ":
        if token[-1] != end:
            with pytest.raises(InvalidToken):
                verifier.verify(token[:-2] + end * 2, NOW_S)


def test_verifier_cache_is_bounded_and_evicts_least_recently_used(verifier, monkeypatch):
    monkeypatch.setattr("gateway.auth.verifier.REMEMBERED", 3)
    many = [mint([f"read:runs:run_{n}"], secret_key=SECRET, now_s=NOW_S) for n in range(4)]
    for token in (*many[:3], many[0], many[3]):
        verifier.verify(token, NOW_S)
    assert len(verifier) == 3
    read = reading(monkeypatch)
    for token in (many[0], many[2], many[3]):
        verifier.verify(token, NOW_S)
    assert read == []
    verifier.verify(many[1], NOW_S)
    assert read == [many[1]]


def test_a_long_token_is_good_and_not_remembered(verifier):
    scopes = [f"read:streams:run_{'x' * 40}/{n}" for n in range(60)]
    token = mint(scopes, secret_key=SECRET, now_s=NOW_S)
    assert verifier.verify(token, NOW_S) == verifier.verify(token, NOW_S)
    assert len(verifier) == 0
