"""Structured logs: one JSON object a line on stderr. No payloads, no keys, no user IDs are written."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that the running task answers; the gate sets it."""

TENANT: ContextVar[str | None] = ContextVar("tenant", default=None)
"""Whose work the running task or thread does, in a process of several tenants."""


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; request and tenant where there is one; whatever was given as `extra`; the traceback
    of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        parts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        parts |= {var.name: var.get() for var in (REQUEST_ID, TENANT) if var.get() is not None}
        parts |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            parts["exception"] = self.formatException(record.exc_info)
        return json.dumps(parts, ensure_ascii=False, default=str)


def set_up(level: str) -> None:
    """Send the logs of this process to stderr as JSON lines, from `level` upwards."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("kafka").setLevel(logging.WARNING)  # each connection it makes is told at info
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
