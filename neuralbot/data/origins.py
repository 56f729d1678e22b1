"""Where conversations come from: a file, a folder, a split of a hub data set; read as the format their columns spell.

An origin holds no rows and can be read again and again, so small data and data larger than memory are read alike.

Does not: hold validation rows back (`splits`), mix origins (`mixing`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.arguments import SourceArguments
from neuralbot.conversation import Conversation
from neuralbot.data import formats, hub_rows, sources
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.formats import Format
from neuralbot.data.hub_rows import HubRows
from neuralbot.data.strict_json import Row
from neuralbot.errors import DataError

if TYPE_CHECKING:
    from neuralbot.arguments import DataArguments

DETECTED_ROWS = 1000  # so many rows are looked at for their columns
_PACKED = 5  # text takes about so many times the room of its .gz or parquet file
# hub data sets do not agree on the names of their splits
_HUB_NAMES = {
    "train": ("train", "train_sft"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "test_sft"),
}


class FilePart:
    """One file. size: bytes of its text, estimated where it is packed."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        packed = path.suffix.lower() in (".gz", ".parquet")
        self.size = (_PACKED if packed else 1) * path.stat().st_size if path.is_file() else 0

    def read(self, bad: BadRows) -> Iterator[Row]:
        return sources.rows(self._path, bad)

    def sha256(self) -> str:
        """Of the bytes."""
        with self._path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


class HubPart:
    """One split of a hub data set. Its size is not known before it is read."""

    size = 0

    def __init__(self, name: str, rows: HubRows) -> None:
        self.name = name
        self._rows = rows
        self._sha256 = "unknown: the rows were streamed"

    def read(self, bad: BadRows) -> Iterator[Row]:
        digest = hashlib.sha256()
        for row in self._rows:
            digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str).encode() + b"\n")
            yield row
        self._sha256 = digest.hexdigest()

    def sha256(self) -> str:
        """Of the rows, once they have all been read."""
        return self._sha256


Part = FilePart | HubPart


class Origin:
    """Conversations of one or more parts; each iteration reads them anew."""

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        task: str,
        bad: BadRows,
        *,
        weight: float | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.parts = parts
        self.weight = weight
        self._task, self._bad, self._columns = task, bad, columns
        self._formats: dict[str, Format] = {}
        self._counts: dict[str, int] = {}

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def __iter__(self) -> Iterator[Conversation]:
        for part in self.parts:
            rows = part.read(self._bad)
            head = list(itertools.islice(rows, DETECTED_ROWS))
            fmt = self._format(part, head)
            whole = self._counted(part, itertools.chain(head, rows))
            yield from formats.conversations(whole, fmt, part.name, self._bad)

    def detect(self) -> None:
        """Read the beginning of each part. Raises DataError if its format cannot be told."""
        for part in self.parts:
            self._format(part, itertools.islice(part.read(self._bad), DETECTED_ROWS))

    def describe(self) -> list[str]:
        """A sentence for each format that was found; with the rows, where they have all been read."""
        reasons = {fmt.reason: [name for name, other in self._formats.items() if other == fmt]
                   for fmt in self._formats.values()}  # fmt: skip
        lines = []
        for reason, names in reasons.items():
            files = "" if names == [self.name] else f"{len(names):,} file{'s' if len(names) != 1 else ''}, "
            known = all(name in self._counts for name in names)
            count = f"{sum(self._counts[name] for name in names):,} rows" if known else "read while training"
            lines.append(f"{self.name}: {files}{count}, {reason}")
        return lines

    def sha256(self) -> str:
        """Of the file's bytes, or of the names and digests of a folder's files."""
        if [part.name for part in self.parts] == [self.name]:
            return self.parts[0].sha256()
        lines = (f"{Path(part.name).relative_to(self.name).as_posix()} {part.sha256()}\n" for part in self.parts)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _format(self, part: Part, head: Iterable[Row]) -> Format:
        if part.name not in self._formats:
            columns = list(dict.fromkeys(column for row in head for column in row))
            try:
                self._formats[part.name] = formats.detect(columns, self._task, self._columns)
            except DataError as error:
                raise DataError(f"{part.name}: {error}") from error
        return self._formats[part.name]

    def _counted(self, part: Part, rows: Iterable[Row]) -> Iterator[Row]:
        count = 0
        for row in rows:
            count += 1
            yield row
        self._counts[part.name] = count


@dataclass(frozen=True)
class Origins:
    """Where the rows of each use come from. notices: what was given but is not read."""

    train: list[Origin]
    validation: Origin | None
    test: Origin | None
    notices: list[str]


def find(data: DataArguments, task: str, bad: BadRows, *, do_eval: bool, token: str | None) -> Origins:
    """What `data` names; of hub data sets the splits are looked up, of files nothing is read. Raises DataError."""
    finder = _Finder(data, task, bad, token)
    names = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    notices = []
    if data.validation_file and not do_eval:
        notices.append(f"data.validation_file {data.validation_file} is not read: evaluation is off (training.do_eval)")
        del names["validation"]
    found = {role: finder.file(name) for role, name in names.items() if name}
    if data.dataset_name:
        wanted = [role for role in _HUB_NAMES if role not in found and (role != "validation" or do_eval)]
        found |= finder.splits(wanted)
    train = [finder.source(entry) for entry in data.sources] if data.sources else [found["train"]]
    return Origins(train, found.get("validation"), found.get("test"), notices)


def of_file(name: str, task: str, bad: BadRows, columns: Mapping[str, str] | None = None) -> Origin:
    """A file or a folder of files. Raises DataError for a folder without rows."""
    return Origin(name, [FilePart(path) for path in sources.files(Path(name))], task, bad, columns=columns)


class _Finder:
    """Makes origins of names."""

    def __init__(self, data: DataArguments, task: str, bad: BadRows, token: str | None) -> None:
        self._data, self._task, self._bad, self._token = data, task, bad, token

    def file(self, name: str) -> Origin:
        """A file or a folder of files."""
        return of_file(name, self._task, self._bad, self._data.columns)

    def splits(self, roles: Sequence[str]) -> dict[str, Origin]:
        """The splits of data.dataset_name for these roles; a training split has to be there."""
        data, name = self._data, str(self._data.dataset_name)
        limits = {"train": data.max_train_samples, "validation": data.max_eval_samples}
        if data.validation_split_percentage:
            limits.pop("train")  # what is held back has to come out of all rows
        asked = SourceArguments(name=name, config=data.dataset_config_name, revision=data.dataset_revision)
        present = self._present(asked)
        found = {role: next((known for known in _HUB_NAMES[role] if known in present), None) for role in roles}
        if "train" in found and found["train"] is None:
            raise self._no_training_split(asked, present)
        return {role: self._hub(asked, split, limits.get(role)) for role, split in found.items() if split}

    def source(self, entry: Mapping[str, Any]) -> Origin:
        """An entry of data.sources."""
        asked = SourceArguments(**entry)
        if asked.path:
            parts: list[Part] = [FilePart(path) for path in sources.files(Path(asked.path))]
            return self._origin(asked.path, parts, asked)
        split = asked.split
        if split is None:
            present = self._present(asked)
            split = next((known for known in _HUB_NAMES["train"] if known in present), None)
            if split is None:
                raise self._no_training_split(asked, present)
        return self._hub(asked, split, None)

    def _present(self, asked: SourceArguments) -> list[str]:
        cache_dir = self._data.dataset_cache_directory
        return hub_rows.hub_splits(str(asked.name), asked.config, asked.revision, self._token, cache_dir)

    def _no_training_split(self, asked: SourceArguments, present: Sequence[str]) -> DataError:
        return DataError(
            f"the data set {asked.name} has no training split (its splits: {', '.join(present)}; "
            f"expected one of {', '.join(_HUB_NAMES['train'])}); choose another data set or configuration of it"
        )

    def _hub(self, asked: SourceArguments, split: str, limit: int | None) -> Origin:
        name, cache_dir = str(asked.name), self._data.dataset_cache_directory
        rows = hub_rows.load_hub(
            name, asked.config, split, asked.revision, cache_dir, self._token, self._data.streaming, limit=limit
        )
        label = f"{name}/{asked.config}/{split}" if asked.config else f"{name}/{split}"
        return self._origin(label, [HubPart(label, rows)], asked)

    def _origin(self, name: str, parts: Sequence[Part], asked: SourceArguments | None = None) -> Origin:
        asked = asked or SourceArguments()
        columns = asked.columns or self._data.columns
        return Origin(name, parts, self._task, self._bad, weight=asked.weight, columns=columns)
