"""The secret key of a process: from its settings, or generated once next to the SQLite file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gateway._internal.private_folder import make_folder
from gateway.auth.keys import check_secret
from gateway.errors import ConfigurationError
from gateway.model.store_urls import is_redis, sqlite_path
from gateway.settings import Settings


def resolve_secret(settings: Settings) -> str:
    """Return the secret key; in development generate one and save it next to the store.

    Raises:
        ConfigurationError: too short, missing in production, or missing in a worker.
    """
    if settings.secret_key:
        check_secret(settings.secret_key)
        return settings.secret_key
    if settings.env == "production":
        raise ConfigurationError(
            "REALTIME_SECRET_KEY is not set and REALTIME_ENV is production; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(48))" '
            "and give the same to every gateway and worker"
        )
    if is_redis(settings.store) and settings.url is None:
        raise ConfigurationError(
            "REALTIME_SECRET_KEY is not set; every gateway and worker of a Redis store needs the "
            "same one"
        )
    path = secret_path(settings)
    if settings.url is not None and (path is None or not path.exists()):
        raise ConfigurationError(
            f"REALTIME_SECRET_KEY is not set; a worker needs that of its gateway {settings.url}"
        )
    return _kept_secret(path)


def secret_path(settings: Settings) -> Path | None:
    """Return the file of the generated secret; None for a store without a folder."""
    scheme, _, rest = settings.store.partition(":")
    return sqlite_path(rest)[0].with_name("secret_key") if scheme == "sqlite" else None


def _kept_secret(path: Path | None) -> str:
    if path is None:
        return secrets.token_urlsafe(48)
    try:
        return _read_or_make(path)
    except OSError as error:
        raise ConfigurationError(
            f"the secret key cannot be kept at {path} ({error.strerror}); set REALTIME_SECRET_KEY, "
            "or name a store in a folder that can be written"
        ) from error


def _read_or_make(path: Path) -> str:
    if path.exists():
        secret = path.read_text().strip()
        check_secret(secret)
        return secret
    make_folder(path)
    return _write_once(path, secrets.token_urlsafe(48))


def _write_once(path: Path, secret: str) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was first
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    return secret
