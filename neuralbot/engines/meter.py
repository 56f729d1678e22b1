"""What one answer cost: lengths in tokens, times in seconds as measured. Whoever makes the answer writes it down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Counts only the time in which somebody works on the answer: a slow reader of a stream is not the model's doing.

    prompt_tokens, completion_tokens: None where a remote server does not tell them.
    """

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self._before = 0.0
        self._since: float | None = None

    @property
    def duration_s(self) -> float:
        """The time worked so far."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._before, self._since = self.duration_s, None

    def mark(self) -> None:
        """A token has come."""
        self.last_token_s = self.duration_s
        if self.first_token_s is None:
            self.first_token_s = self.last_token_s

    def at_once(self, ids: list[int]) -> Iterator[int]:
        """Ids that all came at the end, as those of a beam search do."""
        self.mark()
        self.completion_tokens = len(ids)
        return iter(ids)

    def counted(self, ids: Iterator[int]) -> Iterator[int]:
        """The same ids, each of them marked and counted. Closing it closes them."""
        return _Counted(ids, self)


class _Counted:
    """No generator: one that is dropped unclosed would keep the ids' key/value cache until the next collection."""

    def __init__(self, ids: Iterator[int], meter: Meter) -> None:
        self._ids = ids
        self._meter = meter
        meter.completion_tokens = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        token = next(self._ids)
        self._meter.mark()
        self._meter.completion_tokens = (self._meter.completion_tokens or 0) + 1
        return token

    def close(self) -> None:
        if close := getattr(self._ids, "close", None):
            close()
