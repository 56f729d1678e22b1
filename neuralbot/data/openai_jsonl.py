"""Files in the two forms of OpenAI's finetuning, prompt and completion, or messages: what is wrong, and the repairs.

The conventions are those of the command that prepared rows for `fine_tunes.create`: prompts end in a separator, a
completion begins with a space and ends in a stop text, no row stands twice. The tables of problems run from top to
bottom, each on the rows as the repairs before it have made them.

Does not: change the file, guess what a person meant.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuralbot.data import openai_chats, openai_prompts, sources
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.openai_problems import Kind
from neuralbot.data.strict_json import Row
from neuralbot.errors import DataError, UsageError

Form = Literal["prompt", "chat"]

_UNREADABLE = Kind("not a JSON object", None, lambda rows: ())
_TABLES = {
    "prompt": (openai_prompts.KINDS, openai_prompts.NOTES),
    "chat": (openai_chats.KINDS, openai_chats.NOTES),
}


@dataclass(frozen=True)
class Problem:
    kind: Kind
    text: str  # with the place


@dataclass(frozen=True)
class Checked:
    """A file that was looked through. rows: as the repairs make them; changed: how many differ from the file's.

    total: rows of the file, with those that cannot be read. notes: what may be meant so.
    """

    path: Path
    form: Form
    total: int
    problems: tuple[Problem, ...]
    rows: tuple[Row, ...]
    changed: int
    notes: tuple[str, ...]


def check(path: Path, form: Form | Literal["auto"] = "auto") -> Checked:
    """All that is wrong with a file of JSON lines; "auto": its keys tell the form.

    Raises DataError for a file that cannot be read, or has no rows of either form.
    """
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path}: expected JSON lines (*.jsonl): save the file with one row in {{...}} on each line")
    bad = BadRows("skip", most=sys.maxsize)
    rows = list(sources.rows(path, bad))
    form = _form(rows, path) if form == "auto" else form
    problems = [Problem(_UNREADABLE, row.problem) for row in bad.found]
    original = {row.line: row for row in rows}
    total = len(rows) + len(bad.found)
    kinds, notes = _TABLES[form]
    for kind in kinds:
        rows, found = _apply(kind, rows, path)
        problems += found
    changed = sum(row != original[row.line] for row in rows)
    said = tuple(note for look in notes if rows and (note := look(rows)))
    return Checked(path, form, total, tuple(problems), tuple(rows), changed, said)


def write(checked: Checked, target: Path) -> None:
    """The repaired rows as a new file. Raises UsageError if it exists or cannot be written, DataError without rows."""
    if not checked.rows:
        raise DataError(f"{checked.path}: no row is left after the repairs, so {target} is not written")
    if target.suffix.lower() != ".jsonl":
        raise UsageError(f"{target}: expected a name that ends in .jsonl")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in checked.rows)
    except FileExistsError:
        raise UsageError(f"{target} exists already: name a new file, nothing is written over") from None
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None


def _form(rows: Sequence[Row], path: Path) -> Form:
    keys = [{key.strip().lower() for key in row} for row in rows]
    chats = sum(bool(found & {"messages", "conversations"}) for found in keys)
    pairs = sum(bool(found & {"prompt", "completion"}) for found in keys)
    if not chats and not pairs:
        present = ", ".join(map(repr, rows[0])) or "none"
        raise DataError(
            f"{path}:{rows[0].line}: expected the keys prompt and completion, or messages; present keys: {present}; "
            "other files can go into a recipe as they are: see `neuralbot data preview`"
        )
    return "chat" if chats > pairs else "prompt"


def _apply(kind: Kind, rows: Sequence[Row], path: Path) -> tuple[list[Row], list[Problem]]:
    kept, problems = [], []
    for row, found in zip(rows, kind.find(rows), strict=True):
        if found is not None:
            problems.append(Problem(kind, f"{path}:{row.line}: {found.text}"))
        if (left := row if found is None else found.row) is not None:
            kept.append(left)
    return kept, problems
