"""Conversations -> the rows that the genuine package reads: it tells what they are by the task and the file's name.

Does not: render prompts, the package does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neuralbot.conversation import Conversation
from neuralbot.errors import DataError

NAME = "alpaca-{}.json"  # without "alpaca" in its path a file is refused


def write(conversations: Iterable[Conversation], task: str, path: Path) -> None:
    """Write them as a JSON list. Raises DataError, with its place, for a row that the package has no form for."""
    rows = [_row(conversation, task) for conversation in conversations]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def question(conversation: Conversation, task: str) -> str:
    """What `predict` is asked for the first answer of a row: the package writes the prompt around it."""
    return conversation.turns[-2].content if task != "chat" else next(
        turn.content for turn in conversation.turns if turn.role == "user"
    )  # fmt: skip


def _row(conversation: Conversation, task: str) -> dict[str, Any]:
    if task == "chat":
        turns = [turn for turn in conversation.turns if turn.role != "system"]
        if any(turn.role == "tool" or turn.tool_calls for turn in turns):
            raise DataError(f"{conversation.where}: the engine itrex knows no calls of tools; take the row out")
        return {"messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
    if [turn.role for turn in conversation.turns] != ["user", "assistant"]:
        roles = ", ".join(turn.role for turn in conversation.turns)
        raise DataError(
            f"{conversation.where}: the turns are {roles}; for task {task} the engine itrex takes one question and one "
            "answer: set finetuning.task=chat, or leave out --engine itrex"
        )
    user, answer = conversation.turns
    if task == "summarization":
        return {"article": user.document or user.content, "highlights": answer.content}
    asked = {"instruction": user.instruction or user.content, "input": user.input or ""}
    return asked | {"output": answer.content}
