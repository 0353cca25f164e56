"""What `realtime serve` logs: lines for people, or JSON for whatever collects them.

The standard library does it, with two formatters: uvicorn, every other library and the code of
users' tasks log through it already, and a second way would leave theirs out.
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

_ACCESS = ("client", "method", "path", "http_version", "status")  # as uvicorn's access log has them
_SECRETS = re.compile(r"eyJ[\w-]{5,}\.[\w-]+\.[\w-]*|(?i:(?<=bearer ))[^\s\"'\\]+")


def without_secrets(text: str) -> str:
    """Take out what looks like a token or a bearer's secret, wherever it came from."""
    return _SECRETS.sub("[secret]", text)


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON.

    Always `time`, `level`, `logger`, `message`; of `FIELDS` those that are known; `error` with the
    traceback; of an access `client`, `method`, `path`, `http_version`, `status`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
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
        except TypeError:  # a lone surrogate, in a message or in an exception's text
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
    """Writes a record as uvicorn does, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        return without_secrets(super().format(record))


class TextAccessFormatter(AccessFormatter):
    """Writes an access as uvicorn does, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        return without_secrets(super().format(record))


def log_config(format: LogFormat, level: str) -> dict[str, Any]:
    """Make the configuration for `logging.config.dictConfig`.

    Args:
        format: How a record is written.
        level: Of the gateway's own and the server's loggers; others: `warning`, or above.
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
