"""Progress of long work with the time left: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 5.0


class Report(Protocol):
    """Tells how far the work is: units done, of how many, and an optional note such as "loss 0.41"."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress(console: Console, title: str) -> Iterator[Report]:
    """Show `title` until the block ends; the block calls the report it is given with the units done and their total."""
    with _bar(console, title) if console.is_terminal else _lines(console, title) as report:
        yield report


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Report]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as live:
        task = live.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            live.update(task, completed=done, total=total, note=note)

        yield report


@contextmanager
def _lines(console: Console, title: str) -> Iterator[Report]:
    start = last = time.monotonic()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done < 1 or (now - last < LINE_EVERY_S and done < total):
            return
        last = now
        left = (now - start) / done * (total - done)
        console.print(f"{title}: {done}/{total}, {left:.0f} s left{', ' + note if note else ''}", highlight=False)

    yield report
