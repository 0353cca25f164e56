"""The claims of tokens: minting and verification have the same rules."""

import base64
import hashlib
import hmac
import json

import httpx
import pytest

from gateway.auth.permissions import Permissions
from gateway.errors import InvalidToken, InvalidValue
from gateway.tokens import attenuate, mint, mint_trigger, verify
from tests.support.claims import CLAIMS, NOW_S
from tests.support.gateways import SECRET, serving
from tests.support.malformed_json import REFUSED

NAMES = [*CLAIMS, "sub", "skip", "nbf", "iss", "trigger", "par", "par_iat"]
NAMES += [f"trigger.{name}" for name in ("uses", "tags", "max_payload_bytes", "shares")]


def signed(payload: str, header: str = '{"alg":"HS256","typ":"JWT"}') -> str:
    """Sign a text unchanged; no JSON library would write such a text."""
    parts = [_base64(text.encode("utf-8", "surrogatepass")) for text in (header, payload)]
    message = ".".join(parts).encode()
    signature = hmac.new(SECRET.encode(), message, hashlib.sha256).digest()
    return f"{message.decode()}.{_base64(signature)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_claim(name: str, value: str) -> str:
    """Sign claims of which one has this text as its value."""
    name, _, inner = name.partition(".")
    rest = json.dumps({each: claim for each, claim in CLAIMS.items() if each != name})
    value = f'{{"{inner}": {value}}}' if inner else value
    return signed(f'{rest[:-1]},"{name}":{value}}}')


def read(token: str) -> Permissions:
    return verify(token, secret_key=SECRET, now_s=NOW_S)


SHORT = {name: value for name, value in REFUSED.items() if len(value) < 12_000}


@pytest.mark.parametrize("name", [*NAMES, "other"])
@pytest.mark.parametrize("value", SHORT)
def test_claim_that_is_no_json_makes_the_token_invalid(name, value):
    with pytest.raises(InvalidToken) as refusal:
        read(with_claim(name, SHORT[value]))
    assert len(refusal.value.message) < 300


@pytest.mark.parametrize("value", SHORT)
def test_header_that_is_no_json_makes_the_token_invalid(value):
    for header in (SHORT[value], f'{{"alg":"HS256","kid":{SHORT[value]}}}'):
        try:
            read(signed(json.dumps(CLAIMS), header))
        except InvalidToken as refusal:
            assert len(refusal.message) < 300


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"jti": ...}, "jti"),
        ({"exp": ...}, "exp"),
        ({"skips": ["payload"]}, "skips"),
        ({"skip": ["payloads"]}, "payloads"),
        ({"limits": {}}, "limits"),
        ({"trigger": {"max_payload_byte": 10}}, "max_payload_byte"),
        ({"trigger": {"uses": 1.5}}, "uses"),
        ({"sub": ""}, "sub"),
        ({"aud": "another"}, "aud"),
    ],
)
def test_refusal_of_a_claim_names_it(claims, reason):
    said = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    with pytest.raises(InvalidToken, match=reason):
        read(signed(json.dumps(said)))


def test_tokens_of_the_release_before_are_good():
    trigger = {"uses": 2, "tags": ["a"], "max_payload_bytes": 65536, "shares": [["t_0", 3, 9e9]]}
    claims = CLAIMS | {
        "sub": "user_7",
        "skip": ["output", "payload"],
        "trigger": trigger,
        "par": ["t_0"],
        "par_iat": NOW_S - 5,
    }
    found = read(signed(json.dumps(claims)))
    assert (found.subject, found.skip, found.id) == ("user_7", {"output", "payload"}, "t_1")
    assert found.grant is not None
    assert found.grant.shares == (("t_0", 3, 9e9),)
    assert (found.ancestors, found.first_issued_at_s) == (("t_0",), NOW_S - 5)
    also = CLAIMS | {"aud": ["elsewhere", "realtime-streams"], "nbf": NOW_S, "iss": "someone"}
    assert read(signed(json.dumps(also))).scopes == {"read:runs:run_1"}


@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, "x", float("nan"), None, True, -1],
    ids=lambda value: type(value).__name__,
)
def test_mint_rejects_invalid_number_naming_the_parameter(value):
    with pytest.raises(InvalidValue, match="ttl_s"):
        mint(["read:runs:a"], ttl_s=value, secret_key=SECRET, now_s=NOW_S)
    with pytest.raises(InvalidValue, match="max_payload_bytes"):
        mint_trigger("t", max_payload_bytes=value, secret_key=SECRET, now_s=NOW_S)


@pytest.mark.parametrize("subject", [None, "x" * 1025, 7, "\ud800"])
def test_mint_refuses_a_subject_that_cannot_be_revoked(subject):
    with pytest.raises(InvalidValue):
        mint(["read:runs:a"], subject=subject, secret_key=SECRET, now_s=NOW_S)


@pytest.mark.parametrize("tags", [["x*"], [""], ["a"] * 11, ["\ud800"], [7]])
def test_mint_refuses_tags_that_no_run_may_have(tags):
    with pytest.raises(InvalidValue):
        mint_trigger("t", tags=tags, secret_key=SECRET, now_s=NOW_S)


def test_a_lesser_token_of_one_without_subject_has_none():
    parent = mint(["read:runs:*"], secret_key=SECRET, now_s=NOW_S)
    lesser = attenuate(parent, scopes=["read:runs:a"], secret_key=SECRET, now_s=NOW_S)
    assert read(lesser).subject == ""


async def test_gateway_answers_such_tokens_with_invalid_token_on_every_way_in(caplog):
    values = ["1" * 400, "1" * 5000, "1e999", r'"\ud800"', "[" * 900 + "]" * 900]
    async with serving() as gateway, httpx.AsyncClient() as http:
        url = gateway.url.replace("ws", "http", 1)
        async with gateway.client() as client:
            for name in NAMES:
                for value in values:
                    token = with_claim(name, value)
                    bearer = {"Authorization": f"Bearer {token}"}
                    answer = await http.get(f"{url}/v1/runs", headers=bearer)
                    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
                    answer = await http.get(f"{url}/v1/stream/run_1/s", headers=bearer)
                    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
                    refused = await client.ask(type="token", token=token)
                    assert refused["code"] == "invalid_token", refused
        async with gateway.client(greet=False) as client:
            await client.send(type="hello", protocol=1, token=with_claim("iat", "1" * 400))
            assert await client.close_code() == 4401
    assert not [record for record in caplog.records if record.exc_info], caplog.text
