"""Checks one after another: each prints its line as soon as it is done; what failed is told together at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from neuralbot.errors import NeuralbotError, TrialFailed

if TYPE_CHECKING:
    from rich.console import Console


class Checks:
    """Runs checks. The time of each counts from the end of the one before."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failed: list[str] = []
        self._done = 0
        self._last = time.monotonic()

    def run(self, name: str, check: Callable[[], str]) -> bool:
        """Whether it holds: `check` returns what it saw, or raises NeuralbotError with what failed and what to do."""
        try:
            text, holds = check(), True
        except NeuralbotError as error:
            text, holds = str(error), False
            self._failed.append(name)
        self._done += 1
        now = time.monotonic()
        verdict = "ok" if holds else "FAILED"
        self._console.out(f"{verdict:<6} {now - self._last:5.1f} s  {name:<8} {text}", highlight=False)
        self._last = now
        return holds

    def finish(self) -> None:
        """Raises TrialFailed if any check failed."""
        if self._failed:
            names = ", ".join(self._failed)
            raise TrialFailed(
                f"{len(self._failed)} of {self._done} checks failed ({names}): mend what their lines say "
                "before the whole run"
            )
        self._console.out(f"all {self._done} checks hold", highlight=False)
