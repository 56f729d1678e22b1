"""Who may work now: a bounded number of places, fewer slots among them, shared fairly between keys.

A request takes a place at once or is refused. It has its turn when slots are free: of those that wait, the one whose
key has the fewest slots at work comes first, then the one that has waited longest.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter

from neuralbot.server import failures

_FIRST_GUESS_S = 5.0
_WEIGHT = 0.1  # of the newest request in the mean time of one
_LONGEST_RETRY_S = 60


class Place:
    """A request among the others; `leave` has to be called in the end."""

    def __init__(self, admission: Admission, key: str, number: int) -> None:
        self.key = key
        self.number = number
        self.size = 0
        self.called: asyncio.Future[None] | None = None
        self._admission = admission
        self._since = time.monotonic()

    @property
    def waits(self) -> bool:
        return self.called is not None and not self.called.done()

    async def turn(self, size: int = 1) -> None:
        """Waits until `size` slots (all of them at most) are this request's."""
        self.size = min(size, self._admission.slots)
        self.called = asyncio.get_running_loop().create_future()
        self._admission.advance()
        await self.called

    @property
    def position(self) -> int:
        """How many are to have their turn before this one."""
        return sum(self._admission.rank(other) < self._admission.rank(self) for other in self._admission.waiting())

    def leave(self) -> None:
        self._admission.remove(self, time.monotonic() - self._since)


class Admission:
    """slots: at work at the same time. queue: waiting besides. per_key: places of one key at most; None: all."""

    def __init__(self, slots: int, queue: int, per_key: int | None = None) -> None:
        self.slots = slots
        self._most = slots + queue
        self._per_key = per_key or self._most
        self._places: set[Place] = set()
        self._numbers = itertools.count()
        self._mean_s = _FIRST_GUESS_S

    def enter(self, key: str = "") -> Place:
        """A place at once. Raises Failure: 429 where the key has too many, 503 where all are taken."""
        if len(self._places) >= self._most:
            raise failures.full(self._retry_after())
        if sum(place.key == key for place in self._places) >= self._per_key:
            raise failures.too_many(self._per_key, self._retry_after())
        place = Place(self, key, next(self._numbers))
        self._places.add(place)
        return place

    @property
    def busy(self) -> int:
        """Slots at work."""
        return sum(place.size for place in self._places if place.called is not None and not place.waits)

    def waiting(self) -> list[Place]:
        return [place for place in self._places if place.waits]

    def rank(self, place: Place) -> tuple[int, int]:
        return self._shares()[place.key], place.number

    def advance(self) -> None:
        """Calls those whose turn it is. One that needs several slots is waited for: smaller ones do not pass it."""
        while waiting := self.waiting():
            shares = self._shares()
            first = min(waiting, key=lambda place: (shares[place.key], place.number))
            if self.busy + first.size > self.slots:
                return
            assert first.called is not None
            first.called.set_result(None)

    def remove(self, place: Place, seconds: float) -> None:
        if place not in self._places:
            return
        self._places.remove(place)
        if place.called is not None:
            if place.waits:
                place.called.cancel()
            else:
                self._mean_s += _WEIGHT * (seconds - self._mean_s)
        self.advance()

    def __len__(self) -> int:
        return len(self._places)

    def _shares(self) -> Counter[str]:
        """Slots at work for each key."""
        shares: Counter[str] = Counter()
        for place in self._places:
            if place.called is not None and not place.waits:
                shares[place.key] += place.size
        return shares

    def _retry_after(self) -> int:
        """Whole seconds until a place is free, most likely."""
        rounds = (len(self.waiting()) + 1) / self.slots
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self._mean_s * rounds)))
