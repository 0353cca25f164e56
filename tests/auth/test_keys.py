"""Which key a token is held against, and that nothing in the token can choose another way."""

import base64
import hashlib
import hmac
import json
import sys

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.auth.key_files import resolve_keys
from gateway.auth.keys import Key, KeyRing, key_id, thumbprint
from gateway.errors import ConfigurationError, InvalidToken
from gateway.model.records import StreamKey
from gateway.settings import Settings
from gateway.tokens import mint, verify
from tests.support.claims import CLAIMS, NOW_S
from tests.support.gateways import new_run, serving

SECRET = "a secret of the tests that is long enough"
OLD = "a former secret that was long enough as well"


def pair(curve=None):
    return ec.generate_private_key(curve or ec.SECP256R1())


def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


PAIR, OTHER_PAIR = pair(), pair()
KID = thumbprint(PAIR.public_key())
RING = KeyRing([Key.of_private_pem(private_pem(PAIR)), Key.of_secret(SECRET)], [Key.of_secret(OLD)])


def check(token, ring=RING):
    return verify(token, keys=ring, now_s=NOW_S)


def signed(key, algorithm, headers=None, **claims):
    return jwt.encode(CLAIMS | claims, key, algorithm, headers=headers)


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hmac_signed(secret: bytes, header):
    """Sign as an attacker would, whom no library keeps from using a PEM as a secret."""
    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(CLAIMS).encode())}"
    return f"{text}.{part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def test_the_first_key_signs_and_all_verify():
    token = mint(["read:runs:run_1"], keys=RING, now_s=NOW_S)
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "JWT", "kid": KID}
    assert check(token).scopes == {"read:runs:run_1"}
    for secret in (SECRET, OLD):
        assert check(mint(["read:runs:a"], secret_key=secret, now_s=NOW_S)).scopes


def test_a_public_key_verifies_and_cannot_sign():
    with pytest.raises(ConfigurationError, match="no key to sign"):
        KeyRing([Key.of_public_pem(public_pem(PAIR))])
    ring = KeyRing([Key.of_secret(SECRET)], [Key.of_public_pem(public_pem(PAIR))])
    assert check(mint(["read:runs:a"], keys=RING, now_s=NOW_S), ring).scopes == {"read:runs:a"}
    minted = mint(["read:runs:a"], keys=ring, now_s=NOW_S)
    assert jwt.get_unverified_header(minted)["alg"] == "HS256"


def test_the_kid_of_a_key_pair_is_its_rfc_7638_thumbprint():
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(PAIR.public_key()))
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    assert part(hashlib.sha256(text.encode()).digest()) == KID
    assert Key.of_public_pem(public_pem(PAIR)).id == Key.of_private_pem(private_pem(PAIR)).id == KID


def test_a_token_without_kid_is_held_against_the_current_keys_only():
    assert check(signed(SECRET, "HS256")).scopes
    assert check(signed(PAIR, "ES256")).scopes
    for key, algorithm in ((OLD, "HS256"), (OTHER_PAIR, "ES256")):
        with pytest.raises(InvalidToken):
            check(signed(key, algorithm))
    elsewhere = KeyRing([Key.of_secret(SECRET)], [Key.of_public_pem(public_pem(PAIR))])
    with pytest.raises(InvalidToken, match="key that is not known"):
        check(signed(PAIR, "ES256"), elsewhere)
    assert check(signed(PAIR, "ES256", {"kid": KID}), elsewhere).scopes


def rsa_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: hmac_signed(public_pem(PAIR), {"alg": "HS256"}), id="public PEM"),
        pytest.param(
            lambda: hmac_signed(public_pem(PAIR), {"alg": "HS256", "kid": KID}),
            id="public PEM, with its kid",
        ),
        pytest.param(
            lambda: hmac_signed(public_pem(PAIR).strip(), {"alg": "HS256", "kid": KID}),
            id="public PEM without its last line end",
        ),
        pytest.param(
            lambda: hmac_signed(public_pem(PAIR), {"alg": "HS256", "kid": key_id(SECRET)}),
            id="public PEM, with the secret's kid",
        ),
        pytest.param(lambda: hmac_signed(b"", {"alg": "HS256"}), id="empty secret"),
        pytest.param(lambda: hmac_signed(b"", {"alg": "none"}), id="none, signed"),
        pytest.param(lambda: signed(None, "none"), id="none"),
        pytest.param(lambda: signed(None, "none", {"kid": KID}), id="none, with kid"),
        pytest.param(lambda: signed(SECRET, "HS256", {"kid": KID}), id="secret under the pair's"),
        pytest.param(lambda: signed(SECRET, "HS256", {"kid": key_id(OLD)}), id="another's kid"),
        pytest.param(lambda: signed(OLD, "HS256", {"kid": key_id(SECRET)}), id="old as the new"),
        pytest.param(lambda: signed(PAIR, "ES256", {"kid": key_id(SECRET)}), id="pair as secret"),
        pytest.param(lambda: signed(OTHER_PAIR, "ES256", {"kid": KID}), id="another pair"),
        pytest.param(
            lambda: signed(OTHER_PAIR, "ES256", {"kid": thumbprint(OTHER_PAIR.public_key())}),
            id="a pair of one's own",
        ),
        pytest.param(lambda: signed(SECRET, "HS256", {"kid": ""}), id="empty kid"),
        pytest.param(lambda: signed(SECRET, "HS256", {"kid": "../secret_key"}), id="path as kid"),
        pytest.param(lambda: hmac_signed(SECRET.encode(), {"alg": "HS256", "kid": 1}), id="number"),
        pytest.param(
            lambda: hmac_signed(SECRET.encode(), {"alg": "HS256", "kid": None}), id="null"
        ),
        pytest.param(lambda: signed(SECRET * 2, "HS512"), id="HS512"),
        pytest.param(lambda: signed(SECRET * 2, "HS384", {"kid": key_id(SECRET)}), id="HS384"),
        pytest.param(lambda: signed(rsa_key(), "RS256"), id="RS256"),
        pytest.param(lambda: signed(rsa_key(), "RS256", {"kid": KID}), id="RS256, with kid"),
        pytest.param(lambda: signed(rsa_key(), "PS256", {"kid": KID}), id="PS256"),
        pytest.param(lambda: signed(pair(ec.SECP384R1()), "ES384", {"kid": KID}), id="ES384"),
        pytest.param(
            lambda: signed(
                OTHER_PAIR, "ES256", {"jwk": json.loads(_jwk(OTHER_PAIR)), "alg": "ES256"}
            ),
            id="brings its own key",
        ),
        pytest.param(
            lambda: signed(OTHER_PAIR, "ES256", {"jku": "http://127.0.0.1/keys", "kid": KID}),
            id="says where its key is",
        ),
        pytest.param(lambda: signed(PAIR, "ES256", exp=None), id="no exp"),
        pytest.param(lambda: signed(PAIR, "ES256", aud="elsewhere"), id="wrong audience"),
    ],
)
def test_algorithm_confusion_is_refused(make):
    token = make()
    with pytest.raises(InvalidToken) as caught:
        check(token)
    assert token not in caught.value.message
    assert len(caught.value.message) < 200


def _jwk(key):
    return jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())


def test_tampered_scopes_are_refused_also_with_a_key_pair():
    header, payload, signature = mint(["read:runs:run_1"], keys=RING, now_s=NOW_S).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"scopes": ["write:runs:*"]}
    with pytest.raises(InvalidToken, match="Signature"):
        check(f"{header}.{part(json.dumps(claims).encode())}.{signature}")


def test_no_key_shows_itself():
    key = Key.of_private_pem(private_pem(PAIR))
    settings = Settings(secret_key=SECRET, old_secret_keys=(OLD,))
    for text in (repr(RING), repr(key), repr(Key.of_secret(SECRET)), repr(settings)):
        assert SECRET not in text
        assert OLD not in text
        assert "PRIVATE" not in text
    assert SECRET not in key_id(SECRET)


@pytest.mark.parametrize(
    ("pem", "complaint"),
    [
        (b"", "no private key in PEM form"),
        (b"a secret that is no PEM at all, but long", "no private key in PEM form"),
        (public_pem(PAIR), "no private key in PEM form"),
        (private_pem(rsa_key()), "not of an elliptic curve: openssl ecparam"),
        (private_pem(pair(ec.SECP384R1())), "curve secp384r1; ES256 needs P-256"),
        (
            PAIR.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"x"),
            ),
            "no private key in PEM form",
        ),
    ],
)
def test_invalid_signing_key_file_is_rejected_with_reason(pem, complaint, tmp_path):
    file = tmp_path / "key.pem"
    file.write_bytes(pem)
    settings = Settings(secret_key=SECRET, signing_key_file=file)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        resolve_keys(settings)
    assert f"REALTIME_SIGNING_KEY_FILE {file}" in caught.value.message


@pytest.mark.parametrize(
    ("pem", "complaint"),
    [
        (private_pem(PAIR), "no public key in PEM form"),
        (
            rsa_key()
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            "not of an elliptic curve",
        ),
    ],
)
def test_invalid_verifying_key_file_is_rejected_with_reason(pem, complaint, tmp_path):
    file = tmp_path / "key.pem"
    file.write_bytes(pem)
    with pytest.raises(ConfigurationError, match=complaint):
        resolve_keys(Settings(secret_key=SECRET, verify_key_files=(file,)))
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        resolve_keys(Settings(secret_key=SECRET, verify_key_files=(tmp_path / "nowhere",)))


def test_a_pem_is_no_secret():
    with pytest.raises(ConfigurationError, match="REALTIME_SIGNING_KEY_FILE"):
        Key.of_secret(private_pem(PAIR).decode())


def test_key_pair_without_library_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ConfigurationError, match=r"realtime-streams\[es256\]"):
        Key.of_private_pem(private_pem(PAIR))


def test_keys_come_from_the_environment(tmp_path):
    (tmp_path / "signing.pem").write_bytes(private_pem(PAIR))
    (tmp_path / "theirs.pem").write_bytes(public_pem(OTHER_PAIR))
    ring = resolve_keys(
        Settings.from_env(
            {
                "REALTIME_SECRET_KEY": SECRET,
                "REALTIME_OLD_SECRET_KEYS": f" {'1' * 32}  {'2' * 32} ",
                "REALTIME_SIGNING_KEY_FILE": str(tmp_path / "signing.pem"),
                "REALTIME_VERIFY_KEY_FILES": str(tmp_path / "theirs.pem"),
            }
        )
    )
    theirs = thumbprint(OTHER_PAIR.public_key())
    assert ring.ids == {key_id(SECRET), key_id("1" * 32), key_id("2" * 32), KID, theirs}
    assert jwt.get_unverified_header(ring.sign({}))["kid"] == KID
    with pytest.raises(ConfigurationError, match=r"REALTIME_OLD_SECRET_KEYS: .* at least 32"):
        resolve_keys(Settings(secret_key=SECRET, old_secret_keys=("short",)))


def test_a_worker_with_a_key_pair_needs_no_secret_and_a_gateway_does(tmp_path):
    file = tmp_path / "signing.pem"
    file.write_bytes(private_pem(PAIR))
    settings = {"signing_key_file": file, "env": "production", "store": "memory:"}
    assert resolve_keys(Settings(url="ws://gateway", **settings)).ids == {KID}
    with pytest.raises(ConfigurationError, match="REALTIME_SECRET_KEY is not set"):
        resolve_keys(Settings(**settings))


# Rotation, on real gateways.


def token_by(secret, *scopes):
    return mint(scopes, secret_key=secret)


async def test_a_secret_is_rotated_without_shutting_anyone_out(tmp_path):
    store = f"sqlite:{tmp_path}/test.db"
    run = new_run()
    key = StreamKey(run.id, "s")
    old_token = token_by(OLD, "read:runs:*")

    async with serving(store, secret_key=OLD) as gateway, gateway.client(token=old_token) as client:
        await gateway.store.create_run(run)
        await gateway.store.append(key, [b"1"])
        await client.ask(type="subscribe", id=1, run=run.id, stream="s")
        position = (await client.receive())["position"]

    both = {"secret_key": SECRET, "old_secret_keys": (OLD,)}
    async with serving(store, **both) as gateway, gateway.client(token=old_token) as client:
        # The old token resumes; a new one takes its place while the stream goes on.
        start = {"position": position}
        await client.ask(type="subscribe", id=1, run=run.id, stream="s", start=start)
        fresh = token_by(SECRET, "read:runs:*")
        assert (await client.ask(type="token", token=fresh))["type"] == "token_accepted"
        await gateway.store.append(key, [b"2"])
        assert (await client.receive())["records"][0]["data"] == 2

    async with serving(store, secret_key=SECRET) as gateway:
        async with gateway.client(greet=False) as client:
            error = await client.ask(type="hello", protocol=1, token=old_token)
            assert error["code"] == "invalid_token"
            assert await client.close_code() == 4401
        async with gateway.client(token=fresh) as client:
            answer = await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            assert answer["type"] == "subscribed"


async def test_a_gateway_signs_with_its_key_pair_and_takes_tokens_of_others(tmp_path):
    (tmp_path / "signing.pem").write_bytes(private_pem(PAIR))
    (tmp_path / "theirs.pem").write_bytes(public_pem(OTHER_PAIR))
    settings = {
        "signing_key_file": tmp_path / "signing.pem",
        "verify_key_files": (tmp_path / "theirs.pem",),
    }
    async with serving(**settings) as gateway:
        own = mint(["read:runs:*"])
        assert jwt.get_unverified_header(own)["alg"] == "ES256"
        theirs = KeyRing([Key.of_private_pem(private_pem(OTHER_PAIR))])
        for token in (own, mint(["read:runs:*"], keys=theirs)):
            async with gateway.client(token=token):
                pass
        async with gateway.remote() as store:  # with the secret
            assert await store.create_run(new_run())
