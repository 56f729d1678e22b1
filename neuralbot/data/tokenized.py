"""Conversations -> the ids and labels that a trainer reads, none longer than the model may see.

A row that is too long is cut on the right. An answer that is cut loses its end token, so the model is never taught to
stop in the middle. A long document (an article to be summarized) is shortened first, so that its summary stays whole.
A row without a target left is dropped. All of it is counted and said.

Does not: pad, pack, shuffle, make tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from neuralbot.conversation import Conversation, Encoded, encode, encode_many, encode_prompt, fit_prompt
from neuralbot.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is no target: what PyTorch's cross entropy leaves out
Row = dict[str, list[int]]  # `input_ids` and `labels` (IGNORED = no target), equally long
_BATCH = 512
_MOST_DROPPED = 0.05


@dataclass(frozen=True)
class Tokenized:
    """dropped: rows left without a target. notices: what was cut, shortened or dropped, with counts.

    cut: rows whose last answer lost its end. shortened: rows whose document was shortened.
    """

    rows: list[Row]
    dropped: int
    notices: tuple[str, ...]
    cut: int = 0
    shortened: int = 0


@dataclass
class _Counts:
    shortened: int = 0
    cut: int = 0
    dropped: int = 0


def tokenize(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    train_on_inputs: bool,
    where: str,
) -> Tokenized:
    """Encode the rows with at most `max_seq_length` ids each; `where` names them in messages.

    Raises DataError if no row has a target left, or a row cannot be rendered (with its place).
    """
    counts = _Counts()
    rows = []
    for start in range(0, len(conversations), _BATCH):
        batch = conversations[start : start + _BATCH]
        for conversation, whole in zip(batch, _encoded(batch, tokenizer, train_on_inputs), strict=True):
            fitting = whole
            if len(whole.ids) > max_seq_length:
                fitting = _shortened(conversation, whole, tokenizer, max_seq_length, train_on_inputs, counts)
            row = _row(fitting, max_seq_length, counts)
            if row is not None:
                rows.append(row)
    if not rows:
        raise DataError(
            f"{where}: 0 usable of {len(conversations)} rows: {counts.dropped} have no answer within "
            f"data.max_seq_length={max_seq_length}; raise it, or shorten the questions"
        )
    notices = _notices(counts, len(conversations), max_seq_length, where)
    return Tokenized(rows, counts.dropped, notices, counts.cut, counts.shortened)


def _encoded(batch: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, train_on_inputs: bool) -> list[Encoded]:
    try:
        return encode_many(tokenizer, batch, train_on_inputs=train_on_inputs)
    except (DataError, ModelError):
        return [_encoded_alone(conversation, tokenizer, train_on_inputs) for conversation in batch]


def _encoded_alone(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, train_on_inputs: bool) -> Encoded:
    """One row, with its place in the message if it fails."""
    try:
        return encode(tokenizer, conversation, train_on_inputs=train_on_inputs)
    except (DataError, ModelError) as error:
        raise type(error)(f"{conversation.where}: {error}" if conversation.where else str(error)) from error


def _shortened(
    conversation: Conversation,
    whole: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    train_on_inputs: bool,
    counts: _Counts,
) -> Encoded:
    """The row with its document shortened so that it fits, or as it is if it has none."""
    *asked, answer = conversation.turns
    if not asked or not asked[-1].document:
        return whole
    rest = len(whole.ids) - len(encode_prompt(tokenizer, asked))
    shorter = fit_prompt(tokenizer, asked, max_seq_length - rest)
    if shorter == tuple(asked):
        return whole
    counts.shortened += 1
    return encode(tokenizer, replace(conversation, turns=(*shorter, answer)), train_on_inputs=train_on_inputs)


def _row(encoded: Encoded, max_seq_length: int, counts: _Counts) -> Row | None:
    ids, mask = encoded.ids[:max_seq_length], encoded.target_mask[:max_seq_length]
    # the first id is never predicted, so it cannot be the only target
    if not any(mask[1:]):
        counts.dropped += 1
        return None
    counts.cut += any(encoded.target_mask[max_seq_length:])
    return {
        "input_ids": ids,
        "labels": [index if target else IGNORED for index, target in zip(ids, mask, strict=True)],
    }


def _notices(counts: _Counts, total: int, max_seq_length: int, where: str) -> tuple[str, ...]:
    limit = f"data.max_seq_length={max_seq_length}"
    notices = []
    if counts.shortened:
        notices.append(f"{where}: {counts.shortened} of {total} had their document shortened to fit {limit}")
    if counts.cut:
        notices.append(
            f"{where}: {counts.cut} of {total} have an answer that is cut at {limit}: trained without its end"
        )
    if counts.dropped:
        share = counts.dropped / total
        then = f"; that is {share:.0%} of them: raise it" if share > _MOST_DROPPED else ""
        notices.append(f"{where}: {counts.dropped} of {total} were dropped, no answer is left within {limit}{then}")
    return tuple(notices)
