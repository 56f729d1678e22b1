"""What is wrong with rows before they are trained on: pure functions over training rows and their tokens.

A fatal finding means that training would teach nothing, or never to stop: it stops a run before the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from neuralbot.conversation import Conversation, end_token
from neuralbot.data.duplicates import Repeats
from neuralbot.data.tokenized import IGNORED, Tokenized
from neuralbot.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MANY = 0.05  # share of the rows from which on a loss or a repetition is more than a detail


@dataclass(frozen=True)
class Finding:
    level: Literal["note", "warning", "fatal"]
    text: str


def fatal(rows: Sequence[Conversation], train: Tokenized, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """What makes the training rows useless. `train`: the rows, tokenized."""
    ends = end_ids(tokenizer)
    found = (_endless(rows, train, tokenizer, ends), _one_token(train, tokenizer, ends))
    return [Finding("fatal", text) for text in found if text]


def warnings(
    rows: Sequence[Conversation], train: Tokenized, tokenizer: PreTrainedTokenizerBase, repeats: Sequence[Repeats]
) -> list[Finding]:
    """What can be trained on but should be looked at."""
    inside = next((found for found in repeats if found.split == found.of == "train"), None)
    found = (_lost(train), _shortened(train), _unknown(train, tokenizer), _one_answer(rows))
    return [
        *(Finding("warning", text) for text in found if text),
        *(_repeated(inside, len(rows)) if inside else ()),
    ]


def stop(findings: Iterable[Finding]) -> None:
    """Raise DataError if any of the findings is fatal."""
    if texts := [finding.text for finding in findings if finding.level == "fatal"]:
        raise DataError("these rows cannot be trained on: " + "; ".join(texts))


def end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end a row: of the token that the chat template closes answers with, and of the tokenizer's eos."""
    ids = (tokenizer.convert_tokens_to_ids(end_token(tokenizer)), tokenizer.eos_token_id)
    return frozenset(index for index in ids if index is not None)


def _endless(
    rows: Sequence[Conversation], train: Tokenized, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]
) -> str | None:
    if np.isin(train.rows.labels, list(ends)).any():
        return None
    if all(row.is_plain_text for row in rows):
        return None  # long texts may well be cut; only answers have to come to an end
    what = f"the end token {end_token(tokenizer)!r} is trained in none of {len(train.rows)} rows"
    if train.cut == len(train.rows):
        return (
            f"{what}, because every answer is cut at {train.rows.longest} tokens, so the model would never learn "
            "to stop; raise data.max_seq_length (up to what the model reads), or shorten the rows"
        )
    return f"{what}, so the model would never learn to stop; give the tokenizer another chat template"


def _one_token(train: Tokenized, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> str | None:
    tokens = sorted(set(np.unique(train.rows.labels).tolist()) - ends - {IGNORED})
    if len(train.rows) < 2 or len(tokens) != 1:
        return None
    return (
        f"everything that is trained on is one token, {tokenizer.decode(tokens)!r}, in all of {len(train.rows)} rows; "
        "check the column of the answers, and whether the tokenizer knows the language of the text"
    )


def _lost(train: Tokenized) -> str | None:
    total = len(train.rows) + train.dropped
    if train.cut + train.dropped <= _MANY * total:
        return None
    return (
        f"{(train.cut + train.dropped) / total:.0%} of the training rows lose the end of their answer, or all of it, "
        "to data.max_seq_length; raise it, or shorten the rows"
    )


def _shortened(train: Tokenized) -> str | None:
    if train.shortened <= _MANY * len(train.rows):
        return None
    share = train.shortened / len(train.rows)
    return (
        f"{share:.0%} of the training rows have their document shortened to data.max_seq_length: what is asked about "
        "may be gone; raise it, or shorten the documents"
    )


def _unknown(train: Tokenized, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Text that the tokenizer cannot spell; a token that is also start, end or padding says nothing."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return None
    count = int((train.rows.ids == unknown).sum())
    if not count:
        return None
    return (
        f"{count:,} of {train.rows.tokens:,} tokens of the training rows are {tokenizer.unk_token!r}: text that "
        "the tokenizer cannot spell is lost; choose a model that knows the language of the text"
    )


def _one_answer(rows: Sequence[Conversation]) -> str | None:
    answers = (turn.shown for row in rows for turn in row.turns if turn.role == "assistant")
    first = next(answers)
    if len(rows) < 2 or any(answer != first for answer in answers):
        return None
    return f"all {len(rows)} training rows have the same answer: the model would learn to repeat it"


def _repeated(inside: Repeats, total: int) -> Iterable[Finding]:
    if inside.rows:
        yield Finding(
            "warning" if inside.rows > _MANY * total else "note",
            f"{inside.rows:,} of {total:,} training rows are the same as an earlier one: they count more than others",
        )
    if other := inside.questions - inside.rows:
        yield Finding(
            "warning" if other > _MANY * total else "note",
            f"{other:,} of {total:,} training rows answer the question of an earlier one in another way",
        )
