"""Settings from the environment, as one frozen value. docs/settings.md lists all variables.

REALTIME_STORE
    The store: `sqlite:PATH`, `sqlite:PATH?durability=normal`, `memory:`, or for several gateways
    Redis or Valkey: `redis://HOST:PORT/0`, `redis+sentinel://HOSTS/MASTER`,
    `redis+cluster://HOSTS`, with TLS `rediss…`. `?prefix=` sets a prefix of its keys; with
    `?wait=1` an append is acknowledged once a replica has it. Redis needs the extra `redis`;
    `gateway.stores.redis.store` documents its guarantees. Default `sqlite:.realtime/realtime.db`.
REALTIME_SECRET_KEY
    Signs tokens; at least 32 bytes. By default one is generated and stored next to the store. It is
    required with `REALTIME_ENV=production`, and with a Redis store, whose processes share no file.
REALTIME_OLD_SECRET_KEYS
    Former secrets, separated by spaces: they verify tokens but do not sign them. To rotate, move
    the former REALTIME_SECRET_KEY here, and remove it when its last token has expired, or earlier
    to invalidate its tokens. With several gateways, add the new secret here at each of them before
    one of them signs with it.
REALTIME_SIGNING_KEY_FILE
    A private key (PEM, curve P-256) that signs tokens with ES256 instead of the secret. Tokens of
    the secret stay valid. Needs the extra `es256`.
REALTIME_VERIFY_KEY_FILES
    Public keys (PEM, curve P-256) of other issuers, or former ones, separated by the system's path
    separator (`:`). The `kid` of a token is the RFC 7638 thumbprint of its key.
REALTIME_NAME
    Name of this gateway among several: at most 20 letters and digits. It is the prefix of the ids
    of its connections, in `welcome` and in the log.
REALTIME_ENV
    `development` (default), or `production`, which rejects settings that are safe only in
    development.
REALTIME_URL
    The gateway that a worker connects to: `ws://host:port`, or `wss://host/path` below a path. With
    it the process opens no store.
REALTIME_RETENTION_AGE_S, REALTIME_RETENTION_RECORDS, REALTIME_RETENTION_BYTES
    The largest age, number and size of the records of each stream. Older records are deleted at the
    next sweep (every minute). Default: no limit.
REALTIME_RUN_TTL_S
    Time after which a finished run is deleted with everything that it owns; 2592000 is 30 days.
    Default: never, so that no data is deleted by accident. Set it in production, or the disk fills.
REALTIME_RUNNER
    Runner of tasks that do not name one: `process` (default, the process that triggers the run),
    `celery` or `taskiq`, which the program has to install.
REALTIME_CONCURRENCY
    Runs that one process executes concurrently. Default 20.
REALTIME_ORIGINS
    Origins, separated by spaces, whose pages may connect, for example `https://app.example`. The
    gateway's own origin always may; `*` allows any. Default: none, and in a Reflex app the origins
    that Reflex allows.
REALTIME_TRUSTED_PROXIES
    Addresses or networks of proxies whose `X-Forwarded-For` is trusted, separated by spaces.
    Default: this machine. All clients of any other proxy count as one address.
REALTIME_HTTP_OPEN
    With `1`, streams over HTTP can be read and written without a token. For development on one
    machine; rejected with `REALTIME_ENV=production`. Default `0`.
REALTIME_METRICS
    Access to `/metrics` without a token: `local` (default, from this machine), `token` (denied) or
    `open` (allowed). The secret key, or a token with `read:metrics:*`, is always accepted. A local
    proxy that adds no `X-Forwarded-For` counts as this machine: let it add the header, or set
    `token`.
REALTIME_LOG_FORMAT
    Log format of `realtime serve`: `text` (default), or `json`, one object per line, with the
    connection, run and stream of the message.
REALTIME_FRAME_BYTES, REALTIME_SUBSCRIPTIONS, …
    Limits; `gateway.model.limits` lists them with their defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from gateway.errors import ConfigurationError
from gateway.model.limits import DEFAULT_LIMITS, Limits
from gateway.model.network import LOOPBACK, parse_origins, parse_proxies
from gateway.model.retention import KEEP_ALL, Retention

DEFAULT_STORE = "sqlite:.realtime/realtime.db"
DEFAULT_CONCURRENCY = 20
MetricsAccess = Literal["local", "token", "open"]
LogFormat = Literal["text", "json"]
MAY_BE_ZERO = {"max_age_s"}  # limits for which 0 means never


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a gateway or a worker.

    Attributes:
        store: URL of the store.
        secret_key: Signs tokens; "" before `resolve_secret`.
        env: `production` rejects settings that are safe only in development.
        url: The gateway that a worker connects to; None in a process that opens the store.
        concurrency: Runs that the process executes concurrently.
        runner: Runner of tasks that do not name one.
        limits: Limits for clients.
        retention: What the store may delete.
        old_secret_keys: Former secrets that still verify tokens.
        signing_key_file: A private key that signs instead of the secret.
        verify_key_files: Public keys that verify tokens.
        origins: Origins whose pages may connect, in addition to the gateway's own; `*` allows any.
        trusted_proxies: Addresses and networks of trusted proxies.
        http_open: Whether streams over HTTP need no token.
        name: Name of this gateway among several, or "".
        metrics: Access to `/metrics` without a token.
        log_format: Log format of `realtime serve`.
    """

    store: str = DEFAULT_STORE
    secret_key: str = field(default="", repr=False)
    env: Literal["development", "production"] = "development"
    url: str | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    runner: str = "process"
    limits: Limits = DEFAULT_LIMITS
    retention: Retention = KEEP_ALL
    old_secret_keys: tuple[str, ...] = field(default=(), repr=False)
    signing_key_file: Path | None = None
    verify_key_files: tuple[Path, ...] = ()
    origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = LOOPBACK
    http_open: bool = False
    name: str = ""
    metrics: MetricsAccess = "local"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if self.name and not (self.name.isalnum() and self.name.isascii() and len(self.name) <= 20):
            raise ConfigurationError(
                f"REALTIME_NAME is {self.name!r}; it must be at most 20 letters and digits"
            )
        if self.http_open and self.env == "production":
            raise ConfigurationError(
                "REALTIME_HTTP_OPEN is 1 and REALTIME_ENV is production; use tokens instead"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings from the environment.

        Raises:
            ConfigurationError: a value is invalid; the message names the variable and the valid
                values.
        """
        name = env.get("REALTIME_ENV", "development")
        if name not in ("development", "production"):
            raise ConfigurationError(
                f"REALTIME_ENV is {name!r}; it must be development or production"
            )
        metrics = _one_of(env, "REALTIME_METRICS", get_args(MetricsAccess))
        log_format = _one_of(env, "REALTIME_LOG_FORMAT", get_args(LogFormat))
        return cls(
            store=env.get("REALTIME_STORE") or DEFAULT_STORE,
            secret_key=env.get("REALTIME_SECRET_KEY", ""),
            old_secret_keys=tuple(env.get("REALTIME_OLD_SECRET_KEYS", "").split()),
            signing_key_file=next(iter(_paths(env, "REALTIME_SIGNING_KEY_FILE")), None),
            verify_key_files=_paths(env, "REALTIME_VERIFY_KEY_FILES"),
            env=name,  # type: ignore[arg-type]
            metrics=metrics,  # type: ignore[arg-type]
            log_format=log_format,  # type: ignore[arg-type]
            url=env.get("REALTIME_URL") or None,
            name=env.get("REALTIME_NAME", ""),
            runner=env.get("REALTIME_RUNNER") or "process",
            http_open=_flag(env, "REALTIME_HTTP_OPEN"),
            concurrency=_whole_number(env, "REALTIME_CONCURRENCY", DEFAULT_CONCURRENCY),
            limits=_limits(env),
            origins=parse_origins(env.get("REALTIME_ORIGINS", "")),
            trusted_proxies=parse_proxies(env.get("REALTIME_TRUSTED_PROXIES", "")) or LOOPBACK,
            retention=Retention(
                age_s=_limit(env, "REALTIME_RETENTION_AGE_S"),
                records=_limit(env, "REALTIME_RETENTION_RECORDS"),
                bytes=_limit(env, "REALTIME_RETENTION_BYTES"),
                run_ttl_s=_limit(env, "REALTIME_RUN_TTL_S"),
            ),
        )


def _limit(env: Mapping[str, str], name: str) -> int | None:
    return _whole_number(env, name, 1) if env.get(name) else None


def _paths(env: Mapping[str, str], name: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in env.get(name, "").split(os.pathsep) if part)


def _one_of(env: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    """Read one of several words; the first is the default."""
    text = env.get(name) or known[0]
    if text not in known:
        raise ConfigurationError(
            f"{name} is {text!r}; it must be {', '.join(known[:-1])} or {known[-1]}"
        )
    return text


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "0"
    if text not in ("0", "1"):
        raise ConfigurationError(f"{name} is {text!r}; it must be 0 or 1")
    return text == "1"


def _whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"{name} is {text!r}; it must be a whole number from 1")
    return int(text)


def _limits(env: Mapping[str, str]) -> Limits:
    values: dict[str, float] = {}
    for limit in fields(Limits):
        name = f"REALTIME_{limit.name.upper()}"
        if not env.get(name):
            continue
        if limit.type == "int":
            values[limit.name] = _whole_number(env, name, 1)
        else:
            values[limit.name] = _seconds(env[name], name, limit.name in MAY_BE_ZERO)
    return Limits(**values).check()  # type: ignore[arg-type]


def _seconds(text: str, name: str, may_be_zero: bool) -> float:
    whole, _, part = text.partition(".")
    is_number = whole.isdecimal() and whole.isascii() and (part or "0").isdecimal()
    if not is_number or (float(text) == 0 and not may_be_zero):
        least = "from 0" if may_be_zero else "over 0"
        raise ConfigurationError(f"{name} is {text!r}; it must be a number {least}")
    return float(text)
