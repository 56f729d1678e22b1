"""The server's log: one JSON object a line on standard error. Prompts, answers, keys and query strings are in none."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from neuralbot.errors import UsageError

access = logging.getLogger("neuralbot.server.access")


class JsonLines(logging.Formatter):
    """Control characters come out escaped: a client cannot write lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(path: str | None = None) -> None:
    """For the whole process; uvicorn's own lines too. path: of a file, instead of standard error. Raises UsageError."""
    try:
        handler = logging.StreamHandler(sys.stderr) if path is None else logging.FileHandler(path)
    except OSError as error:
        raise UsageError(f"--log-file {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(JsonLines())
    for name, level in (("neuralbot", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
