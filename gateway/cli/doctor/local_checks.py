"""What `realtime doctor` can say without a network: settings, keys, the store."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Literal, NamedTuple

from gateway import tokens
from gateway.auth.key_files import resolve_keys
from gateway.auth.secret_file import secret_path
from gateway.cli._output import bytes_of
from gateway.cli._target import Target
from gateway.errors import ConfigurationError, RealtimeError, StoreLocked
from gateway.model.log import RunQuery
from gateway.model.store_urls import is_redis, sqlite_file
from gateway.sdk.session import opened
from gateway.settings import Settings
from gateway.stores.factory import open_store
from gateway.stores.sqlite.schema import SCHEMA_VERSION

SCARCE_BYTES = 1 << 30  # of free disk: a note
TOO_FEW_BYTES = 100 << 20  # a SQLite file wants this much to fold its log back


class Check(NamedTuple):
    """What was looked at, and how it is.

    Attributes:
        verdict: `note` is worth knowing, and works.
        subject: What was looked at.
        what: How it is.
        advice: What to do; "" if nothing.
    """

    verdict: Literal["ok", "note", "wrong"]
    subject: str
    what: str
    advice: str = ""


def check_configuration(settings: Settings) -> list[Check]:
    """Look at what the settings say, and whether what they need is installed."""
    checks = [Check("ok", "configuration", f"REALTIME_ENV is {settings.env}")]
    if settings.http_open:
        what = "streams over HTTP need no token"
        checks.append(Check("note", "configuration", what, "for this machine only"))
    if settings.url is None and settings.env == "production" and not settings.retention.run_ttl_s:
        advice = "set REALTIME_RUN_TTL_S, 2592000 for 30 days, or watch the disk"
        checks.append(Check("note", "retention", "finished runs are kept for ever", advice))
    if "*" in settings.origins:
        advice = "name the origins of your pages in REALTIME_ORIGINS"
        checks.append(Check("note", "configuration", "pages of any origin may connect", advice))
    if importlib.util.find_spec("uvicorn") is None and settings.url is None:
        advice = "pip install 'realtime-streams[server]' where a gateway is to run"
        checks.append(Check("note", "configuration", "no gateway can be served here", advice))
    return checks


def check_tokens(reach: Target) -> list[Check]:
    """Mint a token and verify it, with the keys of this environment."""
    if reach.token is not None:
        return [Check("ok", "tokens", "a token was given; it is shown to the gateway")]
    path = secret_path(reach.settings)
    has_key = reach.settings.secret_key or reach.settings.signing_key_file
    is_first = path is not None and not path.exists() and reach.settings.url is None
    if not has_key and reach.settings.env != "production" and is_first:
        return [Check("ok", "tokens", f"a secret will be made and kept at {path}")]
    try:
        keys = resolve_keys(reach.settings)
        token = tokens.mint(["read:runs:run_doctor"], ttl_s=60, keys=keys)
        tokens.verify(token, keys=keys, now_s=time.time())
    except RealtimeError as error:
        return [Check("wrong", "tokens", error.message, "all processes need the same key")]
    checks = [Check("ok", "tokens", f"minted and verified; keys {', '.join(sorted(keys.ids))}")]
    if not has_key and path is not None and path.exists() and path.stat().st_mode & 0o077:
        mode = stat.filemode(path.stat().st_mode)
        checks.append(
            Check("wrong", "tokens", f"others may read the secret {path} ({mode})", "chmod 600 it")
        )
    return checks


async def check_store(settings: Settings) -> list[Check]:
    """Open the store, if no gateway has it open."""
    if settings.store.startswith("memory:"):
        advice = "REALTIME_STORE=sqlite:PATH keeps streams over restarts"
        verdict: Literal["note", "wrong"] = "wrong" if settings.env == "production" else "note"
        return [Check(verdict, "store", "memory: forgets all when its process ends", advice)]
    try:
        if is_redis(settings.store):
            return [await _opened(settings, "the servers answer and keep what they are given")]
        path = sqlite_file(settings.store)
    except ConfigurationError as error:
        return [Check("wrong", "store", error.message, "see REALTIME_STORE in docs/settings.md")]
    folder = next(each for each in path.absolute().parents if each.exists())
    checks = [_disk(folder)]
    if not path.exists():
        if os.access(folder, os.W_OK):
            checks.append(Check("ok", "store", f"{path} will be made by the first gateway"))
        else:
            advice = "let the gateway's user write there, or name another place"
            checks.append(Check("wrong", "store", f"{folder} cannot be written", advice))
        return checks
    what = f"{path} opens and can be written: {bytes_of(_size(path))}, schema {SCHEMA_VERSION}"
    return [*checks, await _opened(settings, what)]


async def _opened(settings: Settings, what: str) -> Check:
    try:
        async with opened(open_store(settings.store, settings.retention)) as store:
            await store.list_runs(RunQuery(limit=1))
            if not store.is_ready:
                what = "it can be read, but not be written"
                return Check("wrong", "store", what, "make room on its disk: appends fail")
    except StoreLocked:
        advice = "give --url to look at that gateway"
        return Check("ok", "store", "a gateway or worker has it open, and only one may", advice)
    except RealtimeError as error:
        return Check("wrong", "store", error.message, "no gateway can start with it so")
    return Check("ok", "store", what)


def _size(path: Path) -> int:
    wal = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    what = f"{bytes_of(free)} are free at {folder}"
    if free < TOO_FEW_BYTES:
        return Check("wrong", "disk", what, "make room: appends fail when it is full")
    if free < SCARCE_BYTES:
        return Check("note", "disk", what, "REALTIME_RETENTION_… bound what streams take")
    return Check("ok", "disk", what)
