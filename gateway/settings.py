"""Environment to frozen settings, units in the names.

REALTIME_STORE
    Where streams live: `sqlite:PATH`, `sqlite:PATH?durability=normal`, `memory:`, or for more than
    one gateway Redis or Valkey, `redis://HOST:PORT/0`, `redis+sentinel://HOSTS/MASTER`,
    `redis+cluster://HOSTS`, with TLS `rediss…`; `?prefix=` of its keys, `?wait=1` to acknowledge
    only what a replica has. Needs the extra `redis`; `gateway.stores.redis.store` documents its
    guarantees. Default `sqlite:.realtime/realtime.db`.
REALTIME_SECRET_KEY
    Signs tokens, 32 bytes or more. Default: one is made and kept beside the store; required when
    `REALTIME_ENV=production`, and with a Redis store, whose processes have no file in common.
REALTIME_OLD_SECRET_KEYS
    Secrets that sign no more but still verify, separated by spaces. To rotate, make the former
    REALTIME_SECRET_KEY one of these, and take it out when its last token has expired, or at once to
    shut it out. Where there are several gateways, each has to know the new one (here) before any
    signs with it.
REALTIME_SIGNING_KEY_FILE
    A private key (PEM, curve P-256). Set, tokens are signed with ES256 in place of the secret, and
    the secret's tokens are still good. Needs the extra `es256`.
REALTIME_VERIFY_KEY_FILES
    Public keys (PEM, curve P-256), separated by the system's path separator (`:`): of others who
    mint tokens, or former ones. Their tokens name the key in `kid`, its RFC 7638 thumbprint.
REALTIME_NAME
    Of this gateway, where there are several: letters and digits, at most 20. The ids of its
    connections, in `welcome` and in the log, then begin with it.
REALTIME_ENV
    `development` (default) or `production`, which refuses what is only for trying out.
REALTIME_URL
    A worker's gateway, `ws://host:port`, or `wss://host/path` of one below a path. Set, no store
    of its own is opened.
REALTIME_RETENTION_AGE_S, REALTIME_RETENTION_RECORDS, REALTIME_RETENTION_BYTES
    What is kept of each stream: records younger than this, so many, so many bytes; what is beyond
    any of them goes at the next sweep (every minute). Default: everything is kept.
REALTIME_RUN_TTL_S
    Runs that finished so long ago are deleted with all that they own: 2592000 is 30 days. Default:
    never, since nothing is deleted that nobody has asked to delete. A disk that fills up is the
    price: set it in production.
REALTIME_RUNNER
    Who executes runs of tasks that name no runner: `process` (default: the one that triggers them),
    `celery` or `taskiq`, which the program then has to set up.
REALTIME_CONCURRENCY
    Runs that execute at the same time in one process. Default 20.
REALTIME_ORIGINS
    Origins whose pages may connect besides the gateway's own, separated by spaces, for example
    `https://app.example`; `*` is any. Default: none, and in a Reflex app those that Reflex allows.
REALTIME_TRUSTED_PROXIES
    Addresses or networks of proxies whose `X-Forwarded-For` is believed, separated by spaces.
    Default: those of this machine. Else all that come through a proxy count as one address.
REALTIME_HTTP_OPEN
    `1` lets anybody who reaches the gateway read and write every stream over HTTP, without a token:
    for one's own machine only, and refused when `REALTIME_ENV=production`. Default `0`.
REALTIME_METRICS
    Who may read `/metrics` without a token: `local` (default) is this machine, `token` nobody,
    `open` everybody. With the secret key, or a token with `read:metrics:*`, one always may. A proxy
    on this machine that adds no `X-Forwarded-For` looks like this machine: have it add that, or
    set `token`.
REALTIME_LOG_FORMAT
    How `realtime serve` logs: `text` (default), or `json`, one object a line with the connection,
    run and stream that it is about.
REALTIME_FRAME_BYTES, REALTIME_SUBSCRIPTIONS, …
    What a client must stay below: `gateway.model.limits` has them all, with their defaults.
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
MAY_BE_ZERO = {"max_age_s"}  # of the limits: never


@dataclass(frozen=True, slots=True)
class Settings:
    """What a gateway or a worker runs with.

    Attributes:
        store: The store's URL.
        secret_key: Signs tokens; "" until `resolve_secret` was asked.
        env: `production` refuses what is only for trying out.
        url: A worker's gateway; None for a process with a store of its own.
        concurrency: Runs that execute at the same time.
        runner: Who executes runs of tasks that name none.
        limits: What clients must stay below.
        retention: What the store may forget.
        old_secret_keys: Former secrets, which still verify.
        signing_key_file: A private key that signs in place of the secret.
        verify_key_files: Public keys that verify.
        origins: Whose pages may connect, besides the gateway's own; `*` is any.
        trusted_proxies: Who may say on whose behalf they come.
        http_open: Streams over HTTP need no token.
        name: Of this gateway among several; "" for none.
        metrics: Who may read `/metrics` without a token.
        log_format: How `realtime serve` writes its log.
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
                f"REALTIME_NAME is {self.name!r}; it is up to 20 letters and digits"
            )
        if self.http_open and self.env == "production":
            raise ConfigurationError(
                "REALTIME_HTTP_OPEN is 1 and REALTIME_ENV is production; give readers tokens"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment.

        Raises:
            ConfigurationError: names the variable and what it may be.
        """
        name = env.get("REALTIME_ENV", "development")
        if name not in ("development", "production"):
            raise ConfigurationError(f"REALTIME_ENV is {name!r}; it is development or production")
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
    """Read one of some words; the first is the default."""
    text = env.get(name) or known[0]
    if text not in known:
        raise ConfigurationError(
            f"{name} is {text!r}; it is {', '.join(known[:-1])} or {known[-1]}"
        )
    return text


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name) or "0"
    if text not in ("0", "1"):
        raise ConfigurationError(f"{name} is {text!r}; it is 0 or 1")
    return text == "1"


def _whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"{name} is {text!r}; it is a whole number from 1")
    return int(text)


def _limits(env: Mapping[str, str]) -> Limits:
    given: dict[str, float] = {}
    for limit in fields(Limits):
        name = f"REALTIME_{limit.name.upper()}"
        if not env.get(name):
            continue
        if limit.type == "int":
            given[limit.name] = _whole_number(env, name, 1)
        else:
            given[limit.name] = _seconds(env[name], name, limit.name in MAY_BE_ZERO)
    return Limits(**given).check()  # type: ignore[arg-type]


def _seconds(text: str, name: str, may_be_zero: bool) -> float:
    whole, _, part = text.partition(".")
    is_number = whole.isdecimal() and whole.isascii() and (part or "0").isdecimal()
    if not is_number or (float(text) == 0 and not may_be_zero):
        least = "from 0" if may_be_zero else "over 0"
        raise ConfigurationError(f"{name} is {text!r}; it is a number {least}")
    return float(text)
