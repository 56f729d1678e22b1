"""What the checks of OpenAI-style files are made of: kinds of problems, and those that both forms share.

A kind looks at rows and gives for each of them None, or what is wrong with it together with the repaired row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuralbot.data.strict_json import Row

_FEW = 100


@dataclass(frozen=True)
class Found:
    """What is wrong with a row, and the row as it goes on; None: it is left out."""

    text: str
    row: Row | None = None


Find = Callable[[Sequence[Row]], Iterable[Found | None]]  # for each of the rows, in their order
Note = Callable[[Sequence[Row]], str | None]  # something that may be meant so


@dataclass(frozen=True)
class Kind:
    """A kind of problem. repair: what it does to a row; None: only a person can."""

    name: str
    repair: str | None
    find: Find


def each(find: Callable[[Row], Found | None]) -> Find:
    """Rows looked at one by one."""
    return lambda rows: map(find, rows)


def changed(row: Row, values: Mapping[str, Any]) -> Row:
    """A row of these values that stands where `row` does."""
    made = Row(values)
    made.line = row.line
    return made


def twice(rows: Sequence[Row]) -> Iterator[Found | None]:
    """Rows that are there already."""
    first: dict[bytes, int] = {}
    for row in rows:
        digest = hashlib.blake2b(json.dumps(row, sort_keys=True).encode(), digest_size=16).digest()
        line = first.setdefault(digest, row.line)
        yield None if line == row.line else Found(f"the same as line {line}")


def name_of(value: object) -> str:
    """What a JSON value is, in words."""
    kinds = {type(None): "null", list: "a list", dict: "an object", bool: "true or false", str: "a text"}
    return ("an empty list" if value == [] else None) or kinds.get(type(value), "a number")


def few(rows: Sequence[Row]) -> str | None:
    """A note on files with few rows."""
    return f"few rows ({len(rows)}): some hundreds and more teach better" if len(rows) < _FEW else None
