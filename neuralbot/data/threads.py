"""Messages that answer each other, a row each -> chats: every way from a first message to a last answer.

The form of support exports such as Kaggle's tweets: each row has an id, the id that it answers, a text, and whether a
customer wrote it (`inbound`). Messages of one side in a row become one turn. What an agent says before any customer, or
a customer after the last answer, is left out.

Does not: stream. The rows of a file are held until its last one, which may answer the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from neuralbot.data.bad_rows import BadRows
from neuralbot.data.fields import At
from neuralbot.data.strict_json import Row
from neuralbot.errors import DataError

MESSAGES, GROUP = "messages", "thread"  # columns of the rows that are made
_SIDES = {"true": "user", "1": "user", "false": "assistant", "0": "assistant"}


@dataclass
class _Message:
    place: str
    line: int
    number: int
    parent: str
    role: str
    text: str
    answers: list[str] = field(default_factory=list)


def chats(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    place: Callable[[int, Mapping[str, Any]], str],
    bad: BadRows,
) -> Iterator[Row]:
    """For each way through a thread to an answer a row with `messages` and `thread`, the id of its first message.

    place: number and row -> where it stands. Rows that cannot be used go to `bad`; threads without an answer are
    counted in `bad.notices`. Raises DataError for messages that answer each other in a circle.
    """
    messages = _read(rows, columns, place, bad)
    first = [name for name, message in messages.items() if message.parent not in messages]
    for name, message in messages.items():
        if message.parent in messages:
            messages[message.parent].answers.append(name)
    silent, reached = 0, set(first)
    for name in first:
        ways = list(_ways(messages, name))
        reached.update(*ways)
        answered = [way for way in dict.fromkeys(_to_an_answer(messages, way) for way in ways) if way]
        silent += not answered
        for way in answered:
            if not any(len(other) > len(way) and other[: len(way)] == way for other in answered):
                yield _chat(messages, name, way)
    if circle := messages.keys() - reached:
        at = messages[min(circle)].place
        raise DataError(f"{at}: {len(circle)} messages answer each other in a circle; take one of them out")
    if silent:
        bad.notices.append(f"{silent:,} of {len(first):,} threads left out: no agent answers a customer in them")


def _read(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    place: Callable[[int, Mapping[str, Any]], str],
    bad: BadRows,
) -> dict[str, _Message]:
    messages: dict[str, _Message] = {}
    for number, row in enumerate(rows, start=1):
        try:
            name, message = _message(At(place(number, row), row), columns, messages)
        except DataError as error:
            bad.add(error, json.dumps(row, ensure_ascii=False, default=str))
        else:
            messages[name] = message
    return messages


def _message(at: At, columns: Mapping[str, str], known: Mapping[str, _Message]) -> tuple[str, _Message]:
    name, side = _word(at, columns["id"]), _word(at, columns["inbound"]).lower()
    if not name:
        at.fail(f"column {columns['id']!r} is empty", "give each message an id")
    if name in known:
        at.fail(
            f"column {columns['id']!r} is {name!r}, as at {known[name].place}", "give each message an id of its own"
        )
    if side not in _SIDES:
        at.fail(f"column {columns['inbound']!r} is {side!r}", "expected true for a customer, false for an agent")
    parent, text = _word(at, columns["parent"]), at.text(columns["text"]).strip()
    line, number = getattr(at.row, "line", 0), getattr(at.row, "number", 0)
    return name, _Message(at.place, line, number, parent, _SIDES[side], text)


def _word(at: At, column: str) -> str:
    """An id or a yes or no: tables have texts, JSON may have numbers, true and null."""
    if column not in at.row:
        return at.text(column)  # says that it is missing
    value = at.row[column]
    if value is None:
        return ""
    return str(value) if isinstance(value, int | float) else at.checked(value, f"column {column!r}").strip()


def _ways(messages: Mapping[str, _Message], name: str) -> Iterator[list[str]]:
    """From this message to each one that nobody answers."""
    waiting = [[name]]
    while waiting:
        way = waiting.pop()
        answers = messages[way[-1]].answers
        waiting += [[*way, answer] for answer in reversed(answers)]
        if not answers:
            yield way


def _to_an_answer(messages: Mapping[str, _Message], way: Sequence[str]) -> tuple[str, ...]:
    """The part from the first customer to the last agent; without any, nothing."""
    said = [name for name in way if messages[name].text]
    roles = [messages[name].role for name in said]
    if "user" not in roles:
        return ()
    start = roles.index("user")
    end = len(roles) - roles[::-1].index("assistant") if "assistant" in roles[start:] else start
    return tuple(said[start:end])


def _chat(messages: Mapping[str, _Message], thread: str, way: Sequence[str]) -> Row:
    sides = groupby((messages[name] for name in way), lambda message: message.role)
    turns = [{"role": role, "content": "\n".join(message.text for message in side)} for role, side in sides]
    made = Row({MESSAGES: turns, GROUP: thread})
    made.line, made.number = messages[way[0]].line, messages[way[0]].number
    return made
