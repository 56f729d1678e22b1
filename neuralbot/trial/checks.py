"""Checks one after another: each prints its line as soon as it is done; what failed is told together at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from neuralbot.errors import NeuralbotError, TrialFailed

if TYPE_CHECKING:
    from rich.console import Console


T = TypeVar("T")


class Checks:
    """Runs checks. The time of each counts from the end of the one before."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failed: list[str] = []
        self._done = 0
        self._last = time.monotonic()

    def run(self, name: str, check: Callable[[], T], says: Callable[[T], str] = str) -> T | None:
        """What `check` returns; None if it failed: it, or `says`, raised NeuralbotError with what to do.

        says: what is told of the value.
        """
        value: T | None = None
        try:
            value = check()
            verdict, text = "ok", says(value)
        except NeuralbotError as error:
            verdict, text = "FAILED", str(error)
            self._failed.append(name)
        self._done += 1
        now = time.monotonic()
        self._console.out(f"{verdict:<6} {now - self._last:5.1f} s  {name:<8} {text}", highlight=False)
        self._last = now
        return value if verdict == "ok" else None

    def finish(self) -> None:
        """Raises TrialFailed if any check failed."""
        if self._failed:
            names = ", ".join(self._failed)
            raise TrialFailed(
                f"{len(self._failed)} of {self._done} checks failed ({names}): mend what their lines say "
                "before the whole run"
            )
        self._console.out(f"all {self._done} checks hold", highlight=False)
