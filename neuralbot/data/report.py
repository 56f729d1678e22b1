"""A preview as rich renderables, the same for the terminal and for HTML.

Texts that come from rows, files or tokenizers are put in as `Text`, never as markup, and without control characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from rich.bar import Bar
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from neuralbot.data.checks import Finding
from neuralbot.data.duplicates import Repeats
from neuralbot.data.preview import Lengths, Preview, ShownRow, SplitFigures, Trained
from neuralbot.textstream import NO_CONTROLS

# (trained on, special token) -> style. Not `reverse`, which a page cannot show without colors.
_STYLES = {
    (False, False): "", (True, False): "green underline", (False, True): "black on white",
    (True, True): "bright_white on green underline",
}  # fmt: skip
_LEVELS = {"note": "cyan", "warning": "yellow", "fatal": "bold red"}

_WHOLE: dict[str, Callable[[SplitFigures], str]] = {
    "rows": lambda found: f"{found.rows:,}",
    "shortest": lambda found: f"{found.lengths.minimum:,}",
    "median": lambda found: f"{found.lengths.median:,}",
    "95 % are up to": lambda found: f"{found.lengths.p95:,}",
    "longest": lambda found: f"{found.lengths.maximum:,}",
}
_TRAINED: dict[str, Callable[[Trained], str]] = {
    "rows as trained": lambda found: f"{found.rows:,}",
    "tokens trained on": lambda found: f"{found.targets:,} of {found.tokens:,} ({found.targets / found.tokens:.1%})",
    "end in the end token": lambda found: f"{found.ended:,}",
    "answer cut": lambda found: f"{found.cut:,}",
    "document shortened": lambda found: f"{found.shortened:,}",
    "dropped": lambda found: f"{found.dropped:,}",
}

# `rich` fills in the braces. Long lines wrap, as they do in a terminal.
HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="UTF-8">
<title>neuralbot data preview</title>
<style>
{stylesheet}
body {{ color: {foreground}; background-color: {background}; margin: 2em; }}
pre {{ font-family: Menlo, 'DejaVu Sans Mono', Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<pre><code>{code}</code></pre>
</body>
</html>
"""


def sections(found: Preview) -> Iterator[RenderableType]:
    """What to print, from the figures to the findings: the most important stands last."""
    yield _splits(found.splits)
    yield from (_histogram(figures.lengths, found.limit) for figures in found.splits if figures.name == "training")
    yield from _duplicates(found.repeats)
    if found.rows:
        yield _legend()
    for row in found.rows:
        yield _row(row)
    yield Text.assemble("\n", ("findings", "bold"))
    yield from map(_finding, found.findings)
    if not found.findings:
        yield Text("none: nothing speaks against training on these rows")


def plain(text: str, style: str = "") -> Text:
    """Somebody else's text, as it is but for control characters."""
    return Text(text.translate(NO_CONTROLS), style)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(f"\n{title}", "bold"), title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _splits(splits: Sequence[SplitFigures]) -> Table:
    table = _table("rows, and their lengths in tokens", "", *(figures.name for figures in splits))
    for label, say in _WHOLE.items():
        table.add_row(label, *map(say, splits))
    if any(figures.calling for figures in splits):
        table.add_row("rows that call tools", *(f"{figures.calling:,}" for figures in splits))
    for label, tell in _TRAINED.items():
        table.add_row(label, *("-" if figures.trained is None else tell(figures.trained) for figures in splits))
    return table


def _histogram(found: Lengths, limit: int) -> Table:
    table = _table(f"training rows by length (at most {limit:,} tokens are trained on)", "tokens", "rows", "")
    for (low, high), count in zip(pairwise(found.edges), found.counts, strict=True):
        label = f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}"
        color = "red" if low > limit else "blue"
        table.add_row(label, f"{count:,}", Bar(max(found.counts), 0, count, width=40, color=color))
    return table


def _duplicates(repeats: Sequence[Repeats]) -> Iterator[RenderableType]:
    if not repeats:
        yield Text("\nno question stands twice, neither inside a split nor across splits")
        return
    table = _table("rows that repeat another", "", "same question", "same row")
    names = {found: found.split if found.split == found.of else f"{found.split} in {found.of}" for found in repeats}
    for found, name in names.items():
        table.add_row(name, f"{found.questions:,}", f"{found.rows:,}")
    yield table
    for found, name in names.items():
        for repeat in found.first:
            same = "is the same as" if repeat.whole else "asks the same as"
            yield plain(f"{name}: {repeat.where} {same} {repeat.first}")


def _legend() -> Text:
    says = ("not trained on", "trained on", "special token", "special token trained on")
    return Text(", ").join([Text.assemble("\n", ("first training rows", "bold")), *map(Text, says, _STYLES.values())])


def _row(row: ShownRow) -> Text:
    head = f"\n{row.where}: {row.tokens:,} tokens, {row.targets:,} trained on"
    parts = [plain(part.text, _STYLES[part.trained, part.special]) for part in row.parts]
    return Text.assemble(plain(head + (f"; {row.remark}" if row.remark else ""), "bold"), "\n", *parts)


def _finding(finding: Finding) -> Text:
    return Text.assemble((finding.level, _LEVELS[finding.level]), ": ", plain(finding.text))
