"""Rows -> conversations: the format is told by the columns, never by the name of a file.

Known: Alpaca, question and answer, prompt and completion, chats (`messages`, sharegpt `conversations`), a document
with its summary, plain text. Names of columns are taken in any case.

Does not: read files (`sources`), map columns of other names, render tool calls.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from neuralbot.conversation import Conversation, Role, Turn
from neuralbot.data.bad_rows import BadRows
from neuralbot.errors import DataError

SUMMARY_REQUEST = "Summarize the highlights of this article."
_MOST_EMPTY = 0.01  # of all rows: more answers than this missing is a fault of the file, not of a row

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


@dataclass(frozen=True)
class Format:
    """What the columns mean. columns: field -> name of its column. reason: one sentence for people, why this format."""

    name: str
    columns: Mapping[str, str]
    reason: str


def detect(columns: Sequence[str], task: str, mapping: Mapping[str, str] | None = None) -> Format:
    """The format that these columns spell. Task "summarization" looks for a document with its summary first.

    Raises DataError with the columns present and what was expected.
    """
    for name in sorted(_SPECS, key=lambda name: name != task):
        mapped = mapping or {}
        found = {
            field: mapped.get(field) or _column(columns, choices) for field, choices in _SPECS[name].fields.items()
        }
        named = {field: column for field, column in found.items() if column is not None}
        if len(named) == len(found):
            return _format(name, named, columns)
    raise DataError(_unknown(columns))


def conversations(rows: Iterable[Mapping[str, Any]], fmt: Format, where: str, bad: BadRows) -> Iterator[Conversation]:
    """The rows as conversations, one by one; none is kept. `where` names their source.

    A row with a field that is missing, null or of a wrong type, an unknown role or turns out of order goes to `bad`.
    Rows whose answer is empty are left out, and counted in `bad.notices` after the last row. Raises DataError with
    file, line and row where bad rows stop the run, and at the end if too many answers are empty.
    """
    build = _SPECS[fmt.name].build
    count, empty, first_empty = 0, 0, ""
    for number, row in enumerate(rows, start=1):
        try:
            conversation = build(_At(where, number, row), fmt.columns)
        except DataError as error:
            bad.add(error, json.dumps(row, ensure_ascii=False, default=str))
            continue
        count += 1
        if all(turn.content.strip() for turn in conversation.turns if turn.role == "assistant"):
            yield conversation
        else:
            empty += 1
            first_empty = first_empty or conversation.where
    if empty > _MOST_EMPTY * count:
        raise DataError(
            f"{first_empty}: the answer is empty, as in {empty} of {count} rows; expected a text in every answer: "
            "fill them in or take these rows out"
        )
    if empty:
        rows_left = "1 row" if empty == 1 else f"{empty} rows"
        bad.notices.append(f"{where}: {rows_left} of {count} left out, the answer is empty: {first_empty}")


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


def _chat(at: _At, columns: Mapping[str, str]) -> Conversation:
    column = columns["turns"]
    messages = at.row.get(column)
    if not isinstance(messages, list) or not messages:
        kind = "missing" if column not in at.row else _kind(messages)
        at.fail(f"column {column!r} is {kind}", 'expected a list of turns such as {"role": "user", "content": "..."}')
    turns = [_turn(at, message, f"turn {number} of {column!r}") for number, message in enumerate(messages, start=1)]
    _check_roles(at, [turn.role for turn in turns])
    return at.conversation(turns, expected=_expected(at, columns.get("expected"), messages, turns))


def _turn(at: _At, message: object, name: str) -> Turn:
    if not isinstance(message, dict):
        at.fail(f"{name} is {_kind(message)}", 'expected an object such as {"role": "user", "content": "..."}')
    role_key, content_key = ("role", "content") if "role" in message else ("from", "value")
    for key in (role_key, content_key):
        if key not in message:
            present = ", ".join(map(repr, message)) or "none"
            at.fail(f"{name} has no {key!r} (its keys: {present})", "expected role and content, or from and value")
    role = at.checked(message[role_key], f"{role_key!r} of {name}").strip().lower()
    if role not in _ROLES:
        known = ", ".join(_ROLES)
        at.fail(f"{name} has the unknown role {role!r}", f"expected one of {known}; tool calls are not supported")
    return Turn(_ROLES[role], at.checked(message[content_key], f"{content_key!r} of {name}"))


def _check_roles(at: _At, roles: Sequence[Role]) -> None:
    spoken = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(spoken):
        wanted = "assistant" if number % 2 else "user"
        if role != wanted:
            turn = number + 1 + len(roles) - len(spoken)
            then = "expected a system turn or none, then user and assistant in turn"
            at.fail(f"roles out of order: turn {turn} is the {role}'s, expected the {wanted}'s", then)
    if len(spoken) < 2:
        at.fail(f"no assistant turn (its roles: {', '.join(roles)})", "add the answer that is to be learned")
    if len(spoken) % 2:
        at.fail("the last turn is the user's, without an answer", "add the answer or take the turn out")


def _expected(
    at: _At, column: str | None, messages: Sequence[Mapping[str, Any]], turns: Sequence[Turn]
) -> tuple[str | None, ...]:
    """Facts per assistant turn, from the row's own column or from the key `expected` of its messages."""
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    listed = at.row.get(column) if column else None
    if listed is None:
        if not any("expected" in message for message in messages):
            return ()
        listed = [messages[place].get("expected") for place in answers]
    if not isinstance(listed, list) or len(listed) != len(answers):
        what = f"{len(listed)} entries" if isinstance(listed, list) else _kind(listed)
        at.fail(f"column {column!r} is {what}", f"expected a list with {len(answers)} entries, one an assistant turn")
    return tuple(None if fact is None else at.checked(fact, "an entry of 'expected'") for fact in listed)


@dataclass(frozen=True)
class _Spec:
    """How a format is recognised and read. fields: field -> column names that may hold it, the first found is taken."""

    says: str
    fields: Mapping[str, tuple[str, ...]]
    build: Callable[[_At, Mapping[str, str]], Conversation]
    optional: tuple[str, ...] = ()


# In the order in which they are tried.
_SPECS: dict[str, _Spec] = {
    "messages": _Spec("chats, lists of messages", {"turns": ("messages",)}, _chat, ("expected",)),
    "conversations": _Spec("chats in the sharegpt form", {"turns": ("conversations",)}, _chat, ("expected",)),
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


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false", str: "a text"}
    return kinds.get(type(value), "a number") + (" without entries" if value == [] else "")
