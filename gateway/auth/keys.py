"""The keys that sign and verify tokens, and which of them a token is held against. No I/O.

Every key has one algorithm and is used with no other, whatever a token's header says: HS256 with
a secret, ES256 with a key pair. `kid` in the header names the key.

Source:
    PROTOCOL.md, section 10; RFC 7515, section 4.1.4; RFC 8725, sections 2.1 and 3.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jwt

from gateway._internal.extras import needs
from gateway.errors import ConfigurationError, InvalidToken

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_signatures = jwt.PyJWS()

MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2

Algorithm = Literal["HS256", "ES256"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key and the one algorithm that it is used with.

    Attributes:
        id: The `kid` of its tokens.
        algorithm: `HS256` or `ES256`.
        verifying: The secret, or the public key.
        signing: The secret, or the private key; None: it only verifies.
    """

    id: str
    algorithm: Algorithm
    verifying: Any = field(repr=False, compare=False)
    signing: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of_secret(cls, secret_key: str) -> Key:
        """Make the key of a secret that signs and verifies with HS256.

        Raises:
            ConfigurationError: it is too short, or is no secret but a key in PEM form.
        """
        check_secret(secret_key)
        return cls(key_id(secret_key), "HS256", secret_key, secret_key)

    @classmethod
    def of_private_pem(cls, pem: bytes, name: str = "the signing key") -> Key:
        """Make the key of a private key that signs with ES256.

        Args:
            pem: PKCS 8 or SEC 1, without a password, on the curve P-256.
            name: What an error calls it.

        Raises:
            ConfigurationError: it is none, or `cryptography` is not installed.
        """
        ec, serialization = _cryptography()
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{name} is no private key in PEM form: {error}") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{name} is not of an elliptic curve: {HOW_TO_MAKE}")
        public = _check_curve(private.public_key(), name)
        return cls(thumbprint(public), "ES256", public, private)

    @classmethod
    def of_public_pem(cls, pem: bytes, name: str = "the verifying key") -> Key:
        """Make the key of a public key that verifies ES256.

        Raises:
            ConfigurationError: it is none, or `cryptography` is not installed.
        """
        ec, serialization = _cryptography()
        try:
            public = serialization.load_pem_public_key(pem)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{name} is no public key in PEM form: {error}") from None
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise ConfigurationError(f"{name} is not of an elliptic curve: {HOW_TO_MAKE}")
        return cls(thumbprint(_check_curve(public, name)), "ES256", public)


class KeyRing:
    """The keys of one gateway: the first signs, all verify.

    Args:
        current: In use; the first that can sign does. Also what a token without `kid` is held
            against, if its algorithm is theirs.
        old: They verify tokens that name them, and nothing else.

    Raises:
        ConfigurationError: none of the current ones can sign.
    """

    def __init__(self, current: Sequence[Key], old: Iterable[Key] = ()) -> None:
        self._current = tuple(current)
        self._by_id = {key.id: key for key in (*old, *current)}
        signing = next((key for key in current if key.signing is not None), None)
        if signing is None:
            raise ConfigurationError("there is no key to sign tokens with")
        self._signing = signing

    @classmethod
    def of_secret(cls, secret_key: str, *old: str) -> KeyRing:
        """Make the ring of a secret, and of older ones whose tokens are still good.

        Raises:
            ConfigurationError: one of them is too short.
        """
        return cls([Key.of_secret(secret_key)], [Key.of_secret(each) for each in old])

    @property
    def ids(self) -> frozenset[str]:
        """The `kid`s of which tokens are taken."""
        return frozenset(self._by_id)

    def sign(self, claims: dict[str, Any]) -> str:
        """Make a token, in its compact form."""
        key = self._signing
        return jwt.encode(claims, key.signing, key.algorithm, headers={"kid": key.id})

    def read(self, token: str) -> bytes:
        """Check a token's signature.

        Returns:
            The signed payload. The caller checks its claims.

        Raises:
            InvalidToken: the message never repeats the token.
        """
        try:
            key = self._key_of(jwt.get_unverified_header(token))
            payload: bytes = _signatures.decode(token, key.verifying, algorithms=[key.algorithm])
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError) as error:
            raise InvalidToken(f"the token is not valid here: {error}") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            # Of these PyJWT repeats what Python says.
            raise InvalidToken("the token is not valid here: it is no JWT") from None
        return payload

    def _key_of(self, header: dict[str, Any]) -> Key:
        # What the header says is not signed yet. It only chooses among keys of which each is held
        # to its own algorithm, so a false word in it finds a key that does not fit.
        if "kid" in header:
            key = self._by_id.get(header["kid"])
        else:
            algorithm = header.get("alg")
            key = next((key for key in self._current if key.algorithm == algorithm), None)
        if key is None:
            raise jwt.InvalidKeyError("it was signed with a key that is not known")
        return key


HOW_TO_MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out signing_key.pem"


def check_secret(secret_key: str) -> None:
    """Refuse a secret that is too short to sign with.

    Raises:
        ConfigurationError: states the limit, never the secret.
    """
    size = len(secret_key.encode())
    if size < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"the secret key has {size} bytes; at least {MIN_SECRET_BYTES} are needed: "
            'python -c "import secrets; print(secrets.token_urlsafe(48))"'
        )
    if secret_key.lstrip().startswith("-----BEGIN"):
        raise ConfigurationError(
            "the secret key is a key in PEM form: name its file in REALTIME_SIGNING_KEY_FILE"
        )


def key_id(secret_key: str) -> str:
    """Name a secret without showing it: 8 hex digits of its hash."""
    return hashlib.sha256(b"realtime-streams kid:" + secret_key.encode()).hexdigest()[:8]


def thumbprint(public: EllipticCurvePublicKey) -> str:
    """Name a public key as anyone would who has it.

    Source:
        RFC 7638, sections 3.1 and 3.2.
    """
    numbers = public.public_numbers()
    x, y = (_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    members = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    canonical = json.dumps(members, separators=(",", ":")).encode()
    return _base64url(hashlib.sha256(canonical).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _check_curve(public: EllipticCurvePublicKey, name: str) -> EllipticCurvePublicKey:
    if public.curve.name != "secp256r1":
        raise ConfigurationError(
            f"{name} is on the curve {public.curve.name}; ES256 needs P-256: {HOW_TO_MAKE}"
        )
    return public


def _cryptography() -> tuple[Any, Any]:
    with needs("es256"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    return ec, serialization
