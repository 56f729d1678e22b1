"""Conversations -> the ids and labels that a trainer reads, none longer than the model may see.

A row that is too long is cut on the right. An answer that is cut loses its end token, so the model is never taught to
stop in the middle. A long document (an article to be summarized) is shortened first, so that its summary stays whole.
A row without a target left is dropped. All of it is counted and said.

Does not: pad, pack, shuffle, make tensors, keep anything on the disk (`token_cache`).
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neuralbot.conversation import Conversation, Encoded, Turn, encode, encode_many, encode_prompt, fit_prompt
from neuralbot.errors import DataError, ModelError
from neuralbot.progress import Report, Show, unseen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is no target: what PyTorch's cross entropy leaves out
Row = dict[str, list[int]]  # `input_ids` and `labels` (IGNORED = no target), equally long
_BATCH = 512
_MOST_DROPPED = 0.05


class TokenRows(Sequence[Row]):
    """Rows in three arrays, a tenth of what lists of numbers take; they may be mapped from a file.

    ids, labels: int32, those of all rows one after another. ends: int64, where each row ends in them.
    """

    def __init__(self, ids: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> None:
        self.ids, self.labels, self.ends = ids, labels, ends

    @classmethod
    def of(cls, rows: Iterable[Row]) -> TokenRows:
        ids, labels, ends = array("i"), array("i"), array("q")
        for row in rows:
            ids.extend(row["input_ids"])
            labels.extend(row["labels"])
            ends.append(len(ids))
        return cls(np.asarray(ids), np.asarray(labels), np.asarray(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # nobody asks for slices
        place = range(len(self.ends))[index]
        start, end = self.ends[place - 1] if place else 0, self.ends[place]
        return {"input_ids": self.ids[start:end].tolist(), "labels": self.labels[start:end].tolist()}

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> int:
        """Tokens that are trained on."""
        return int((self.labels != IGNORED).sum())

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths(), default=0)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        found: list[int] = np.diff(self.ends, prepend=0).tolist()
        return found


@dataclass(frozen=True)
class Tokenized:
    """dropped: rows left without a target. notices: what was cut, shortened or dropped, with counts.

    cut: rows whose answer lost its end. shortened: rows whose document was shortened.
    """

    rows: TokenRows
    dropped: int
    notices: tuple[str, ...]
    cut: int = 0
    shortened: int = 0


class Tokenizing:
    """Makes rows of conversations with one tokenizer and at most `max_seq_length` ids each, and counts what it does.

    where: names the rows in messages. max_prompt_length: most ids of a question with a document, which is shortened.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_seq_length: int,
        train_on_inputs: bool,
        where: str,
        max_prompt_length: int | None = None,
    ) -> None:
        self.where = where
        self._prompt_limit = max_prompt_length
        self.total = self.shortened = self.cut = self.dropped = self.long = 0
        self._tokenizer, self._limit, self._train_on_inputs = tokenizer, max_seq_length, train_on_inputs

    def rows(self, conversations: Iterable[Conversation]) -> Iterator[Row]:
        """The rows that have a target within the limit. Raises as `encode` does, with the place of the row."""
        waiting = iter(conversations)
        doubtful = min(self._limit, self._prompt_limit or self._limit)
        while batch := list(itertools.islice(waiting, _BATCH)):
            for conversation, whole in zip(batch, self._encoded(batch), strict=True):
                self.total += 1
                row = self._row(whole if len(whole.ids) <= doubtful else self._shortened(conversation, whole))
                if row is not None:
                    yield row

    def done(self, rows: TokenRows) -> Tokenized:
        """The rows with all that was counted. Raises DataError if there are none."""
        if not rows:
            raise DataError(
                f"{self.where}: 0 usable of {self.total} rows: {self.dropped} have no answer within "
                f"data.max_seq_length={self._limit}; raise it, or shorten the questions"
            )
        return Tokenized(rows, self.dropped, tuple(self.notices()), self.cut, self.shortened)

    def notices(self) -> list[str]:
        limit, of = f"data.max_seq_length={self._limit}", f"of {self.total}"
        notices = []
        if self.shortened:
            prompt = f" and data.max_prompt_length={self._prompt_limit}" if self._prompt_limit else ""
            notices.append(f"{self.where}: {self.shortened} {of} had their document shortened to fit {limit}{prompt}")
        if self.long:
            long = f"{self.long} {of} ask in more than data.max_prompt_length={self._prompt_limit} tokens"
            notices.append(f"{self.where}: {long}, but not about a document that could be shortened: kept as they are")
        if self.cut:
            cut = f"{self.cut} {of} have an answer that is cut at {limit}"
            notices.append(f"{self.where}: {cut}: trained without its end")
        if self.dropped:
            share = self.dropped / self.total
            then = f"; that is {share:.0%} of them: raise it" if share > _MOST_DROPPED else ""
            notices.append(f"{self.where}: {self.dropped} {of} were dropped, no answer is left within {limit}{then}")
        return notices

    def _encoded(self, batch: Sequence[Conversation]) -> list[Encoded]:
        try:
            return encode_many(self._tokenizer, batch, train_on_inputs=self._train_on_inputs)
        except (DataError, ModelError):
            return [self._encoded_alone(conversation) for conversation in batch]

    def _encoded_alone(self, conversation: Conversation) -> Encoded:
        """One row, with its place in the message if it fails."""
        try:
            return encode(self._tokenizer, conversation, train_on_inputs=self._train_on_inputs)
        except (DataError, ModelError) as error:
            raise type(error)(f"{conversation.where}: {error}" if conversation.where else str(error)) from error

    def _shortened(self, conversation: Conversation, whole: Encoded) -> Encoded:
        """The row with its document shortened so that it fits, or as it is if it has none."""
        *asked, answer = conversation.turns
        if not asked or not asked[-1].document:
            self.long += bool(asked and self._prompt_limit) and self._is_long(asked)
            return whole
        rest = len(whole.ids) - len(encode_prompt(self._tokenizer, asked))
        room = min(self._limit - rest, self._prompt_limit or self._limit)
        shorter = fit_prompt(self._tokenizer, asked, room)
        if shorter == tuple(asked):
            return whole
        self.shortened += 1
        turns = (*shorter, answer)
        return encode(self._tokenizer, replace(conversation, turns=turns), train_on_inputs=self._train_on_inputs)

    def _is_long(self, asked: Sequence[Turn]) -> bool:
        return len(encode_prompt(self._tokenizer, asked)) > (self._prompt_limit or self._limit)

    def _row(self, encoded: Encoded) -> Row | None:
        ids, mask = encoded.ids[: self._limit], encoded.target_mask[: self._limit]
        # the first id is never predicted, so it cannot be the only target
        if not any(mask[1:]):
            self.dropped += 1
            return None
        self.cut += any(encoded.target_mask[self._limit :])
        return {
            "input_ids": ids,
            "labels": [index if target else IGNORED for index, target in zip(ids, mask, strict=True)],
        }


def tokenize(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    train_on_inputs: bool,
    where: str,
    max_prompt_length: int | None = None,
    show: Show = unseen,
) -> Tokenized:
    """Encode the rows with at most `max_seq_length` ids each; the arguments are those of Tokenizing.

    show: the progress, titled by `where`.
    Raises DataError if no row has a target left, or a row cannot be rendered (with its place).
    """
    tokenizing = Tokenizing(tokenizer, max_seq_length, train_on_inputs, where, max_prompt_length)
    with show(f"tokenizing {where}") as report:
        return tokenizing.done(TokenRows.of(tokenizing.rows(_reported(conversations, report))))


def _reported(conversations: Sequence[Conversation], report: Report) -> Iterator[Conversation]:
    for done, conversation in enumerate(conversations):
        if done % _BATCH == 0:
            report(done, len(conversations))
        yield conversation


def with_short_documents(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int
) -> tuple[tuple[Conversation, ...], int]:
    """The rows with their last question in at most so many ids, as far as documents can be shortened; how many were."""
    fitted, count = [], 0
    for row in conversations:
        *asked, answer = row.turns
        shorter = fit_prompt(tokenizer, asked, max_prompt_length) if asked and asked[-1].document else tuple(asked)
        count += shorter != tuple(asked)
        fitted.append(replace(row, turns=(*shorter, answer)))
    return tuple(fitted), count
