"""Which rows are trained on, which measure the loss meanwhile, which are scored at the end.

Validation rows come from their own file or split, or are held back from the training rows by a seeded hash of each
row's question: the same question is always on the same side, and rows appended later move none that were there before.
Training rows are in memory; those of data.streaming, or of files that are large beside the memory, are a `Stream`.

Does not: shuffle (the trainer does, seeded; `streaming` for streams), read files (`origins`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from neuralbot import hardware
from neuralbot.conversation import Conversation
from neuralbot.data import origins
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.mixing import Mix
from neuralbot.data.origins import Origin, Origins
from neuralbot.errors import DataError

if TYPE_CHECKING:
    from neuralbot.arguments import DataArguments

# Rows in memory take three times the size of their file, short ones twelve times, and the model needs room too.
SHARE_OF_MEMORY = 32  # one part of so many
STREAMED_EVAL_ROWS = 1000
SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Splits:
    """Conversations by use; `validation` and `test` may be empty.

    notices: what was adapted or looks wrong. fingerprint: source -> sha256 of its bytes (of its rows, for the hub).
    detected: one sentence for each source, as what it was read and why. used: source -> its rows in an epoch.
    bad: the rows that were left out so far.
    """

    train: tuple[Conversation, ...] | Stream
    validation: tuple[Conversation, ...]
    test: tuple[Conversation, ...]
    notices: tuple[str, ...]
    fingerprint: dict[str, str]
    detected: tuple[str, ...] = ()
    used: dict[str, int] = field(default_factory=dict)
    bad: BadRows = field(default_factory=BadRows)

    def sample(self) -> tuple[Conversation, ...]:
        """All training rows; of a Stream the first SAMPLE_ROWS."""
        return self.train.head() if isinstance(self.train, Stream) else self.train


class Stream:
    """Training rows that are read and divided anew in each iteration; only one at a time is in memory.

    used: source -> its rows in an epoch, once `count` has been asked.
    """

    def __init__(
        self, mix: Mix[Conversation], names: Sequence[str], limit: int | None, held_out: frozenset[bytes]
    ) -> None:
        self.used: dict[str, int] = {}
        self._mix, self._names, self._limit, self._held_out = mix, names, limit, held_out
        self._repeated: set[bytes] = set()

    def __iter__(self) -> Iterator[Conversation]:
        for row in itertools.islice(self._mix, self._limit):
            if self._held_out and (digest := _digest(row)) in self._held_out:
                self._repeated.add(digest)
            yield row

    def head(self) -> tuple[Conversation, ...]:
        """The first SAMPLE_ROWS rows."""
        return tuple(itertools.islice(self, SAMPLE_ROWS))

    def count(self) -> int:
        """The rows of an epoch; reads them all. Raises DataError as reading does."""
        before = list(self._mix.taken)
        count = sum(1 for _ in self)
        taken = [now - then for now, then in zip(self._mix.taken, before, strict=True)]
        self.used = dict(zip(self._names, taken, strict=True))
        return count

    def notices(self) -> list[str]:
        """What was found while reading."""
        if not self._repeated:
            return []
        count = _count(len(self._repeated), "question")
        return [f"{count} of the held-out rows are asked by training rows too: their scores may flatter"]


def load_splits(data: DataArguments, task: str, *, do_eval: bool, token: str | None = None) -> Splits:
    """Read and divide the rows that `data` names. `token` opens gated data sets of the hub.

    do_eval: validation rows are wanted; DataError if there are none and `validation_split_percentage` is 0.
    Raises DataError, also for everything that is wrong with a file or row; of a Stream only with the rows read so far.
    """
    _check(data)
    bad = BadRows(data.on_bad_row, data.max_bad_rows)
    found = origins.find(data, task, bad, do_eval=do_eval, token=token)
    if do_eval and found.validation and data.validation_split_percentage:
        found.notices.append("data.validation_split_percentage is not used: there are validation rows of their own")
    _check_weights(found.train)
    hold_back = do_eval and found.validation is None
    large = None if data.streaming else _too_large(found.train)
    divide = _streamed if data.streaming or large else _in_memory
    splits = divide(data, found, tuple(found.test or ()), hold_back=hold_back)
    read = [*found.train, *(origin for origin in (found.validation, found.test) if origin)]
    return replace(
        splits,
        notices=(*found.notices, *([large] if large else []), *splits.notices, *bad.said()),
        fingerprint={origin.name: origin.sha256() for origin in read},
        detected=(*(line for origin in read for line in origin.describe()), *splits.detected),
        bad=bad,
    )


def _check(data: DataArguments) -> None:
    if not (data.train_file or data.dataset_name or data.sources):
        raise DataError("there are no training rows: give data.train_file or data.dataset_name")
    for key in ("max_train_samples", "max_eval_samples"):
        limit = getattr(data, key)
        if limit is not None and limit < 1:
            raise DataError(f"data.{key} is {limit}; expected 1 or more, or leave it out to use all rows")


def _check_weights(train: Sequence[Origin]) -> None:
    without = [origin.name for origin in train if origin.weight is None]
    if 0 < len(without) < len(train):
        raise DataError(f"data.sources: {without[0]} has no weight, others have; give every source a weight, or none")


def _too_large(train: Sequence[Origin]) -> str | None:
    """What is said where the files are too large to be held in memory."""
    size, memory = sum(origin.size for origin in train), hardware.probe().memory_bytes
    if not memory or size <= memory // SHARE_OF_MEMORY:
        return None
    return (
        f"the training files hold about {size / 2**30:.1f} GiB, more than 1/{SHARE_OF_MEMORY} of the memory "
        f"({memory / 2**30:.1f} GiB): they are streamed, as with data.streaming: true"
    )


# In memory


def _in_memory(data: DataArguments, found: Origins, test: tuple[Conversation, ...], *, hold_back: bool) -> Splits:
    rows = [list(origin) for origin in found.train]
    validation = list(found.validation or ())
    notices: list[str] = []
    if hold_back:
        rows, validation = _hold_back(data, rows, notices)
    _refuse_empty(found.train, rows)
    mix = Mix(rows, [origin.weight or len(kept) for origin, kept in zip(found.train, rows, strict=True)])
    _note_limit(data.max_train_samples, sum(map(len, rows)), "data.max_train_samples", notices)
    train = tuple(itertools.islice(mix, data.max_train_samples))
    _note_limit(data.max_eval_samples, len(validation), "data.max_eval_samples", notices)
    kept = tuple(validation[: data.max_eval_samples])
    used = dict(zip([origin.name for origin in found.train], mix.taken, strict=True))
    notices += _overlaps(train, kept, test)
    detected = _shares(found.train, rows, mix.taken) if len(rows) > 1 else []
    return Splits(train, kept, test, tuple(notices), {}, tuple(detected), used)


def _hold_back(
    data: DataArguments, rows: Sequence[list[Conversation]], notices: list[str]
) -> tuple[list[list[Conversation]], list[Conversation]]:
    """A share of the rows of each source for validation; at least one row in all."""
    percent = _percent(data)
    shares = [[_share(row, data.dataset_seed) for row in source] for source in rows]
    edge, lowest = percent / 100, min(itertools.chain.from_iterable(shares), default=1.0)
    count = _count(sum(map(len, rows)), "row")
    if lowest >= edge:
        edge = lowest * (1 + 1e-9) + 1e-12
        notices.append(f"data.validation_split_percentage={percent} of {count} came to none: one is held back")
    pairs = [list(zip(source, share, strict=True)) for source, share in zip(rows, shares, strict=True)]
    train = [[row for row, share in source if share >= edge] for source in pairs]
    if not any(train):
        raise DataError(
            f"data.validation_split_percentage={percent} of {count} leaves none to train on; "
            "give more training rows, or validation rows of their own as data.validation_file"
        )
    return train, [row for source in pairs for row, share in source if share < edge]


def _percent(data: DataArguments) -> int:
    percent = data.validation_split_percentage
    if not 0 < percent < 100:
        raise DataError(
            f"evaluation needs validation rows, but there is no validation file or split, and "
            f"data.validation_split_percentage is {percent}; set it to 1 to 99, or give data.validation_file"
        )
    return percent


def _refuse_empty(train: Sequence[Origin], rows: Sequence[Sequence[Conversation]]) -> None:
    empty = [origin.name for origin, kept in zip(train, rows, strict=True) if not kept]
    if empty:
        raise DataError(f"{empty[0]}: no rows are left to train on; give it more rows, or take it out of data.sources")


def _note_limit(limit: int | None, present: int, key: str, notices: list[str]) -> None:
    if limit is not None and limit > present:
        notices.append(f"{key}={limit}, but there are only {_count(present, 'row')}: all are used")


def _shares(train: Sequence[Origin], rows: Sequence[Sequence[Conversation]], taken: Sequence[int]) -> list[str]:
    """How many rows of an epoch come from each source."""
    total, lines = sum(taken), []
    for origin, kept, count in zip(train, rows, taken, strict=True):
        weight = "" if origin.weight is None else f", weight {origin.weight:g}"
        times = f"; each of its {len(kept):,} rows {count / len(kept):.1f} times" if count > len(kept) else ""
        lines.append(f"{origin.name}: {count:,} of the {total:,} rows of an epoch ({count / total:.0%}{weight}){times}")
    return lines


# Streamed


def _streamed(data: DataArguments, found: Origins, test: tuple[Conversation, ...], *, hold_back: bool) -> Splits:
    for origin in found.train:
        origin.detect()
    if len(found.train) > 1 and found.train[0].weight is None:
        raise DataError("data.sources: give every source a weight; how many rows streamed sources have is not known")
    notices: list[str] = []
    weights = [origin.weight or 1.0 for origin in found.train]
    sources: list[Iterable[Conversation]] = [*found.train]
    limit = data.max_eval_samples or STREAMED_EVAL_ROWS
    if hold_back:
        edge = _percent(data) / 100
        validation = _first_held_back(data, found.train, weights, edge, limit)
        sources = [_Kept(origin, data.dataset_seed, edge) for origin in found.train]
    else:
        validation = tuple(itertools.islice(found.validation or (), limit))
    if len(validation) == limit and data.max_eval_samples is None:
        notices.append(f"data.max_eval_samples is not set: of the streamed rows the first {limit:,} are validated on")
    held_out = frozenset(_digest(row) for row in (*(() if hold_back else validation), *test))
    train = Stream(Mix(sources, weights), [origin.name for origin in found.train], data.max_train_samples, held_out)
    return Splits(train, validation, test, (*notices, *_overlaps((), validation, test)), {})


class _Kept:
    """The rows of an origin that are not held back."""

    def __init__(self, rows: Iterable[Conversation], seed: int, edge: float) -> None:
        self._rows, self._seed, self._edge = rows, seed, edge

    def __iter__(self) -> Iterator[Conversation]:
        return (row for row in self._rows if _share(row, self._seed) >= self._edge)


def _first_held_back(
    data: DataArguments, train: Sequence[Origin], weights: Sequence[float], edge: float, limit: int
) -> tuple[Conversation, ...]:
    """The first validation rows of each source, in the shares of their weights; no more is read than they need."""
    found: list[Conversation] = []
    for origin, weight in zip(train, weights, strict=True):
        held_back = (row for row in origin if _share(row, data.dataset_seed) < edge)
        found += itertools.islice(held_back, math.ceil(limit * weight / sum(weights)))
    if not found:
        raise DataError(
            f"data.validation_split_percentage={data.validation_split_percentage} holds back none of the rows; "
            "raise it, or give validation rows of their own as data.validation_file"
        )
    return tuple(found[:limit])


# Questions, by which rows are told apart


def question(row: Conversation) -> bytes:
    """What is asked in a row, as bytes: all but the answers; the text itself where it is plain text."""
    asked = [turn for turn in row.turns if turn.role != "assistant"] or row.turns
    return json.dumps([[turn.role, turn.content] for turn in asked], ensure_ascii=False).encode()


def _share(row: Conversation, seed: int) -> float:
    """A number in 0..1 that depends on the row's question and the seed alone."""
    digest = hashlib.sha256(f"{seed}\x00".encode() + question(row)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _digest(row: Conversation) -> bytes:
    return hashlib.blake2b(question(row), digest_size=16).digest()


def _overlaps(
    train: Iterable[Conversation], validation: Sequence[Conversation], test: Sequence[Conversation]
) -> list[str]:
    """A notice for each pair of splits that ask the same questions: scores on those rows prove nothing."""
    held_out = {"validation": Counter(map(_digest, validation)), "test": Counter(map(_digest, test))}
    in_train = {
        digest for row in train if (digest := _digest(row)) in held_out["validation"] or digest in held_out["test"]
    }
    seen = {"train": in_train, "validation": held_out["validation"].keys()}
    notices = []
    for name, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        count = sum(times for digest, times in held_out[name].items() if digest in seen[other])
        if count:
            of = f"{count} of {_count(held_out[name].total(), f'{name} row')}"
            notices.append(f"{of} ask what the {other} rows ask too: their scores may flatter")
    return notices


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
