"""Which questions the test rows put to a model, for each metric.

One question is the opening of a conversation (with the gold answers in its history) and what is expected next.

Not done here: asking them (`answers`, `likelihood`), scoring (`metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from neuralbot.conversation import Conversation, Tool, Turn

Item = TypeVar("Item")

_BY_TASK = {"completion": "exact_match", "summarization": "rouge", "chat": "contains", "code-generation": "unit_tests"}


@dataclass(frozen=True)
class Question:
    """What is put to the model and what is expected; `conversation` numbers the row that it comes from."""

    turns: tuple[Turn, ...]
    expected: str
    conversation: int
    tests: str = ""
    tools: tuple[Tool, ...] = ()

    @property
    def shown(self) -> str:
        """The question as people read it."""
        if any(turn.role == "assistant" for turn in self.turns):
            return "\n".join(f"{turn.role}: {turn.shown}" for turn in self.turns)
        return "\n\n".join(turn.content for turn in self.turns)


def resolve_metric(metric: str, task: str, conversations: Sequence[Conversation]) -> str:
    """The metric that "auto" stands for; any other is returned as it is.

    By task; but chat rows that name no expected fact and code rows without tests are compared by ROUGE with the
    gold answer, as there is nothing else to hold them to.
    """
    if metric != "auto":
        return metric
    chosen = _BY_TASK.get(task, "rouge")
    if chosen == "contains" and not any(fact is not None for row in conversations for fact in row.expected):
        return "rouge"
    if chosen == "unit_tests" and not any(row.tests for row in conversations):
        return "rouge"
    return chosen


def collect_questions(conversations: Sequence[Conversation], metric: str) -> list[Question]:
    """The questions in these rows, in order.

    `contains`: each assistant turn with an expected fact. `loss`: every row, whole. The other metrics, and rows that
    name no facts at all: the last assistant turn with its gold answer. `unit_tests`: rows with tests only. Plain text
    gives no question, except to `loss`.
    """
    return [question for place, row in enumerate(conversations) for question in _questions(row, place, metric)]


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` items at even distances, so that data sorted by kind stays represented; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def skipped(metric: str, rows: Sequence[Conversation], questions: Sequence[Question]) -> list[str]:
    """What is said where rows gave no question."""
    used = len({question.conversation for question in questions})
    if used == len(rows):
        return []
    missing = "unit tests" if metric == "unit_tests" else "expected answer"
    return [f"{len(rows) - used} of {len(rows)} test rows have no {missing} and were not scored"]


def nothing_to_ask(metric: str, count: int) -> str:
    """What is said where no row gave a question."""
    if not count:
        return "there are no test rows to score; give data.test_file, or set evaluation.metric: none"
    if metric == "unit_tests":
        return f"none of the {count} test rows has unit tests (column `tests`); choose another evaluation.metric"
    return f"none of the {count} test rows has an answer to compare with; check the columns of data.test_file"


def _questions(row: Conversation, place: int, metric: str) -> list[Question]:
    answers = [index for index, turn in enumerate(row.turns) if turn.role == "assistant"]
    if metric == "contains" and row.expected:
        asked = [(index, fact) for index, fact in zip(answers, row.expected, strict=True) if fact is not None]
    else:  # what is compared is text, not a call of a tool
        asked = [(index, row.turns[index].content) for index in answers if not row.turns[index].tool_calls][-1:]
    if metric == "unit_tests" and not row.tests:
        return []
    return [
        Question(row.turns[:index], expected, place, row.tests or "", row.tools)
        for index, expected in asked
        if index > 0 or metric == "loss"
    ]
