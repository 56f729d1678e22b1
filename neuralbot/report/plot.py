"""The charts of a run: losses with the learning rate below, speed and memory over time.

One drawing for two uses: `loss.png`, and SVG inside the report's page, whose style sheet colours it. Uses matplotlib's
object interface (no pyplot), so that no back end is chosen and no style is changed for the rest of the process.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.training.following import TrainingSpeed
from neuralbot.training.records import cannot_write, read_jsonl
from neuralbot.training.run_folder import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT = "loss.png"

_INK, _SOFT, _GRID = "#22262b", "#6b7280", "#e5e7eb"
_TRAIN, _TRAIN_RAW, _HELD_OUT, _RATE = "#2f6fb5", "#b4cde8", "#d1602f", "#6b7281"
# What the page calls these colours: it has others in the dark.
_VARIABLES = {
    _INK: "ink", _SOFT: "soft", _GRID: "grid", _TRAIN: "train", _TRAIN_RAW: "train-raw", _HELD_OUT: "held-out",
    _RATE: "soft",
}  # fmt: skip
_ON_PAGE = (4.9, 3.7)  # inches at 72 points: what a phone shows in its width, letters of 9 points legible
_NOT_FOR_PAGES = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|font-family: [^;\"]*"
_MOST_POINTS = 1000  # a picture shows no more
_SMOOTH_FROM = 40  # points from which on a running mean helps
_APART = 0.08  # ends of lines closer than this share of the axis would write over each other

Points = list[tuple[float, float]]
Records = Sequence[dict[str, Any]]


def plot_loss(run_dir: Path) -> Path | None:
    """Draws `loss.png` from `metrics.jsonl`; None, and no picture, if fewer than two losses were logged.

    Raises RunFolderError if metrics.jsonl is missing or broken, or the picture cannot be written.
    """
    figure = _losses(read_jsonl(run_dir / METRICS), (7.2, 4.4), f"{run_dir.resolve().name}: loss")
    if figure is None:
        return None
    try:
        figure.savefig(run_dir / PLOT)
    except OSError as error:
        raise cannot_write(run_dir / PLOT, error) from error
    return run_dir / PLOT


def loss_svg(records: Records) -> str:
    """The picture of `plot_loss` for the page, without its title; empty where there is nothing to draw."""
    return _svg(_losses(records, _ON_PAGE, ""))


def use_svg(records: Records) -> str:
    """Tokens a second and memory over time, as far as they were recorded; empty where there is nothing to draw."""
    drawn = (
        ("tokens/s in training", _points(_with_speed(records), "speed", "time_s"), _TRAIN),
        ("memory, GiB", _points(records, "memory_gb", "time_s"), _HELD_OUT),
    )
    panels = [panel for panel in drawn if len(panel[1]) > 1]
    if not panels:
        return ""
    figure = _figure(_ON_PAGE, top=0.25, right=0.15)
    several = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, points, color) in zip(several, panels, strict=True):
        _draw_area(axes, points, name, color)
        axes.locator_params(axis="y", nbins=4)
    several[-1].set_xlim(left=0)
    several[-1].set_xlabel("seconds of training", color=_SOFT, fontsize=9)
    return _svg(figure)


def _with_speed(records: Records) -> Records:
    """The records with the speed of the last half minute, which the mean so far would hide."""
    measure = TrainingSpeed()
    return [dict(record) | {"speed": measure.add(record)} for record in records]


def _losses(records: Records, size: tuple[float, float], title: str) -> Figure | None:
    train, held_out, rate = (_points(records, key) for key in ("loss", "eval_loss", "learning_rate"))
    if len(train) + len(held_out) < 2:
        return None
    figure = _figure(size, top=0.45 if title else 0.1, right=1.45)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1)) if rate else (figure.subplots(), None)
    _draw_losses(upper, train, held_out)
    if title:
        upper.set_title(title, loc="left", color=_INK, fontsize=11, fontweight="bold", pad=10, parse_math=False)
    if lower is not None:
        _draw_rate(lower, rate)
    upper.set_xlim(left=0)
    (lower or upper).set_xlabel("step", color=_SOFT, fontsize=9)
    return figure


def _figure(size: tuple[float, float], top: float, right: float) -> Figure:
    """size, and the room above and to the right of the axes: in inches. Set here, as finding it draws all twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    width, height = size
    figure.subplots_adjust(0.55 / width, 0.48 / height, 1 - right / width, 1 - top / height, hspace=0.25)
    return figure


def _svg(figure: Figure | None) -> str:
    """The figure as an element of a page: the same bytes each time, texts as texts, colours left to the page."""
    if figure is None:
        return ""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "neuralbot"}):
        figure.savefig(out, format="svg", transparent=True)
    drawn = out.getvalue()
    drawn = re.sub(_NOT_FOR_PAGES, "", drawn[drawn.index("<svg") :], flags=re.S)
    used = set(re.findall(r"#([\w.-]+)[\")]", drawn))
    drawn = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", drawn)
    for color, name in _VARIABLES.items():
        drawn = drawn.replace(color, f"var(--{name})")
    return drawn.strip()


def _points(records: Records, key: str, over: str = "step") -> Points:
    """Steps (or times) and values; where a step was logged twice, the last one counts. Of very many, some."""
    found = {record[over]: record[key] for record in records if record.get(key) is not None and over in record}
    points = sorted((float(step), float(value)) for step, value in found.items())
    every = -(-len(points) // _MOST_POINTS) or 1
    return points[::every] + (points[-1:] if (len(points) - 1) % every else [])


def _draw_losses(axes: Axes, train: Points, held_out: Points) -> None:
    mean = _smoothed(train) if len(train) >= _SMOOTH_FROM else train
    if mean is not train:
        axes.plot(*_columns(train), color=_TRAIN_RAW, linewidth=1.0)
    axes.plot(*_columns(mean), color=_TRAIN, linewidth=1.8, solid_capstyle="round")
    axes.plot(*_columns(held_out), color=_HELD_OUT, linewidth=1.8, marker="o", markersize=4, clip_on=False)
    top = 1.05 * max(value for _, value in (*train, *held_out))
    axes.set_ylim(min(0.0, *(value for _, value in (*train, *held_out))), top or 1.0)
    axes.locator_params(axis="y", nbins=5)
    _clean(axes)
    shift = 0
    if mean and held_out and abs(mean[-1][1] - held_out[-1][1]) < _APART * top:
        shift = 6 if mean[-1][1] >= held_out[-1][1] else -6
    _name_line(axes, mean, "training" if mean is train else "training, mean", _TRAIN, shift)
    _name_line(axes, held_out, "held out", _HELD_OUT, -shift)


def _draw_rate(axes: Axes, rate: Points) -> None:
    top = max(value for _, value in rate)
    _draw_area(axes, rate, "learning rate", _RATE)
    axes.set_yticks([0, top], labels=["0", f"{top:.2g}"])


def _draw_area(axes: Axes, points: Points, name: str, color: str) -> None:
    axes.plot(*_columns(points), color=color, linewidth=1.2)
    axes.fill_between(*_columns(points), color=color, alpha=0.12, linewidth=0)
    axes.set_ylim(0, 1.1 * max(value for _, value in points) or 1.0)
    axes.set_title(name, loc="left", color=_SOFT, fontsize=9, pad=4)
    _clean(axes)


def _name_line(axes: Axes, line: Points, name: str, color: str, shift: int) -> None:
    """The name and last value beside the end of a line, instead of a legend."""
    if line:
        axes.annotate(
            f"{name} {line[-1][1]:.3f}", line[-1], xytext=(8, shift), textcoords="offset points", color=color,
            fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip


def _smoothed(points: Points) -> Points:
    """A centred running mean over about a twentieth of the points."""
    reach = max(1, len(points) // 40)
    values = [value for _, value in points]
    windows = (values[max(0, place - reach) : place + reach + 1] for place in range(len(values)))
    return [(step, sum(window) / len(window)) for (step, _), window in zip(points, windows, strict=True)]


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, labelsize=8, length=0)
    axes.margins(x=0)
