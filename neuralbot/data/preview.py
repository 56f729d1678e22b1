"""What training will see of a recipe's rows, in figures and in a few rows token by token; needs no model.

Does not: load anything, print (`report` does).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from neuralbot.conversation import Conversation
from neuralbot.data import checks, duplicates
from neuralbot.data.checks import Finding
from neuralbot.data.duplicates import Repeats
from neuralbot.data.splits import Splits, Stream
from neuralbot.data.tokenized import IGNORED, Tokenized, tokenize
from neuralbot.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BINS = 10


@dataclass(frozen=True)
class Lengths:
    """Tokens a row. counts[i] rows have edges[i] to edges[i + 1] - 1 of them."""

    minimum: int
    median: int
    p95: int
    maximum: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Trained:
    """The rows of a split as they are trained on, none longer than the limit.

    tokens, targets: in all rows, and those trained on. ended: rows whose last target is the end token.
    """

    rows: int
    tokens: int
    targets: int
    ended: int
    cut: int
    shortened: int
    dropped: int


@dataclass(frozen=True)
class SplitFigures:
    """lengths: of the whole rows, before any is cut. trained: None for test rows, and where no row can be trained.

    calling: rows in which the assistant calls a tool.
    """

    name: str
    rows: int
    calling: int
    lengths: Lengths
    trained: Trained | None


@dataclass(frozen=True)
class Part:
    """A stretch of a row's text; a special token stands alone."""

    text: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class ShownRow:
    """A training row as it is trained on; `remark` says what had to be done to it, if anything."""

    where: str
    tokens: int
    targets: int
    parts: tuple[Part, ...]
    remark: str


@dataclass(frozen=True)
class Preview:
    limit: int
    splits: tuple[SplitFigures, ...]
    repeats: tuple[Repeats, ...]
    rows: tuple[ShownRow, ...]
    findings: tuple[Finding, ...]


def preview(
    splits: Splits,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    train_on_inputs: bool,
    shown: int,
    max_prompt_length: int | None = None,
    notices: Sequence[str] = (),
) -> Preview:
    """Figures and findings for all splits, and the first `shown` training rows; `limit`: most tokens a row.

    `notices` and those of the splits become findings.

    Raises DataError or ModelError for a row that cannot be rendered, with its place.
    """
    encoder = _Encoder(tokenizer, limit, train_on_inputs, max_prompt_length)
    train = splits.sample()
    repeats = duplicates.find(train, splits.validation, splits.test)
    findings = [Finding("note", notice) for notice in (*notices, *splits.notices)]
    if isinstance(splits.train, Stream):
        findings.append(
            Finding("note", f"the training rows are streamed: the figures are those of the first {len(train):,}")
        )
    figures = []
    for name, rows in (("training", train), ("validation", splits.validation), ("test", splits.test)):
        if not rows:
            continue
        whole = encoder.whole(rows, f"{name} rows")
        fitted = None
        if name != "test":
            fitted, problem = encoder.fitted(rows, whole, f"{name} rows")
            findings += problem
        if name == "training" and fitted:
            findings += checks.fatal(train, fitted, tokenizer)
            findings += checks.warnings(train, fitted, tokenizer, repeats)
        trained = _trained(fitted, checks.end_ids(tokenizer)) if fitted else None
        calling = sum(any(turn.tool_calls for turn in row.turns) for row in rows)
        figures.append(SplitFigures(name, len(rows), calling, lengths(whole.rows.lengths()), trained))
    return Preview(limit, tuple(figures), repeats, tuple(map(encoder.shown, train[:shown])), tuple(findings))


def lengths(values: Sequence[int]) -> Lengths:
    """Figures of at least one length; median and p95 are lengths that occur."""
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // _BINS)
    edges = np.arange(low, high + width + 1, width)
    counts, _ = np.histogram(values, edges)
    median, p95 = (int(found) for found in np.percentile(values, [50, 95], method="inverted_cdf"))
    return Lengths(low, median, p95, high, tuple(map(int, edges)), tuple(map(int, counts)))


def _trained(found: Tokenized, ends: frozenset[int]) -> Trained:
    last = (next(label for label in reversed(row["labels"]) if label != IGNORED) for row in found.rows)
    ended = sum(label in ends for label in last)
    return Trained(
        len(found.rows), found.rows.tokens, found.rows.targets, ended, found.cut, found.shortened, found.dropped
    )


class _Encoder:
    """Rows as ids, whole and as they are trained on, with one tokenizer and one limit."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, limit: int, train_on_inputs: bool, prompt_limit: int | None
    ) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.train_on_inputs = train_on_inputs
        self.prompt_limit = prompt_limit
        added = tokenizer.added_tokens_decoder.items()
        self.special = {index for index, token in added if token.special} | set(tokenizer.all_special_ids)

    def whole(self, rows: Sequence[Conversation], where: str) -> Tokenized:
        return tokenize(rows, self.tokenizer, sys.maxsize, self.train_on_inputs, where)

    def fitted(
        self, rows: Sequence[Conversation], whole: Tokenized, where: str
    ) -> tuple[Tokenized | None, list[Finding]]:
        """The rows within the limit; or None and why, if no row has a target left."""
        if whole.rows.longest <= min(self.limit, self.prompt_limit or self.limit):
            return whole, []
        try:
            return tokenize(rows, self.tokenizer, self.limit, self.train_on_inputs, where, self.prompt_limit), []
        except DataError as error:
            return None, [Finding("fatal", str(error))]

    def shown(self, row: Conversation) -> ShownRow:
        whole = self.whole([row], row.where)
        found, _ = self.fitted([row], whole, row.where)
        ids, labels = ((found or whole).rows[0][key] for key in ("input_ids", "labels"))
        remark = ""
        if found is None:
            labels = [IGNORED] * len(ids)
            remark = f"dropped: no answer is left within {self.limit} tokens"
        elif found.cut:
            remark = f"cut at {self.limit} tokens, without the end of its answer"
        elif found.shortened:
            remark = "its document is shortened to fit"
        targets = sum(label != IGNORED for label in labels)
        return ShownRow(row.where, len(ids), targets, tuple(self._parts(ids, labels)), remark)

    def _parts(self, ids: list[int], labels: list[int]) -> Iterator[Part]:
        """Runs of ids that are alike. Decoded from the row's beginning: tokenizers treat a first token apart."""
        before, end = "", 0
        kinds = ((label != IGNORED, index in self.special) for index, label in zip(ids, labels, strict=True))
        for (trained, special), run in groupby(kinds):
            for size in [1] * len(list(run)) if special else [len(list(run))]:
                end += size
                text = self.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
                yield Part(text[len(before) :], trained, special)
                before = text
