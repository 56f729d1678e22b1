"""Rows -> conversations: the format is told by the columns, never by the name of a file.

Known: Alpaca, question and answer, prompt and completion, chats (`messages`, sharegpt `conversations`), a document
with its summary, plain text. Names of columns are taken in any case.

Does not: read files (`sources`) or the turns of a chat (`chats`), map columns of other names.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from neuralbot.conversation import Conversation, Turn
from neuralbot.data.chats import chat
from neuralbot.data.strict_json import kind_of as _kind
from neuralbot.errors import DataError

SUMMARY_REQUEST = "Summarize the highlights of this article."
_MOST_EMPTY = 0.01  # of all rows: more answers than this missing is a fault of the file, not of a row


@dataclass(frozen=True)
class Format:
    """What the columns mean. columns: field -> name of its column. reason: one sentence for people, why this format."""

    name: str
    columns: Mapping[str, str]
    reason: str


@dataclass(frozen=True)
class Converted:
    """conversations: one for each usable row. empty: where the rows stand that have nothing to learn from."""

    conversations: list[Conversation]
    empty: list[str]


def detect(columns: Sequence[str], task: str) -> Format:
    """The format that these columns spell. Task "summarization" looks for a document with its summary first.

    Raises DataError with the columns present and what was expected.
    """
    for name in sorted(_SPECS, key=lambda name: name != task):
        found = {field: _column(columns, choices) for field, choices in _SPECS[name].fields.items()}
        named = {field: column for field, column in found.items() if column is not None}
        if len(named) == len(found):
            return _format(name, named, columns)
    raise DataError(_unknown(columns))


def to_conversations(rows: Sequence[Mapping[str, Any]], fmt: Format, where: str) -> list[Conversation]:
    """The rows as conversations; rows without any answer are left out (see `convert`).

    Raises DataError with file, line and row number for a field that is missing, null or of a wrong type, an unknown
    role or turns out of order, and if too many answers are empty.
    """
    return convert(rows, fmt, where).conversations


def convert(rows: Sequence[Mapping[str, Any]], fmt: Format, where: str) -> Converted:
    """`to_conversations`, with the places of the rows that were left out because their answer is empty."""
    build = _SPECS[fmt.name].build
    done = Converted([], [])
    for number, row in enumerate(rows, start=1):
        at = _At(where, number, row)
        conversation = build(at, fmt.columns)
        if any(
            turn.role == "assistant" and not (turn.content.strip() or turn.tool_calls) for turn in conversation.turns
        ):
            done.empty.append(at.place)
        else:
            done.conversations.append(conversation)
    if len(done.empty) > _MOST_EMPTY * len(rows):
        raise DataError(
            f"{done.empty[0]}: the answer is empty, as in {len(done.empty)} of {len(rows)} rows; expected a text in "
            f"every answer: fill them in or take these rows out"
        )
    return done


class _At:
    """One row and where it stands; reads its fields and complains about them."""

    def __init__(self, where: str, number: int, row: Mapping[str, Any]) -> None:
        self.row = row
        line = getattr(row, "line", 0)
        self.place = f"{where}:{line}: row {number}" if line else f"{where}: row {number}"

    def fail(self, what: str, then: str) -> NoReturn:
        raise DataError(f"{self.place}: {what}; {then}")

    def text(self, column: str) -> str:
        if column not in self.row:
            present = ", ".join(map(repr, self.row)) or "none"
            self.fail(f"column {column!r} is missing", f"present columns: {present}; add it to this row")
        return self.checked(self.row[column], f"column {column!r}")

    def optional(self, column: str | None) -> str | None:
        """The text of a column that may be absent, null or blank: None then."""
        value = self.row.get(column) if column else None
        text = None if value is None else self.checked(value, f"column {column!r}")
        return text if text and text.strip() else None

    def checked(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            self.fail(f"{name} is {_kind(value)}", f"expected a text{' in quotes' if value is not None else ''}")
        return value

    def filled(self, column: str) -> str:
        text = self.text(column)
        if not text.strip():
            self.fail(f"column {column!r} is empty", "expected a text: fill it in or take the row out")
        return text

    def conversation(self, turns: Sequence[Turn], **extra: Any) -> Conversation:
        return Conversation(tuple(turns), where=self.place, **extra)


def _alpaca(at: _At, columns: Mapping[str, str]) -> Conversation:
    instruction = at.filled(columns["instruction"])
    more = at.optional(columns.get("input"))
    user = Turn("user", instruction)
    if more is not None:
        user = Turn("user", f"{instruction}\n\n{more}", instruction, more)
    answer = at.text(columns["output"])
    tests = _tests(at, columns["tests"]) if "tests" in columns else None
    return at.conversation([user, Turn("assistant", answer)], expected=(answer,), tests=tests)


def _tests(at: _At, column: str) -> str | None:
    value = at.row.get(column)
    if isinstance(value, list):
        value = "\n".join(at.checked(line, f"an item of column {column!r}") for line in value)
    text = None if value is None else at.checked(value, f"column {column!r}")
    return text if text and text.strip() else None


def _pair(at: _At, columns: Mapping[str, str]) -> Conversation:
    question, answer = (columns[name] for name in ("question", "answer"))
    turns = [Turn("user", at.filled(question)), Turn("assistant", at.text(answer))]
    return at.conversation(turns, expected=(turns[1].content,))


def _summarization(at: _At, columns: Mapping[str, str]) -> Conversation:
    document, summary = at.filled(columns["document"]), at.text(columns["summary"])
    user = Turn("user", f"{document}\n{SUMMARY_REQUEST}", document=document)
    return at.conversation([user, Turn("assistant", summary)], expected=(summary,))


def _text(at: _At, columns: Mapping[str, str]) -> Conversation:
    return at.conversation([Turn("assistant", at.text(columns["text"]))])


@dataclass(frozen=True)
class _Spec:
    """How a format is recognised and read. fields: field -> column names that may hold it, the first found is taken."""

    says: str
    fields: Mapping[str, tuple[str, ...]]
    build: Callable[[_At, Mapping[str, str]], Conversation]
    optional: tuple[str, ...] = ()


# In the order in which they are tried.
_SPECS: dict[str, _Spec] = {
    "messages": _Spec("chats, lists of messages", {"turns": ("messages",)}, chat, ("expected", "tools")),
    "conversations": _Spec("chats in the sharegpt form", {"turns": ("conversations",)}, chat, ("expected", "tools")),
    "alpaca": _Spec(
        "Alpaca rows, an instruction with its answer",
        {"instruction": ("instruction",), "output": ("output", "response")},
        _alpaca,
        ("input", "tests"),
    ),
    "prompt/completion": _Spec(
        "prompts with their completions", {"question": ("prompt",), "answer": ("completion",)}, _pair
    ),
    "question/answer": _Spec(
        "questions with their answers", {"question": ("question",), "answer": ("answer", "response")}, _pair
    ),
    "summarization": _Spec(
        "documents with their summaries",
        {"document": ("article", "document", "dialogue"), "summary": ("highlights", "summary")},
        _summarization,
    ),
    "text": _Spec("plain text, trained whole", {"text": ("text",)}, _text),
}


def _column(columns: Sequence[str], choices: Sequence[str]) -> str | None:
    """The column with one of these names, exactly or in another case."""
    for choice in choices:
        if choice in columns:
            return choice
        for column in columns:
            if column.strip().lower() == choice:
                return column
    return None


def _format(name: str, named: dict[str, str], columns: Sequence[str]) -> Format:
    for option in _SPECS[name].optional:
        if (column := _column(columns, (option,))) is not None:
            named[option] = column
    used = ", ".join(map(repr, named.values()))
    unused = ", ".join(repr(column) for column in columns if column not in named.values())
    plural = "columns" if len(named) > 1 else "column"
    rest = f"; not used: {unused}" if unused else ""
    return Format(name, named, f"read as {_SPECS[name].says}, because of the {plural} {used}{rest}")


def _unknown(columns: Sequence[str]) -> str:
    present = f"present columns: {', '.join(map(repr, columns)) or 'none'}"
    for spec in _SPECS.values():
        missing = [choices for choices in spec.fields.values() if _column(columns, choices) is None]
        if len(missing) < len(spec.fields):
            wanted = " or ".join(map(repr, missing[0]))
            return f"{spec.says}: column {wanted} is missing; {present}{_hint(columns, missing[0])}"
    known = [" and ".join("|".join(choices) for choices in spec.fields.values()) for spec in _SPECS.values()]
    names = {name for spec in _SPECS.values() for choices in spec.fields.values() for name in choices}
    return (
        f"no known format has these columns; {present}{_hint(columns, sorted(names))}; expected {', or '.join(known)}"
    )


def _hint(columns: Sequence[str], wanted: Sequence[str]) -> str:
    for column in columns:
        near = difflib.get_close_matches(column.strip().lower(), wanted, n=1, cutoff=0.7)
        if near:
            return f"; did you mean {near[0]!r} by {column!r}?"
    return "; rename the columns of the file"
