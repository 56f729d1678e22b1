"""Rows -> conversations, by the format that the columns spell (`detection`).

Every row becomes the turns of a conversation, or an error that says where it stands and what is wrong with it.

Does not: read files (`sources`), render tool calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from neuralbot.conversation import Conversation, Role, Turn
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.detection import Format, detect, listed
from neuralbot.errors import DataError

__all__ = ["SUMMARY_REQUEST", "Format", "conversations", "detect"]

SUMMARY_REQUEST = "Summarize the highlights of this article."
FUNCTION_REQUEST = "Complete this Python function."
TESTS_FOLLOW = "The code should pass these tests:"
_INSTANCES = '[{"input": "...", "output": "..."}]'
_MOST_EMPTY = 0.01  # of all rows: more answers than this missing is a fault of the file, not of a row

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def conversations(rows: Iterable[Mapping[str, Any]], fmt: Format, where: str, bad: BadRows) -> Iterator[Conversation]:
    """The rows as conversations, one by one; none is kept. `where` names their source.

    A row with a field that is missing, null or of a wrong type, an unknown role or turns out of order goes to `bad`.
    Rows whose answer is empty are left out, and counted in `bad.notices` after the last row. Raises DataError with
    file, line and row where bad rows stop the run, and at the end if too many answers are empty.
    """
    count, empty, first_empty = 0, 0, ""
    for position, row in enumerate(rows, start=1):
        at = _At(_place(where, position, row), row)
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
        notice = f"{where}: {rows_left} of {count} left out, the answer is empty: {first_empty}"
        if notice not in bad.notices:  # rows may be read more than once
            bad.notices.append(notice)


def _place(where: str, position: int, row: Mapping[str, Any]) -> str:
    """File and line; the row too where the line may hold several, or there are no lines."""
    line, number = getattr(row, "line", 0), getattr(row, "number", 0)
    if not line:
        return f"{where}: row {number or position}"
    return f"{where}:{line}: row {number}" if number else f"{where}:{line}"


def _is_answered(conversation: Conversation) -> bool:
    return all(turn.content.strip() for turn in conversation.turns if turn.role == "assistant")


def _parts(at: _At, columns: Mapping[str, str]) -> list[_At]:
    """The row itself, or one row for each of its instances, with their fields beside its own."""
    column = columns.get("instances")
    if column is None:
        return [at]
    instances = at.row.get(column)
    if not isinstance(instances, list) or not instances:
        at.fail(f"column {column!r} is {at.kind(column)}", f"expected a list such as {_INSTANCES}")
    for number, instance in enumerate(instances, start=1):
        if not isinstance(instance, dict):
            at.fail(f"entry {number} of {column!r} is {_kind(instance)}", f"expected a list such as {_INSTANCES}")
    places = [at.place if len(instances) == 1 else f"{at.place}: instance {n + 1}" for n in range(len(instances))]
    return [_At(place, {**at.row, **instance}) for place, instance in zip(places, instances, strict=True)]


class _At:
    """One row and where it stands; reads its fields and complains about them."""

    def __init__(self, place: str, row: Mapping[str, Any]) -> None:
        self.place = place
        self.row = row

    def fail(self, what: str, then: str) -> NoReturn:
        raise DataError(f"{self.place}: {what}; {then}")

    def text(self, column: str) -> str:
        if column not in self.row:
            then = f"present columns: {listed(self.row) or 'none'}; add it to this row"
            self.fail(f"column {column!r} is missing", then)
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

    def kind(self, column: str) -> str:
        """What stands there, in words, where something else was expected."""
        return _kind(self.row[column]) if column in self.row else "missing"

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
    user = Turn("user", instruction) if more is None else _with_input(instruction, more)
    return _answered(at, user, at.text(columns["output"]), _tests(at, columns.get("tests")))


def _instance(at: _At, columns: Mapping[str, str]) -> Conversation:
    return _alpaca(at, {"instruction": columns["instruction"], "input": "input", "output": "output"})


def _pair(at: _At, columns: Mapping[str, str]) -> Conversation:
    question, answer = (columns[field] for field in columns if field != "tests")
    return _answered(at, Turn("user", at.filled(question)), at.text(answer), _tests(at, columns.get("tests")))


def _function(at: _At, columns: Mapping[str, str]) -> Conversation:
    """The answer is the whole function, so that it runs; `test` defines check(candidate), which has to be called."""
    start, rest, test, name = (at.filled(column) for column in columns.values())
    if not name.isidentifier():
        at.fail(f"column {columns['entry_point']!r} is {name[:60]!r}", "expected the name of the function")
    return _answered(at, _with_input(FUNCTION_REQUEST, start), start + rest, f"{test}\n\ncheck({name})")


def _code(at: _At, columns: Mapping[str, str]) -> Conversation:
    """The tests are part of the question: they alone say what the function is called."""
    task, tests = at.filled(columns["text"]), _tests(at, columns["test_list"])
    if tests is None:
        at.fail(f"column {columns['test_list']!r} is {at.kind(columns['test_list'])}", "expected a list of asserts")
    setup = at.optional(columns.get("test_setup_code"))
    user = _with_input(task, f"{TESTS_FOLLOW}\n{tests}")
    return _answered(at, user, at.text(columns["code"]), tests if setup is None else f"{setup}\n{tests}")


def _with_input(instruction: str, more: str) -> Turn:
    return Turn("user", f"{instruction}\n\n{more}", instruction, more)


def _answered(at: _At, user: Turn, answer: str, tests: str | None = None) -> Conversation:
    return at.conversation([user, Turn("assistant", answer)], expected=(answer,), tests=tests)


def _tests(at: _At, column: str | None) -> str | None:
    """Python asserts, given as a text or as a list of them."""
    value = at.row.get(column) if column else None
    if isinstance(value, list):
        value = "\n".join(at.checked(line, f"an item of column {column!r}") for line in value)
    text = None if value is None else at.checked(value, f"column {column!r}")
    return text if text and text.strip() else None


def _summarization(at: _At, columns: Mapping[str, str]) -> Conversation:
    document, summary = at.filled(columns["document"]), at.text(columns["summary"])
    user = Turn("user", f"{document}\n{SUMMARY_REQUEST}", document=document)
    return _answered(at, user, summary)


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


_BUILD: dict[str, Callable[[_At, Mapping[str, str]], Conversation]] = {
    "messages": _chat,
    "conversations": _chat,
    "alpaca": _alpaca,
    "instances": _instance,
    "function": _function,
    "code": _code,
    "prompt/completion": _pair,
    "question/answer": _pair,
    "summarization": _summarization,
    "text": _text,
}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false", str: "a text"}
    return kinds.get(type(value), "a number") + (" without entries" if value == [] else "")
