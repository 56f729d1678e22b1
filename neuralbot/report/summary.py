"""The report as Markdown: the same facts, without charts and answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neuralbot.report import words
from neuralbot.report.facts import Bar, Facts, Report
from neuralbot.report.markdown import bullets, fenced, inline, table
from neuralbot.report.outcome import Measured

SUMMARY = "report.md"


def markdown(report: Report) -> str:
    """The text; the same bytes for the same files."""
    outcome = report.outcome
    settings = {f"{name}.{key}": value for name, values in report.settings.items() for key, value in values.items()}
    stopped = f"**This run did not finish.** {inline(report.stopped)}" if report.stopped else ""
    scores = [(score.name, _measured(score.before), _measured(score.after)) for score in outcome.scores]
    parts = (
        f"# {inline(report.name)}: report of the run",
        inline(report.lead),
        stopped,
        _table(("score", "before tuning", "after tuning"), scores),
        *(inline(said) for said in (outcome.verdict, outcome.counts, outcome.about)),
        _table(("task", "measure", "before tuning", "after tuning"), outcome.harness),
        _facts("At a glance", report.highlights),
        _facts("What was trained on what", report.trained),
        _table(("file", "used for", "rows", "SHA-256 begins with"), report.files),
        _bars("Lengths of the rows", report.lengths, report.lengths_note),
        _facts("Settings that differ from the defaults", settings),
        _list("To know", report.notices),
        _list("Rows that were skipped", report.skipped),
        _bars("Time", report.stages),
        _facts("Machine", report.machine),
        f"## How to use it\n\n{fenced(report.commands, 'sh', None)}\n\n{fenced(report.script, 'python', None)}",
        _facts("Where it comes from", report.origin),
    )
    return words.without_controls("\n\n".join(part for part in parts if part) + "\n")


def _measured(found: Measured | None) -> str:
    if found is None:
        return "not measured"
    return f"{found.text} ({found.spread})" if found.spread else found.text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    listed = list(rows)
    return table(head, listed) if listed else ""


def _facts(title: str, found: Facts) -> str:
    return f"## {title}\n\n{table(('', ''), found.items())}" if found else ""


def _bars(title: str, bars: Sequence[Bar], note: str = "") -> str:
    drawn = table(("", ""), [(bar.name, bar.value) for bar in bars])
    return "\n\n".join(filter(None, (f"## {title}", note, drawn))) if bars else ""


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}{bullets(lines)}" if lines else ""
