"""Markdown that no text can break out of: tables, lists and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

SHOWN_CHARS = 600


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A list after a blank line; nothing for no lines."""
    items = [f"- {inline(line)}" for line in lines]
    return "\n".join(["\n", *items]) if items else ""


def inline(text: str) -> str:
    """The text on one line, without HTML."""
    return " ".join(escape(text, quote=False).split())


def fenced(text: str, language: str = "text", limit: int | None = SHOWN_CHARS) -> str:
    """A code block that no text can leave: its fence is longer than any run of backticks inside."""
    if limit is not None:
        text = shortened(text, limit)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def shortened(text: str, limit: int = SHOWN_CHARS) -> str:
    return text if len(text) <= limit else text[:limit].rstrip() + " ..."


def _cell(text: str) -> str:
    return inline(text).replace("|", "\\|")
