"""The report as one page: nothing is loaded from elsewhere, nothing runs in it, and every text in it is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neuralbot.report import plot, words
from neuralbot.report.facts import Report
from neuralbot.report.markdown import shortened
from neuralbot.report.run import Run

PAGE = "report.html"
_TEMPLATE = "page.html.jinja"


def html(report: Report, run: Run) -> str:
    """The page; the same bytes for the same files."""
    drawn = {
        "Loss and learning rate over the steps": plot.loss_svg(run.metrics),
        "Speed and memory over the training": plot.use_svg(run.metrics),
    }
    charts = {title: Markup(svg) for title, svg in drawn.items() if svg}  # numbers and our own words
    main = next(iter(report.outcome.scores), None)
    return _environment().get_template(_TEMPLATE).render(report=report, main=main, charts=charts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.filters["shortened"] = shortened
    return environment


def _clean(value: Any) -> Any:
    return words.without_controls(value) if type(value) is str else value
