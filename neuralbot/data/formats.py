"""Rows -> conversations, by the format that the columns spell (`detection`).

Every row becomes the turns of a conversation, or an error that says where it stands and what is wrong with it.

Does not: read files (`sources`) or the turns of a chat (`chats`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from neuralbot.conversation import Conversation, Turn
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.chats import chat
from neuralbot.data.detection import Format, detect
from neuralbot.data.fields import At
from neuralbot.data.strict_json import kind_of
from neuralbot.errors import DataError

__all__ = ["FUNCTION_REQUEST", "SUMMARY_REQUEST", "TESTS_FOLLOW", "Format", "conversations", "detect"]

SUMMARY_REQUEST = "Summarize the highlights of this article."
FUNCTION_REQUEST = "Complete this Python function."
TESTS_FOLLOW = "The code should pass these tests:"
_INSTANCES = '[{"input": "...", "output": "..."}]'
_MOST_EMPTY = 0.01  # of all rows: more answers than this missing is a fault of the file, not of a row


def conversations(rows: Iterable[Mapping[str, Any]], fmt: Format, where: str, bad: BadRows) -> Iterator[Conversation]:
    """The rows as conversations, one by one; none is kept. `where` names their source.

    A row with a field that is missing, null or of a wrong type, an unknown role or turns out of order goes to `bad`.
    Rows whose answer is empty are left out, and counted in `bad.notices` after the last row. Raises DataError with
    file, line and row where bad rows stop the run, and at the end if too many answers are empty.
    """
    count, empty, first_empty = 0, 0, ""
    for position, row in enumerate(rows, start=1):
        at = At(_place(where, position, row), row)
        try:
            found = [_BUILD[fmt.name](part, fmt.columns) for part in _parts(at, fmt.columns)]
        except DataError as error:
            bad.add(error, json.dumps(row, ensure_ascii=False, default=str))
            continue
        for conversation in found:
            count += 1
            if _is_answered(conversation):
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


def _place(where: str, position: int, row: Mapping[str, Any]) -> str:
    """File and line; the row too where the line may hold several, or there are no lines."""
    line, number = getattr(row, "line", 0), getattr(row, "number", 0)
    if not line:
        return f"{where}: row {number or position}"
    return f"{where}:{line}: row {number}" if number else f"{where}:{line}"


def _is_answered(conversation: Conversation) -> bool:
    answers = [turn for turn in conversation.turns if turn.role == "assistant"]
    return all(turn.content.strip() or turn.tool_calls for turn in answers)


def _parts(at: At, columns: Mapping[str, str]) -> list[At]:
    """The row itself, or one row for each of its instances, with their fields beside its own."""
    column = columns.get("instances")
    if column is None:
        return [at]
    instances = at.row.get(column)
    if not isinstance(instances, list) or not instances:
        at.fail(f"column {column!r} is {at.kind(column)}", f"expected a list such as {_INSTANCES}")
    parts = []
    for number, instance in enumerate(instances, start=1):
        if not isinstance(instance, dict):
            at.fail(f"entry {number} of {column!r} is {kind_of(instance)}", f"expected a list such as {_INSTANCES}")
        place = f"{at.place}: instance {number}" if len(instances) > 1 else at.place
        parts.append(At(place, {**at.row, **instance}))
    return parts


def _alpaca(at: At, columns: Mapping[str, str]) -> Conversation:
    instruction = at.filled(columns["instruction"])
    more = at.optional(columns.get("input"))
    user = Turn("user", instruction) if more is None else _with_input(instruction, more)
    return _answered(at, user, at.text(columns["output"]), _tests(at, columns.get("tests")))


def _instance(at: At, columns: Mapping[str, str]) -> Conversation:
    return _alpaca(at, {"instruction": columns["instruction"], "input": "input", "output": "output"})


def _pair(at: At, columns: Mapping[str, str]) -> Conversation:
    question, answer = (columns[field] for field in columns if field != "tests")
    return _answered(at, Turn("user", at.filled(question)), at.text(answer), _tests(at, columns.get("tests")))


def _function(at: At, columns: Mapping[str, str]) -> Conversation:
    """The answer is the whole function, so that it runs; `test` defines check(candidate), which has to be called."""
    start, rest, test, name = (at.filled(column) for column in columns.values())
    if not name.isidentifier():
        at.fail(f"column {columns['entry_point']!r} is {name[:60]!r}", "expected the name of the function")
    return _answered(at, _with_input(FUNCTION_REQUEST, start), start + rest, f"{test}\n\ncheck({name})")


def _code(at: At, columns: Mapping[str, str]) -> Conversation:
    """The tests are part of the question: they alone say what the function is called."""
    task, tests = at.filled(columns["text"]), _tests(at, columns["test_list"])
    if tests is None:
        at.fail(f"column {columns['test_list']!r} is {at.kind(columns['test_list'])}", "expected a list of asserts")
    setup = at.optional(columns.get("test_setup_code"))
    user = _with_input(task, f"{TESTS_FOLLOW}\n{tests}")
    return _answered(at, user, at.text(columns["code"]), tests if setup is None else f"{setup}\n{tests}")


def _with_input(instruction: str, more: str) -> Turn:
    return Turn("user", f"{instruction}\n\n{more}", instruction, more)


def _answered(at: At, user: Turn, answer: str, tests: str | None = None) -> Conversation:
    return at.conversation([user, Turn("assistant", answer)], expected=(answer,), tests=tests)


def _tests(at: At, column: str | None) -> str | None:
    """Python asserts, given as a text or as a list of them."""
    value = at.row.get(column) if column else None
    if isinstance(value, list):
        value = "\n".join(at.checked(line, f"an item of column {column!r}") for line in value)
    text = None if value is None else at.checked(value, f"column {column!r}")
    return text if text and text.strip() else None


def _summarization(at: At, columns: Mapping[str, str]) -> Conversation:
    document, summary = at.filled(columns["document"]), at.text(columns["summary"])
    user = Turn("user", f"{document}\n{SUMMARY_REQUEST}", document=document)
    return _answered(at, user, summary)


def _text(at: At, columns: Mapping[str, str]) -> Conversation:
    return at.conversation([Turn("assistant", at.text(columns["text"]))])


_BUILD: dict[str, Callable[[At, Mapping[str, str]], Conversation]] = {
    "messages": chat,
    "conversations": chat,
    "alpaca": _alpaca,
    "instances": _instance,
    "function": _function,
    "code": _code,
    "prompt/completion": _pair,
    "question/answer": _pair,
    "summarization": _summarization,
    "text": _text,
}
