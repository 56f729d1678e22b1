"""Rows that repeat another row to the letter, inside a split and across splits: figures, and where the first stand.

Does not: look for rows that are nearly alike, take any out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from neuralbot.conversation import Conversation
from neuralbot.data.splits import question

_SHOWN = 3
_PAIRS = (("train", "train"), ("validation", "validation"), ("test", "test"),
          ("validation", "train"), ("test", "train"), ("test", "validation"))  # fmt: skip


@dataclass(frozen=True)
class Repeat:
    """A row that repeats another. whole: the answers are the same too, not only the question."""

    where: str
    first: str
    whole: bool


@dataclass(frozen=True)
class Repeats:
    """Rows of `split` that repeat an earlier row of it, or any row of another split, `of`.

    questions: rows whose question is there already. rows: those whose answers are there too. first: the first few.
    """

    split: str
    of: str
    questions: int
    rows: int
    first: tuple[Repeat, ...]


@dataclass(frozen=True)
class _Known:
    """Of each row of a split what it asks and what it is, as digests; and the index of the first row with each."""

    asked: list[bytes]
    whole: list[bytes]
    first_asked: dict[bytes, int]
    first_whole: dict[bytes, int]


def find(
    train: Sequence[Conversation], validation: Sequence[Conversation] = (), test: Sequence[Conversation] = ()
) -> tuple[Repeats, ...]:
    """The repetitions inside each split and of one split in another, where there are any."""
    rows = {"train": train, "validation": validation, "test": test}
    known = {name: _known(found) for name, found in rows.items()}
    found = (_repeats(split, of, rows, known) for split, of in _PAIRS)
    return tuple(repeats for repeats in found if repeats.questions)


def _known(rows: Sequence[Conversation]) -> _Known:
    asked = [_digest(question(row)) for row in rows]
    whole = [_digest(json.dumps([row.tools, [[turn.role, turn.shown] for turn in row.turns]]).encode()) for row in rows]
    return _Known(asked, whole, _first(asked), _first(whole))


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _first(keys: Sequence[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, index)
    return found


def _repeats(split: str, of: str, rows: dict[str, Sequence[Conversation]], known: dict[str, _Known]) -> Repeats:
    mine, other = known[split], known[of]
    questions = whole = 0
    first: list[Repeat] = []
    for index, (asked, row) in enumerate(zip(mine.asked, mine.whole, strict=True)):
        before = index if split == of else len(other.asked)  # inside a split only earlier rows count
        at = other.first_asked.get(asked, before)
        if at >= before:
            continue
        same = other.first_whole.get(row, before)
        questions += 1
        whole += same < before
        if len(first) < _SHOWN:
            place = rows[of][same if same < before else at].where
            first.append(Repeat(rows[split][index].where, place, whole=same < before))
    return Repeats(split, of, questions, whole, tuple(first))
