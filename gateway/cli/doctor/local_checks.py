"""Checks of `realtime doctor` without a network: settings, keys and the store."""

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
from gateway.cli._output import format_bytes
from gateway.cli._target import Target
from gateway.errors import ConfigurationError, RealtimeError, StoreLocked
from gateway.model.log import RunQuery
from gateway.model.store_urls import is_redis, sqlite_file
from gateway.sdk.session import opened
from gateway.settings import Settings
from gateway.stores.factory import open_store
from gateway.stores.sqlite.schema import SCHEMA_VERSION

SCARCE_BYTES = 1 << 30  # free disk space below which there is a note
TOO_FEW_BYTES = 100 << 20  # free disk space that SQLite needs for a checkpoint


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        verdict: `note` marks a working setting that deserves attention.
        subject: The checked thing.
        what: The finding.
        advice: The remedy, or "".
    """

    verdict: Literal["ok", "note", "wrong"]
    subject: str
    what: str
    advice: str = ""


def check_configuration(settings: Settings) -> list[Check]:
    """Check the settings, and that the packages they need are installed."""
    checks = [Check("ok", "configuration", f"REALTIME_ENV is {settings.env}")]
    if settings.http_open:
        what = "streams over HTTP need no token"
        checks.append(Check("note", "configuration", what, "use it on this machine only"))
    if settings.url is None and settings.env == "production" and not settings.retention.run_ttl_s:
        advice = "set REALTIME_RUN_TTL_S, 2592000 for 30 days, or monitor the disk"
        checks.append(Check("note", "retention", "finished runs are never deleted", advice))
    if "*" in settings.origins:
        advice = "list the origins of your pages in REALTIME_ORIGINS"
        checks.append(Check("note", "configuration", "pages of any origin may connect", advice))
    if importlib.util.find_spec("uvicorn") is None and settings.url is None:
        advice = "pip install 'realtime-streams[server]' where a gateway is to be served"
        checks.append(
            Check("note", "configuration", "this environment cannot serve a gateway", advice)
        )
    return checks


def check_tokens(target: Target) -> list[Check]:
    """Mint and verify a token with the keys of this environment."""
    if target.token is not None:
        return [Check("ok", "tokens", "a token is given; the gateway checks it")]
    path = secret_path(target.settings)
    has_key = target.settings.secret_key or target.settings.signing_key_file
    is_first = path is not None and not path.exists() and target.settings.url is None
    if not has_key and target.settings.env != "production" and is_first:
        return [Check("ok", "tokens", f"a secret will be generated and stored at {path}")]
    try:
        keys = resolve_keys(target.settings)
        token = tokens.mint(["read:runs:run_doctor"], ttl_s=60, keys=keys)
        tokens.verify(token, keys=keys, now_s=time.time())
    except RealtimeError as error:
        return [Check("wrong", "tokens", error.message, "all processes need the same key")]
    checks = [Check("ok", "tokens", f"minted and verified; keys {', '.join(sorted(keys.ids))}")]
    if not has_key and path is not None and path.exists() and path.stat().st_mode & 0o077:
        mode = stat.filemode(path.stat().st_mode)
        checks.append(
            Check(
                "wrong",
                "tokens",
                f"other users may read the secret {path} ({mode})",
                f"chmod 600 {path}",
            )
        )
    return checks


async def check_store(settings: Settings) -> list[Check]:
    """Check the store; open it unless a gateway has it open."""
    if settings.store.startswith("memory:"):
        advice = "set REALTIME_STORE=sqlite:PATH to keep streams over restarts"
        verdict: Literal["note", "wrong"] = "wrong" if settings.env == "production" else "note"
        return [Check(verdict, "store", "memory: loses all data when its process ends", advice)]
    try:
        if is_redis(settings.store):
            return [await _try_open(settings, "the servers respond and do not evict keys")]
        path = sqlite_file(settings.store)
    except ConfigurationError as error:
        return [Check("wrong", "store", error.message, "see REALTIME_STORE in docs/settings.md")]
    folder = next(each for each in path.absolute().parents if each.exists())
    checks = [_disk(folder)]
    if not path.exists():
        if os.access(folder, os.W_OK):
            checks.append(Check("ok", "store", f"the first gateway will create {path}"))
        else:
            advice = "let the gateway's user write there, or choose another folder"
            checks.append(Check("wrong", "store", f"{folder} is not writable", advice))
        return checks
    what = f"{path} is writable: {format_bytes(_size(path))}, schema {SCHEMA_VERSION}"
    return [*checks, await _try_open(settings, what)]


async def _try_open(settings: Settings, what: str) -> Check:
    try:
        async with opened(open_store(settings.store, settings.retention)) as store:
            await store.list_runs(RunQuery(limit=1))
            if not store.is_ready:
                what = "the store is readable but not writable"
                return Check("wrong", "store", what, "free space on its disk: appends fail")
    except StoreLocked:
        advice = "set --url to check that gateway"
        return Check(
            "ok", "store", "a gateway or worker has the store open, as its only owner", advice
        )
    except RealtimeError as error:
        return Check("wrong", "store", error.message, "no gateway can start with this store")
    return Check("ok", "store", what)


def _size(path: Path) -> int:
    wal = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    what = f"{format_bytes(free)} free at {folder}"
    if free < TOO_FEW_BYTES:
        return Check("wrong", "disk", what, "free space: appends fail on a full disk")
    if free < SCARCE_BYTES:
        return Check("note", "disk", what, "REALTIME_RETENTION_… limit the size of streams")
    return Check("ok", "disk", what)
