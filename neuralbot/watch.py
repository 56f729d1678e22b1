"""`neuralbot watch RUN`: follows a run from another terminal. It reads the run folder and writes nothing there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuralbot import errors
from neuralbot.command import text_console
from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.progress import LINE_EVERY_S, describe, span
from neuralbot.textstream import NO_CONTROLS
from neuralbot.training.following import FAILED, GONE, STOPPED, Following, State
from neuralbot.training.run_folder import TRAINING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LOOK_EVERY_S = 1.0
_INTERRUPTED = 130
_BLOCKS = " ▁▂▃▄▅▆▇█"
_CHART = (60, 5)  # columns and lines


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit status: that of the run. Raises NeuralbotError."""
    options = _parser().parse_args(argv)
    console = text_console()
    following = Following(options.run)
    if options.once:
        state = following.look()
        if state is None:
            raise UsageError(f"{options.run}: no run has begun there")
        console.print(_line(options.run, state))
        return _status(state)
    try:
        state = _follow(_looks(following), options.run, console)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _status(state)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot watch",
        description="Follow a run from another terminal: stage, losses, tokens/s (of the last half minute of steps), "
        "memory, time left. Reads the run folder only; values come as often as training.logging_steps says.",
        epilog="Waits where no run has begun. The exit status is that of the run: 0 finished, 130 stopped by Ctrl-C, "
        "else it failed; 1 also if its process is gone. Ctrl-C ends the watching (130), not the run.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run folder, also one that is still to be made")
    parser.add_argument("--once", action="store_true", help="print one line and stop; 0 also while the run goes on")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _looks(following: Following) -> Iterator[State | None]:
    """The run every second, up to its end."""
    while True:
        state = following.look()
        yield state
        if state and state.ended:
            return
        time.sleep(LOOK_EVERY_S)


def _follow(looks: Iterator[State | None], run: Path, console: Console) -> State:
    """Show the run until it ends; returns its last state."""
    if not console.is_terminal:
        return _lines(looks, run, console)
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for state in looks:
            live.update(_view(run, state, console) if state else _waiting(run), refresh=True)
    assert state
    return state


def _lines(looks: Iterator[State | None], run: Path, console: Console) -> State:
    """A line for each new stage, and every few seconds for new values."""
    said, last = None, 0.0
    for state in looks:
        shown = (state.stage, state.metrics.step) if state else None
        new_stage = said is None or shown is None or said[0] != shown[0]
        if (shown != said or not last) and (new_stage or time.monotonic() - last >= LINE_EVERY_S):
            console.print(_line(run, state) if state else _waiting(run))
            said, last = shown, time.monotonic()
    assert state
    return state


def _waiting(run: Path) -> str:
    beside = sorted(folder.name for folder in run.parent.glob("*/") if (folder / "manifest.json").is_file())
    others = f"; runs beside it: {', '.join(beside[:5])}" if beside else ""
    return f"{run}: no run has begun there; waiting for one (Ctrl-C ends){others}"


# --- what is shown ---


def _line(run: Path, state: State) -> str:
    """The run in one line."""
    facts = (_ending(state), _steps(state), describe(state.metrics.latest), _times(state))
    return f"{run}: {state.stage}: {', '.join(filter(None, facts))}"


def _times(state: State) -> str:
    so_far = f"{span(state.seconds)} {'in all' if state.ended else 'so far'}"
    return so_far if state.left is None else f"{so_far}, {span(state.left)} left"


def _steps(state: State) -> str:
    step, steps = state.metrics.step, state.steps
    if step or not steps or state.stage != TRAINING:
        return f"step {step:,}" + (f" of {steps:,}" if steps else "") if step else ""
    every = state.manifest.get("logging_steps")
    return f"{steps:,} steps" + (f", the first values come at step {every:,}" if every else "")


def _ending(state: State) -> str:
    """What is to be said of a run that ended badly."""
    if state.stage == GONE:
        return "its process is gone without a word: killed, or the machine went down"
    if state.stage == FAILED:
        return " ".join(str(state.manifest["error"]).split()).translate(NO_CONTROLS)
    return ""


def _view(run: Path, state: State, console: Console) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    model = state.manifest.get("base_model", {}).get("name", "")
    method = state.manifest.get("method", "")
    parts: list[RenderableType] = [str(run), f"{method} on {model}"]
    row = Table.grid(padding=(0, 1))
    bar = [ProgressBar(state.steps, state.metrics.step, width=20)] if state.steps and state.metrics.step else []
    row.add_row(Text(state.stage, style="bold"), *bar, _steps(state), _times(state))
    parts += [row, *filter(None, (_ending(state), describe(state.metrics.latest)))]
    if state.metrics.unread:
        parts.append(f"{state.metrics.unread} lines of metrics.jsonl cannot be read")
    if not console.options.ascii_only:
        parts += [Text(line, no_wrap=True, overflow="crop") for line in _chart(state.metrics.losses.points)]
    return Group(*parts)


def _chart(points: Sequence[tuple[float, float]]) -> list[str]:
    """The curve as lines of blocks, with its highest and lowest value; nothing of less than two points."""
    if len(points) < 2:
        return []
    width, height = _CHART
    columns = [_mean(part) for part in _parts([value for _, value in points], width)]
    low, high = min(columns), max(columns)
    scale = height * 8 / (high - low) if high > low else 0.0
    levels = [1 + int((value - low) * scale) for value in columns]
    lines = ["".join(_BLOCKS[max(0, min(8, level - 8 * row))] for level in levels) for row in reversed(range(height))]
    labels = [f"loss {high:.3f}", *[""] * (height - 2), f"{low:.3f}"]
    return [f"{label:>12} {line}" for label, line in zip(labels, lines, strict=True)]


def _parts(values: Sequence[float], count: int) -> Iterator[Sequence[float]]:
    """`values` cut into at most `count` neighbouring parts, none of them empty."""
    count = min(count, len(values))
    for part in range(count):
        yield values[part * len(values) // count : (part + 1) * len(values) // count]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _status(state: State) -> int:
    """The exit status that the run had."""
    if state.stage == STOPPED:
        return _INTERRUPTED
    if state.stage == FAILED:
        kind = getattr(errors, str(state.manifest["error"]).partition(":")[0], None)
        return kind.exit_status if isinstance(kind, type) and issubclass(kind, NeuralbotError) else 1
    return 1 if state.stage == GONE else 0
