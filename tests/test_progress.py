"""Progress: the time left, the speed, what stands on a terminal and what in a log."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from neuralbot import progress as module
from neuralbot.progress import Pace, Speed, describe, progress, span


def test_the_time_left_forgets_the_slow_first_units() -> None:
    """The first of 100 units takes 60 s, the others 2 s each."""
    pace = Pace()
    times = [60.0 + 2 * n for n in range(100)]
    pace.add(1, times[0])
    assert pace.left(100) is None
    for done in range(2, 101):
        pace.add(done, times[done - 1])
        assert pace.left(100) == pytest.approx(2 * (100 - done))


def test_the_time_left_counts_regular_pauses_in() -> None:
    """Each tenth of 200 units is followed by a pause as long as ten units: half of the time to come."""
    pace, at = Pace(), 0.0
    for done in range(1, 201):
        at += 1.0
        pace.add(done, at)
        if done >= 40:
            assert pace.left(200) == pytest.approx(2.0 * (200 - done), rel=0.35, abs=5)
        if done % 10 == 0:
            at += 10.0
            pace.add(done, at)


def test_the_time_left_follows_a_change_of_speed_and_keeps_few_points() -> None:
    pace, at = Pace(), 0.0
    for done in range(1, 60_001):
        at += 1.0 if done < 20_000 else 3.0
        pace.add(done, at)
    assert pace.left(70_000) == pytest.approx(30_000, rel=0.01)
    assert len(pace._points) <= 2000


def test_the_speed_is_that_of_the_last_half_minute() -> None:
    speed = Speed()
    assert speed.add(100, 10.0) == 10
    assert speed.add(100, 20.0) == pytest.approx(200 / 30)
    assert speed.add(900, 29.0) == pytest.approx(1000 / 49)  # the part before it reaches into the half minute
    assert speed.add(0, 2.0) == pytest.approx(900 / 31)
    assert speed.add(50, 100.0) == 0.5


def test_what_there_is_is_described() -> None:
    values = {"loss": 0.41234, "eval_loss": 0.5, "tokens_per_s": 1234.4, "memory_gb": 1.94, "grad_norm": 3.0}
    assert describe(values) == "loss 0.412, held-out loss 0.500, 1,234 tokens/s, 1.9 GiB"
    assert describe({"loss": None, "memory_gb": 2.0}) == "2.0 GiB"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (725, "12:05 min"), (12_000, "3:20 h")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


def shown(after_s: float = 0.0, *, terminal: bool = False, width: int = 80, steps: int = 4, **clock: Any) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width)
    with progress(console, "training [x]", after_s=after_s) as report:
        for step in range(1, steps + 1):
            report(step, 4, f"loss {1 / step:.2f} [y]")
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_lines_end_with_the_last_state() -> None:
    assert shown() == "training [x]: 4/4, 0 s left, loss 0.25 [y]\n"
    assert shown(steps=3).startswith("training [x]: 3/4, 0 s left, loss 0.33")  # ended early
    assert shown(steps=0) == ""


def test_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 2))
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: float(next(now)))}))
    lines = shown(steps=4).splitlines()
    assert 1 < len(lines) < 4 and lines[-1].startswith("training [x]: 4/4")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_done_soon_is_not_shown(terminal: bool) -> None:
    assert "training" not in shown(60.0, terminal=terminal)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_bar_has_all_facts_on_narrow_terminals(width: int) -> None:
    out = shown(terminal=True, width=width)
    assert "4/4" in out and "loss 0.25 [y]" in out and "training [x]" in out


def test_an_interrupted_bar_gives_the_cursor_back() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with pytest.raises(KeyboardInterrupt), progress(console, "training") as report:
        report(1, 4)
        time.sleep(0.01)
        raise KeyboardInterrupt
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")
