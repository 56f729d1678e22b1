"""Divided rows -> what a run trains with: rows in the cache or in memory, or a stream; and what is said about them.

Does not: read files (`splits`), train.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from neuralbot.data import checks
from neuralbot.data.preview import lengths
from neuralbot.data.splits import Splits, Stream
from neuralbot.data.streaming import StreamedRows
from neuralbot.data.token_cache import tokenize_or_recall
from neuralbot.data.tokenized import Tokenized, Tokenizing, TokenRows, tokenize, with_short_documents
from neuralbot.progress import Show, unseen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.arguments import DataArguments


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run. Of `splits` the training rows are gone, unless they are a Stream: they are in `train`.

    train: all training rows; of a stream the first, to see what they are like. longest: no row has more tokens.
    stream: what is trained on instead of `train`.
    """

    splits: Splits
    train: Tokenized
    validation: Tokenized | None
    longest: int
    stream: StreamedRows | None = None

    @property
    def trained_on(self) -> TokenRows | StreamedRows:
        return self.train.rows if self.stream is None else self.stream

    @property
    def mean_length(self) -> float:
        """Tokens of the mean training row; of a stream, of the first ones."""
        return self.train.rows.tokens / len(self.train.rows)

    @property
    def notices(self) -> tuple[str, ...]:
        validation = self.validation.notices if self.validation else ()
        return (*self.splits.notices, *self.train.notices, *validation)

    def describe(self) -> str:
        """One line: rows of each use, tokens, and the share of them that is trained on."""
        rows, splits = self.train.rows, self.splits
        share = f"{rows.targets / rows.tokens:.0%} of them trained on"
        count = f"{len(rows):,} training rows ({rows.tokens:,} tokens, {share})"
        if self.stream is not None:
            count = f"training rows streamed (the first {len(rows):,}: {self.mean_length:.0f} tokens each, {share})"
        return f"{count}, {len(splits.validation):,} validation, {len(splits.test):,} test"

    def count_stream(self) -> int:
        """The rows of an epoch; reads them all."""
        return self.splits.train.count() if isinstance(self.splits.train, Stream) else len(self.train.rows)

    def later_notices(self) -> list[str]:
        """What reading a stream brought to light since; empty for rows that were read in whole."""
        if self.stream is None or not isinstance(self.splits.train, Stream):
            return []
        found = (*self.stream.tokenizing.notices(), *self.splits.train.notices(), *self.splits.bad.said())
        return [notice for notice in found if notice not in self.notices]

    def manifest(self) -> dict[str, Any]:
        """Fingerprint, rows, tokens, and the lengths of the rows as they are trained on (of a stream: the first ones).

        What is not known of a stream is left out.
        """
        splits, rows = self.splits, self.train.rows
        counts = {"validation": len(splits.validation), "test": len(splits.test)}
        known: dict[str, Any] = {
            "fingerprint": splits.fingerprint,
            "skipped_rows": len(splits.bad.found),
            "lengths": asdict(lengths(rows.lengths())),
        }
        if isinstance(splits.train, Stream):
            used = splits.train.used
            counts |= {"train": sum(used.values())} if used else {}
            known["streamed"] = True
        else:
            used = splits.used
            counts["train"] = len(rows)
            known["tokens"] = {"train": rows.tokens, "targets": rows.targets}
        return known | {"rows": counts, "sources": used if len(used) > 1 else {}}


def tokenize_splits(
    splits: Splits,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    train_on_inputs: bool,
    data: DataArguments,
    say: Callable[[str], None],
    show: Show = unseen,
) -> TrainingData:
    """Tokenize the training and the validation rows, with the progress in `show`.

    Raises as `tokenize` does, and DataError for a fatal finding.
    """
    settings, longest_prompt = (tokenizer, max_seq_length, train_on_inputs), data.max_prompt_length
    if longest_prompt:
        splits = _with_short_documents(splits, tokenizer, longest_prompt)
    recall = partial(
        tokenize_or_recall, max_prompt_length=longest_prompt, overwrite=data.overwrite_cache, say=say, show=show
    )
    validation = recall(splits.validation, *settings, "validation rows") if splits.validation else None
    if isinstance(splits.train, Stream):
        head = splits.sample()
        train = tokenize(head, *settings, f"the first {len(head)} training rows", longest_prompt)
        checks.stop(checks.fatal(head, train, tokenizer))
        stream = StreamedRows(splits.train, Tokenizing(*settings, "training rows", longest_prompt), data.dataset_seed)
        return TrainingData(splits, train, validation, max_seq_length, stream)
    train = recall(splits.train, *settings, "training rows")
    checks.stop(checks.fatal(splits.train, train, tokenizer))
    longest = max(train.rows.longest, validation.rows.longest if validation else 0)
    return TrainingData(replace(splits, train=()), train, validation, longest)


def _with_short_documents(splits: Splits, tokenizer: PreTrainedTokenizerBase, limit: int) -> Splits:
    """The test rows, too, are asked with documents as long as those that were trained on."""
    test, count = with_short_documents(splits.test, tokenizer, limit)
    said = f"test rows: {count} of {len(test)} had their document shortened to fit data.max_prompt_length={limit}"
    return replace(splits, test=test, notices=(*splits.notices, *([said] if count else [])))
