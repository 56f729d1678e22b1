"""Prompts of so many tokens, cut out of the shipped Alpaca rows. Only two begin alike: those with the system prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.generation.job import Prompt, Prompts
from neuralbot.conversation import Turn, encode_prompt, ensure_chat_template
from neuralbot.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTIONS = ("What is the opposite of hot?", "Sort these words: pear, cat.")


def write(
    path: Path, tokenizer: PreTrainedTokenizerBase, rows: Path, *, length: int, system: int, many: int, singles: int = 2
) -> None:
    """length: tokens of a prompt with its template. system: tokens of the system prompt's text. Raises UsageError."""
    ensure_chat_template(tokenizer, "chat")
    text = " ".join(f"{row['instruction']} {row['input']} {row['output']}" for row in _rows(rows))
    made = [_of_length(tokenizer, text, number, length) for number in range(1 + singles + many)]
    shared = _cut(text, system, lambda part: len(tokenizer(part, add_special_tokens=False)["input_ids"]))
    cold, warm = (_prompt(tokenizer, ["system", shared], ["user", question]) for question in _QUESTIONS)
    prompts = Prompts(made[0], made[1 : 1 + singles], made[1 + singles :], cold, warm)
    path.write_text(json.dumps(asdict(prompts)), encoding="utf-8")


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _of_length(tokenizer: PreTrainedTokenizerBase, text: str, number: int, length: int) -> Prompt:
    own = f"{number + 1}. {text[5000 * (number + 1) :]}"
    return _asking(tokenizer, _cut(own, length, lambda part: len(_asking(tokenizer, part).ids)))


def _asking(tokenizer: PreTrainedTokenizerBase, text: str) -> Prompt:
    return _prompt(tokenizer, ["user", text])


def _prompt(tokenizer: PreTrainedTokenizerBase, *turns: list[str]) -> Prompt:
    ids = encode_prompt(tokenizer, [Turn(role, content) for role, content in turns])  # type: ignore[arg-type]
    return Prompt(list(turns), ids)


def _cut(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """The beginning of the text that has just so many tokens; not every cut adds one. Raises UsageError."""
    end = 0
    while end < len(text) and (missing := tokens - count(text[:end])) > 0:
        end += max(1, missing)  # a token has a character at least, so this is never too far
    while end and count(text[:end]) > tokens:
        end -= 1
    if end == 0 or count(text[:end]) != tokens:
        raise UsageError(f"no beginning of the rows has {tokens} tokens: take another number")
    return text[:end]
