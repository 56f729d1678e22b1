"""Which rows are trained on, which measure the loss meanwhile, which are scored at the end.

Validation rows come from their own file or split, or are held back from the training rows by a seeded hash of each
row's question: the same question is always on the same side, and rows appended later move none that were there before.

Does not: shuffle (the trainer does, seeded), stream, mix several sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.conversation import Conversation
from neuralbot.data import formats, hub_rows, sources
from neuralbot.data.bad_rows import BadRows
from neuralbot.errors import DataError

if TYPE_CHECKING:
    from neuralbot.arguments import DataArguments

_ROLES = ("train", "validation", "test")
# hub data sets do not agree on the names of their splits
_HUB_NAMES = {
    "train": ("train", "train_sft"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "test_sft"),
}


@dataclass(frozen=True)
class Splits:
    """Conversations by use; `validation` and `test` may be empty.

    notices: what was adapted or looks wrong. fingerprint: source -> sha256 of its bytes (of its rows, for the hub).
    detected: one sentence for each source, as what it was read and why.
    """

    train: tuple[Conversation, ...]
    validation: tuple[Conversation, ...]
    test: tuple[Conversation, ...]
    notices: tuple[str, ...]
    fingerprint: dict[str, str]
    detected: tuple[str, ...] = ()


def load_splits(data: DataArguments, task: str, *, do_eval: bool, token: str | None = None) -> Splits:
    """Read and divide the rows that `data` names. `token` opens gated data sets of the hub.

    do_eval: validation rows are wanted; DataError if there are none and `validation_split_percentage` is 0.
    Raises DataError, also for everything that is wrong with a file or row.
    """
    reader = _Reader(task, data.columns)
    _read_files(data, reader, do_eval=do_eval)
    if data.dataset_name:
        _read_hub(data, reader, do_eval=do_eval, token=token)
    if not reader.rows.get("train"):
        raise DataError("there are no training rows: give data.train_file or data.dataset_name")
    if do_eval and "validation" not in reader.rows:
        _hold_back(data, reader)
    elif do_eval and data.validation_split_percentage:
        reader.notices.append("data.validation_split_percentage is not used: there are validation rows of their own")
    _limit(reader, "train", data.max_train_samples, "data.max_train_samples")
    _limit(reader, "validation", data.max_eval_samples, "data.max_eval_samples")
    train, validation, test = (tuple(reader.rows.get(role, ())) for role in _ROLES)
    notices = (*reader.notices, *_overlaps(train, validation, test))
    return Splits(train, validation, test, notices, reader.fingerprint, tuple(reader.detected))


class _Reader:
    """Collects what has been read so far."""

    def __init__(self, task: str, mapping: Mapping[str, str] | None) -> None:
        self.task = task
        self.mapping = mapping
        self.rows: dict[str, list[Conversation]] = {}
        self.notices: list[str] = []
        self.fingerprint: dict[str, str] = {}
        self.detected: list[str] = []

    def file(self, role: str, name: str) -> None:
        path = Path(name)
        rows = sources.read_rows(path)
        self.fingerprint[name] = file_sha256(path)
        self._add(role, rows, name)

    def hub(self, role: str, rows: list[dict[str, Any]], name: str) -> None:
        self.fingerprint[name] = _rows_sha256(rows)
        self._add(role, rows, name)

    def _add(self, role: str, rows: list[dict[str, Any]], name: str) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        try:
            fmt = formats.detect(columns, self.task, self.mapping)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        bad = BadRows()
        self.rows[role] = list(formats.conversations(rows, fmt, name, bad))
        self.detected.append(f"{name}: {len(rows)} rows, {fmt.reason}")
        self.notices += bad.notices


def _read_files(data: DataArguments, reader: _Reader, *, do_eval: bool) -> None:
    wanted = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    for role, name in wanted.items():
        if not name:
            continue
        if role == "validation" and not do_eval:
            reader.notices.append(f"data.validation_file {name} is not read: evaluation is off (training.do_eval)")
        else:
            reader.file(role, name)


def _read_hub(data: DataArguments, reader: _Reader, *, do_eval: bool, token: str | None) -> None:
    """The splits that no file was given for."""
    name, config = str(data.dataset_name), data.dataset_config_name
    revision, cache_dir = data.dataset_revision, data.dataset_cache_directory
    present = hub_rows.hub_splits(name, config, revision, token, cache_dir)
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples}
    if data.validation_split_percentage:
        limits.pop("train")  # what is held back has to come out of all rows
    for role in _ROLES:
        split = next((known for known in _HUB_NAMES[role] if known in present), None)
        if role in reader.rows or (role == "validation" and not do_eval):
            continue
        if split is not None:
            rows = hub_rows.load_hub(
                name, config, split, revision, cache_dir, token, data.streaming, limit=limits.get(role)
            )
            reader.hub(role, list(rows), f"{name}/{config}/{split}" if config else f"{name}/{split}")
        elif role == "train":
            raise DataError(
                f"the data set {name} has no training split (its splits: {', '.join(present)}; "
                f"expected one of {', '.join(_HUB_NAMES['train'])}); choose another data.dataset_config_name"
            )


def _hold_back(data: DataArguments, reader: _Reader) -> None:
    """Move a share of the training rows to the validation rows."""
    percent = data.validation_split_percentage
    if not 0 < percent < 100:
        raise DataError(
            f"evaluation needs validation rows, but there is no validation file or split, and "
            f"data.validation_split_percentage is {percent}; set it to 1 to 99, or give data.validation_file"
        )
    rows = reader.rows["train"]
    shares = [_share(row, data.dataset_seed) for row in rows]
    edge = percent / 100
    if min(shares) >= edge:
        edge = min(shares) * (1 + 1e-9) + 1e-12
        reader.notices.append(
            f"data.validation_split_percentage={percent} of {_count(len(rows), 'row')} came to none: one is held back"
        )
    reader.rows["train"] = [row for row, share in zip(rows, shares, strict=True) if share >= edge]
    reader.rows["validation"] = [row for row, share in zip(rows, shares, strict=True) if share < edge]
    if not reader.rows["train"]:
        raise DataError(
            f"data.validation_split_percentage={percent} of {_count(len(rows), 'row')} leaves none to train on; "
            "give more training rows, or validation rows of their own as data.validation_file"
        )


def _share(row: Conversation, seed: int) -> float:
    """A number in 0..1 that depends on the row's question and the seed alone."""
    digest = hashlib.sha256(f"{seed}\x00".encode() + question(row)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def question(row: Conversation) -> bytes:
    """What is asked in a row, as bytes: all but the answers; the text itself where it is plain text."""
    asked = [turn for turn in row.turns if turn.role != "assistant"] or row.turns
    return json.dumps([[turn.role, turn.content] for turn in asked], ensure_ascii=False).encode()


def _limit(reader: _Reader, role: str, limit: int | None, key: str) -> None:
    rows = reader.rows.get(role)
    if limit is None or rows is None:
        return
    if limit < 1:
        raise DataError(f"{key} is {limit}; expected 1 or more, or leave it out to use all rows")
    if limit > len(rows):
        reader.notices.append(f"{key}={limit}, but there are only {_count(len(rows), 'row')}: all are used")
    reader.rows[role] = rows[:limit]


def _overlaps(
    train: Sequence[Conversation], validation: Sequence[Conversation], test: Sequence[Conversation]
) -> list[str]:
    """A notice for each pair of splits that ask the same questions: scores on those rows prove nothing."""
    asked = {
        name: [question(row) for row in rows] for name, rows in zip(_ROLES, (train, validation, test), strict=True)
    }
    notices = []
    for held_out, seen in (("validation", "train"), ("test", "train"), ("test", "validation")):
        known = set(asked[seen])
        count = sum(question in known for question in asked[held_out])
        if count:
            of = f"{count} of {_count(len(asked[held_out]), f'{held_out} row')}"
            notices.append(f"{of} ask what the {seen} rows ask too: their scores may flatter")
    return notices


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows_sha256(rows: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
