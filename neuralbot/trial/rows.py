"""Eight rows for a trial: the longest that training sees, the shortest, and some between; always the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neuralbot.conversation import Conversation, Encoded
from neuralbot.data.splits import Splits, Stream
from neuralbot.data.tokenized import IGNORED, Row, Tokenizing, TokenRows
from neuralbot.data.training_data import TrainingData

ROWS = 8
_LOOKED_AT = 1000  # rows that are tried to replace some that ask the same


@dataclass(frozen=True)
class TrialRow:
    """A training row, and the conversation that it was made of."""

    conversation: Conversation
    row: Row

    @property
    def encoded(self) -> Encoded:
        """The row as evaluation takes it: ids and target mask."""
        return Encoded(self.row["input_ids"], [label != IGNORED for label in self.row["labels"]])

    @property
    def prompt(self) -> list[int]:
        """The ids before the last answer; of plain text, which has no question, the first half."""
        ids, labels = self.row["input_ids"], self.row["labels"]
        end = max(place for place, label in enumerate(labels) if label != IGNORED)
        start = end
        while start and labels[start - 1] != IGNORED:
            start -= 1
        return ids[:start] if start > 1 else ids[: max(len(ids) // 2, 1)]

    @property
    def answer(self) -> list[int]:
        """The ids after `prompt`, up to the end of the answer."""
        ids, labels = self.row["input_ids"], self.row["labels"]
        end = max(place for place, label in enumerate(labels) if label != IGNORED)
        return ids[len(self.prompt) : end + 1]


def choose(splits: Splits, data: TrainingData, tokenizing: Tokenizing) -> list[TrialRow]:
    """At most ROWS rows, no two of which ask the same: different answers to one question cannot be learnt by heart."""
    rows, conversations = data.train.rows, _conversations(splits)
    found: dict[tuple[int, ...], TrialRow] = {}
    for place in _places(rows.lengths()):
        conversation = _made_of(rows[place], conversations[place : place + data.train.dropped + 1], tokenizing)
        if conversation is not None:
            one = TrialRow(conversation, rows[place])
            found.setdefault(tuple(one.prompt), one)
        if len(found) == ROWS:
            break
    return list(found.values())


def longest(rows: TokenRows, count: int) -> list[Row]:
    """The longest rows: a step that takes as much memory as one can."""
    lengths = rows.lengths()
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: -lengths[place])[:count]]


def drawn(rows: TokenRows, count: int, start: int) -> list[Row]:
    """Rows at even distances from each other: a step as most are. start: other rows for each number."""
    step = max(len(rows) // count, 1)
    return [rows[(start + place * step) % len(rows)] for place in range(min(count, len(rows)))]


def _conversations(splits: Splits) -> Sequence[Conversation]:
    return splits.sample() if isinstance(splits.train, Stream) else splits.train


def _places(lengths: Sequence[int]) -> Iterator[int]:
    """The longest row, the shortest, those at even distances between by length, then others, short ones first."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    last = len(order) - 1
    spread = [last, *(last * part // (ROWS - 1) for part in range(ROWS - 1))]
    yield from dict.fromkeys(order[place] for place in spread)
    yield from itertools.islice(order, _LOOKED_AT)


def _made_of(row: Row, candidates: Sequence[Conversation], tokenizing: Tokenizing) -> Conversation | None:
    """The conversation that became this row: the first candidate, unless rows before it were dropped."""
    if len(candidates) == 1:
        return candidates[0]
    return next((one for one in candidates if row in tokenizing.rows([one])), None)
