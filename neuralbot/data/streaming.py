"""Training rows that are tokenized and shuffled while training, from a stream larger than memory.

Does not: know how often it is read (training stops by its number of steps), shuffle farther than its buffer reaches.
"""

from __future__ import annotations

import itertools
import random
from array import array
from collections.abc import Iterable, Iterator

from torch.utils.data import IterableDataset

from neuralbot.conversation import Conversation
from neuralbot.data.tokenized import Row, Tokenizing, TokenRows

# What the buffer holds at most; about 40 MB.
BUFFER_ROWS = 10_000
BUFFER_TOKENS = 4_000_000


class StreamedRows(IterableDataset[Row]):
    """The rows of a stream without end: pass after pass, each shuffled in another seeded order.

    Without end, so that no batch is cut short where one pass meets the next.
    """

    def __init__(self, conversations: Iterable[Conversation], tokenizing: Tokenizing, seed: int) -> None:
        self.tokenizing = tokenizing
        self._conversations, self._seed = conversations, seed

    def __iter__(self) -> Iterator[Row]:
        for number in itertools.count():
            rows = shuffled(self.tokenizing.rows(self._conversations), random.Random(f"{self._seed} {number}"))
            row = None
            for row in rows:
                yield row
            if row is None:
                self.tokenizing.done(TokenRows.of([]))


def shuffled(rows: Iterable[Row], rng: random.Random) -> Iterator[Row]:
    """The rows in an order that `rng` decides: each time one is drawn from a buffer that the next ones refill."""
    buffer: list[tuple[array[int], array[int]]] = []
    tokens = 0

    def draw() -> Row:
        nonlocal tokens
        place = rng.randrange(len(buffer))
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        ids, labels = buffer.pop()
        tokens -= len(ids)
        return {"input_ids": ids.tolist(), "labels": labels.tolist()}

    for row in rows:
        buffer.append((array("i", row["input_ids"]), array("i", row["labels"])))
        tokens += len(row["input_ids"])
        while len(buffer) > BUFFER_ROWS or tokens > BUFFER_TOKENS:
            yield draw()
    while buffer:
        yield draw()
