"""The log of `realtime serve`: text for people, or JSON for log collectors.

It configures the standard library's logging with two formatters. uvicorn, other libraries and the
code of tasks already log through it, so their messages are included.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson
from uvicorn.logging import AccessFormatter, DefaultFormatter

from gateway.sdk.context import current_run
from gateway.settings import LogFormat

FIELDS = ("connection", "run", "stream", "task", "worker")
"""What a log call may name by `extra`; `run` and `task` are known inside a task by themselves."""

# in the order of uvicorn's access log
_ACCESS = ("client", "method", "path", "http_version", "status")
_SECRETS = re.compile(r"eyJ[\w-]{5,}\.[\w-]+\.[\w-]*|(?i:(?<=bearer ))[^\s\"'\\]+")


def without_secrets(text: str) -> str:
    """Replace text that looks like a token or a bearer's secret, wherever it came from."""
    return _SECRETS.sub("[secret]", text)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    Always `time`, `level`, `logger`, `message`; those of `FIELDS` that are known; `error` with the
    traceback; for an access `client`, `method`, `path`, `http_version`, `status`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields_of(record)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=str).decode()
        except TypeError:  # orjson rejects a lone surrogate in a message or an exception
            text = json.dumps(line, default=str)
        return without_secrets(text)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    run = current_run()
    fields: dict[str, Any] = {"run": run.id, "task": run.task} if run is not None else {}
    fields |= {name: value for name in FIELDS if (value := getattr(record, name, None))}
    args = record.args
    if record.name == "uvicorn.access" and isinstance(args, tuple) and len(args) == len(_ACCESS):
        fields |= zip(_ACCESS, args, strict=True)
    return fields


class TextFormatter(DefaultFormatter):
    """Formats a record as uvicorn does, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. See `logging.Formatter`."""
        return without_secrets(super().format(record))


class TextAccessFormatter(AccessFormatter):
    """Formats an access as uvicorn does, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. See `logging.Formatter`."""
        return without_secrets(super().format(record))


def log_config(format: LogFormat, level: str) -> dict[str, Any]:
    """Make a configuration for `logging.config.dictConfig`.

    Args:
        format: Text or JSON.
        level: Level of the gateway's and the server's loggers; others log warnings and above.
    """
    level = level.upper()
    text = {"()": TextFormatter, "fmt": "%(levelprefix)s %(message)s"}
    access = {
        "()": TextAccessFormatter,
        "fmt": '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
    }
    json = {"()": JsonFormatter}
    is_json = format == "json"
    streams = {"errors": "ext://sys.stderr", "accesses": "ext://sys.stdout"}
    own = {"handlers": ["errors"], "level": level, "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "errors": json if is_json else text,
            "accesses": json if is_json else access,
        },
        "handlers": {
            name: {"class": "logging.StreamHandler", "formatter": name, "stream": stream}
            for name, stream in streams.items()
        },
        "root": {"handlers": ["errors"], "level": "ERROR" if level == "ERROR" else "WARNING"},
        "loggers": {
            "realtime": own,
            "uvicorn": own,
            "uvicorn.error": {"level": level},
            "uvicorn.access": {**own, "handlers": ["accesses"]},
        },
    }
