"""Arrivals of a recorded trace, scaled to a machine: when requests came, and how long they and their answers were."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from neuralbot.errors import UsageError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True)
class Arrival:
    """at: seconds after the first one."""

    at: float
    prompt_tokens: int
    new_tokens: int


def read(path: Path, count: int, rate: float, context: int) -> list[Arrival]:
    """The first `count` arrivals, `rate` a second on the mean; lengths cut to a context of so many tokens.

    An answer takes half of the context at most, its prompt what is left. Raises UsageError.
    """
    rows = _rows(path, count)
    seconds = [(moment - rows[0][0]).total_seconds() for moment, _, _ in rows]
    scale = (len(rows) - 1) / rate / seconds[-1] if seconds[-1] > 0 else 0.0
    found = []
    for at, (_, prompt, new) in zip(seconds, rows, strict=True):
        new = max(2, min(new, context // 2))
        found.append(Arrival(at * scale, max(1, min(prompt, context - new)), new))
    return found


def _rows(path: Path, count: int) -> list[tuple[datetime, int, int]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (datetime.fromisoformat(row[COLUMNS[0]][:26]), int(row[COLUMNS[1]]), int(row[COLUMNS[2]]))
                for row in islice(csv.DictReader(file), count)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"--trace {path}: {error!r}; expected a CSV file with {', '.join(COLUMNS)}") from error
    if len(rows) < count:
        raise UsageError(f"--trace {path} has {len(rows)} requests: expected --requests {count} at least")
    return rows
