"""Rows of several sources in one order, in the shares that their weights ask for.

Does not: shuffle (the trainer does, or `streaming`), read files (`origins`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from neuralbot.errors import DataError

T = TypeVar("T")


class Mix(Generic[T]):
    """Rows of several sources, at any point in the shares that the weights ask for, as nearly as whole rows allow.

    A source that has come to its end begins again; the mix ends where the one that lasts longest has come to its end.
    So no row is left out, and where sizes stand in the proportion of the weights none is repeated. Nothing is random.
    taken: how many rows came from each source, in all iterations so far.
    """

    def __init__(self, sources: Sequence[Iterable[T]], weights: Sequence[float]) -> None:
        self.taken = [0] * len(sources)
        self._sources = sources
        self._shares = [weight / sum(weights) for weight in weights]

    def __iter__(self) -> Iterator[T]:
        turns = [_Turns(source, share) for source, share in zip(self._sources, self._shares, strict=True)]
        for count in itertools.count():
            if all(turn.lasts is not None and count >= turn.lasts for turn in turns):
                return
            # the one furthest behind its share; of equals the first
            place = min(range(len(turns)), key=lambda place: (turns[place].taken + 1) / turns[place].share)
            self.taken[place] += 1
            yield turns[place].take()


class _Turns(Generic[T]):
    """A source that begins again at its end. Reads one row ahead, to know the end before it is asked again.

    lasts: how many rows of the mix it takes until all of the source are among them; None until that is known.
    """

    def __init__(self, source: Iterable[T], share: float) -> None:
        self.share = share
        self.taken = 0
        self.lasts: int | None = None
        self._source = source
        self._rows: Iterator[T] = iter(())
        self._ahead: Any = _END

    def take(self) -> T:
        if self._ahead is _END:
            self._rows = iter(self._source)
            self._ahead = next(self._rows, _END)
        row: T = self._ahead
        if row is _END:
            raise DataError("a source has no rows to train on: all of them were held back for validation, or skipped")
        self.taken += 1
        self._ahead = next(self._rows, _END)
        if self._ahead is _END and self.lasts is None:
            self.lasts = round(self.taken / self.share)
        return row


_END = object()
