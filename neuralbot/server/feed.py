"""The ids of an answer, from the engine's threads to the event loop, without a thread that waits for each token.

OpenVINO's answers tell when they have something; the iterators of other engines are read by a thread of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Protocol


class Answer(Protocol):
    """An answer that can be read without waiting; see OpenVINO's."""

    def listen(self, ready: Callable[[], None]) -> None: ...

    def take(self) -> tuple[list[int], bool]: ...

    def close(self) -> Any: ...


def listened(ids: Iterator[int], threads: Executor) -> Answer:
    """The answer itself where it can be listened to; else with a thread that reads it."""
    return ids if hasattr(ids, "listen") else _Read(ids, threads)  # type: ignore[return-value]


class Feed:
    """One answer on the event loop that made this."""

    def __init__(self, answer: Answer, arrived: asyncio.Event) -> None:
        self._answer = answer
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        answer.listen(self._ready)

    @property
    def logprobs(self) -> list[float]:
        """Those of the ids that were taken so far, where they were asked for."""
        return getattr(self._answer, "logprobs", [])

    @property
    def tops(self) -> list[tuple[tuple[int, float], ...]]:
        """The likeliest tokens at each place, where they were asked for."""
        return getattr(self._answer, "tops", [])

    def take(self) -> tuple[list[int], bool]:
        """The ids that are there, and whether these are the last. Raises NeuralbotError where the engine failed."""
        return self._answer.take()

    def close(self) -> None:
        """Ends the work within a step."""
        self._answer.close()

    def _ready(self) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived.set)


class _Read:
    """An iterator of ids, read by a thread."""

    def __init__(self, ids: Iterator[int], threads: Executor) -> None:
        self.source = ids
        self._threads = threads
        self._ready: Callable[[], None] = lambda: None
        self._items: deque[int | Exception | None] = deque()
        self._left = threading.Event()

    @property
    def logprobs(self) -> list[float]:
        return getattr(self.source, "logprobs", [])

    @property
    def tops(self) -> list[tuple[tuple[int, float], ...]]:
        return getattr(self.source, "tops", [])

    def listen(self, ready: Callable[[], None]) -> None:
        self._ready = ready
        self._threads.submit(self._read)

    def take(self) -> tuple[list[int], bool]:
        ids: list[int] = []
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Exception):
                raise item
            if item is None:
                return ids, True
            ids.append(item)
        return ids, False

    def close(self) -> None:
        self._left.set()

    def _read(self) -> None:
        last: Exception | None = None
        try:
            for token in self.source:
                self._items.append(token)
                self._ready()
                if self._left.is_set():
                    break
        except Exception as error:
            last = error
        finally:
            if close := getattr(self.source, "close", None):
                close()
            self._items.append(last)
            self._ready()
