"""The key ring of a process: the secret and the files that its settings name."""

from __future__ import annotations

from pathlib import Path

from gateway.auth.keys import Key, KeyRing
from gateway.auth.secret_file import resolve_secret
from gateway.errors import ConfigurationError
from gateway.settings import Settings


def resolve_keys(settings: Settings) -> KeyRing:
    """Read the keys that sign and verify tokens.

    A worker with a signing key needs no secret; a gateway always has one, which backends show
    over HTTP.

    Raises:
        ConfigurationError: a key is missing, cannot be read or is not of its kind.
    """
    current = []
    if settings.signing_key_file is not None:
        path = settings.signing_key_file
        name = f"REALTIME_SIGNING_KEY_FILE {path}"
        current.append(Key.of_private_pem(_read(path, name), name))
    if not (current and settings.url is not None and not settings.secret_key):
        current.append(Key.of_secret(resolve_secret(settings)))
    old = [_old(secret_key) for secret_key in settings.old_secret_keys]
    for path in settings.verify_key_files:
        name = f"REALTIME_VERIFY_KEY_FILES {path}"
        old.append(Key.of_public_pem(_read(path, name), name))
    return KeyRing(current, old)


def _old(secret_key: str) -> Key:
    try:
        return Key.of_secret(secret_key)
    except ConfigurationError as error:
        raise ConfigurationError(f"REALTIME_OLD_SECRET_KEYS: {error.message}") from None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from None
