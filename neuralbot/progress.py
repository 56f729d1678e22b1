"""Progress of long work with the time left: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Task
    from rich.text import Text

LINE_EVERY_S = 5.0
LONG_S = 3.0  # what is done sooner is not worth a bar
STRETCH_S = 30.0


class Report(Protocol):
    """Tells how far the work is: units done, of how many, and an optional note such as "loss 0.41"."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


Show = Callable[[str], AbstractContextManager[Report]]  # a title -> where its progress is reported


@contextmanager
def unseen(title: str) -> Iterator[Report]:
    """Progress for nobody."""
    yield lambda done, total, note="": None


@contextmanager
def progress(console: Console, title: str, *, after_s: float = 0.0) -> Iterator[Report]:
    """Show `title` until the block ends; the block calls the report it is given with the units done and their total.

    Nothing is shown of what is done in less than `after_s` seconds.
    """
    with (_bar if console.is_terminal else _lines)(console, title, after_s) as report:
        yield report


class Pace:
    """The time left, by how long the later half of what is done took.

    So the first units, which are slow while memory is claimed and kernels are made, soon stop counting, and a pause (an
    evaluation every so many steps) counts as a part of what is to come.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[int, float]] = deque()
        self._last = 0, 0.0

    def add(self, done: int, at: float) -> None:
        """At second `at`, `done` units were done."""
        self._last = done, at
        if not self._points or done - self._points[-1][0] > done // 1000:  # so there are never many
            self._points.append((done, at))
        while len(self._points) > 2 and self._points[1][0] <= done / 2:
            self._points.popleft()

    def left(self, total: int) -> float | None:
        """Seconds from the last time on, until `total` units are done; None until two numbers of units were told."""
        if len(self._points) < 2:
            return None
        (first, start), (done, at) = self._points[0], self._last
        return (at - start) / (done - first) * (total - done)


class Speed:
    """Units a second over the last STRETCH_S seconds of work."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()
        self._units, self._seconds = 0, 0.0

    def add(self, units: int, seconds: float) -> float:
        """The speed, with one more part of the work."""
        self._parts.append((units, seconds))
        self._units, self._seconds = self._units + units, self._seconds + seconds
        while self._seconds - self._parts[0][1] > STRETCH_S:
            units, seconds = self._parts.popleft()
            self._units, self._seconds = self._units - units, self._seconds - seconds
        return self._units / max(self._seconds, 1e-9)


def describe(values: Mapping[str, float | None]) -> str:
    """What there is of loss, eval_loss, tokens_per_s and memory_gb, for people: "loss 0.412, 1,234 tokens/s"."""
    known = ((form, values.get(name)) for name, form in _FORMS.items())
    return ", ".join(form.format(value) for form, value in known if value is not None)


_FORMS = {
    "loss": "loss {:.3f}",
    "eval_loss": "held-out loss {:.3f}",
    "tokens_per_s": "{:,.0f} tokens/s",
    "memory_gb": "{:.1f} GiB",
}


def span(seconds: float) -> str:
    """A time for people: "42 s", "12:05 min", "3:20 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


@contextmanager
def _bar(console: Console, title: str, after_s: float) -> Iterator[Report]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """Counts down between reports."""

        def render(self, task: Task) -> Text:
            end = task.fields["end"]
            left = f"{span(max(0.0, end - time.monotonic()))} left" if end else span(task.elapsed or 0)
            return Text(left, style="progress.remaining")

    class Bar(Progress):
        """The note stands below the bar: beside it there is no room on a terminal of 80 columns."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield from (Text(task.fields["note"], no_wrap=True, overflow="ellipsis") for task in self.tasks)

    def whole() -> Column:
        return Column(no_wrap=True)

    live = Bar(
        TextColumn("{task.description}", markup=False, table_column=whole()),
        BarColumn(20),
        MofNCompleteColumn(table_column=whole()),
        TimeLeft(table_column=whole()),
        console=console,
    )
    start, pace = time.monotonic(), Pace()
    task = live.add_task(title, total=None, note="", end=None)

    def report(done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        pace.add(done, now)
        left = pace.left(total)
        end = now + left if left is not None and done < total else None
        live.update(task, completed=done, total=total, note=note, end=end)
        if now - start >= after_s:
            live.start()

    try:
        if not after_s:
            live.start()
        yield report
    finally:
        live.stop()


@contextmanager
def _lines(console: Console, title: str, after_s: float) -> Iterator[Report]:
    start = last = time.monotonic()
    pace, waiting = Pace(), ""

    def say(line: str) -> None:
        if line and time.monotonic() - start >= after_s:
            console.print(line, highlight=False, markup=False)

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last, waiting
        now = time.monotonic()
        pace.add(done, now)
        left = pace.left(total)
        facts = f"{done}/{total}", f"{span(left)} left" if left is not None else "", note
        waiting = f"{title}: {', '.join(filter(None, facts))}"
        if done and now - last >= max(LINE_EVERY_S, after_s):
            say(waiting)
            last, waiting = now, ""

    yield report
    say(waiting)
