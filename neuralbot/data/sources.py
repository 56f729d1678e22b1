"""Files -> rows: dictionaries from column to value, each with the line it began in.

Every fault of a file becomes a DataError that names file, line and column, the text there, what was expected and what
to do. Nothing is repaired or left out on the quiet, except a byte order mark and blank lines. No reader holds more than
a few rows, however large the file.

Does not: know what columns mean (`formats`), split (`splits`).
"""

from __future__ import annotations

import csv
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from neuralbot.data import json_list, strict_json
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.json_list import Window
from neuralbot.data.strict_json import Row, fail, fault, row_of_line, too_large
from neuralbot.data.text_files import lines, open_bytes
from neuralbot.errors import DataError

_PARQUET_ROWS = 1024  # converted at once


def rows(path: Path, bad: BadRows) -> Iterator[Row]:
    """The rows of a json, jsonl, csv, tsv, txt or parquet file, of a .gz of the text ones, or of a folder of these.

    json: a list of objects, an object with one list, or an object a line. txt: column "text", a row for each line
    that is not blank. Rows that cannot be used go to `bad`. Raises DataError where the rows behind a fault are lost
    too, and for a file without rows.
    """
    for file in files(path):
        yield from _rows_of_file(file, bad)


def files(path: Path) -> list[Path]:
    """The file itself; of a folder all files of known kinds in it and its folders, by name, hidden ones left out.

    Raises DataError for a folder without any.
    """
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".") and _known(Path(name))]
    if not found:
        fail(path, "is a folder without rows", f"expected files of the kinds {', '.join(_READERS)}, or .gz of these")
    return sorted(found)


def _rows_of_file(path: Path, bad: BadRows) -> Iterator[Row]:
    reader, before, row = _reader(path), len(bad.found), None
    try:
        for row in reader(path, bad):
            yield row
    except (OSError, EOFError, zlib.error) as error:
        fail(path, f"cannot be read: {error}", "check its permissions, and that the file is complete")
    if row is None:
        unusable = bad.found[before:]
        first = f"; the first: {unusable[0].problem}" if unusable else ""
        fail(path, f"has no rows: 0 usable of {len(unusable)}{first}", "give a file with at least one row")


# One reader for each kind of file

_Reader = Callable[[Path, BadRows], Iterator[Row]]


def _reader(path: Path) -> _Reader:
    if not path.exists():
        fail(path, "does not exist", f"check the path; it was looked for from {Path.cwd()}")
    if not path.is_file():
        fail(path, "is not a regular file", "copy its content to a file first")
    reader = _known(path)
    if reader is None:
        known = ", ".join(_READERS)
        fail(path, f"has the extension {path.suffix!r}", f"expected one of {known}, or .gz of the text ones")
    return reader


def _known(path: Path) -> _Reader | None:
    """What reads files of this name."""
    packed = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem).suffix if packed else path.suffix).lower()
    return None if packed and suffix == ".parquet" else _READERS.get(suffix)


def _jsonl(path: Path, bad: BadRows) -> Iterator[Row]:
    for number, line in lines(path, bad):
        if not line.strip():
            continue
        try:
            row = row_of_line(path, number, line)
        except DataError as error:
            bad.add(error, line)
        else:
            yield row


def _json(path: Path, bad: BadRows) -> Iterator[Row]:
    with open_bytes(path) as stream:
        window = Window(path, stream)
        first = window.peek()
        if first and first not in "[{":
            window.fail("is not a list of objects", "expected [{...}, ...]")
        a_line_each = first == "{" and _goes_on(window)
    if a_line_each:
        yield from _jsonl(path, bad)
    elif first:
        with open_bytes(path) as stream:
            yield from json_list.rows(Window(path, stream), bad)


def _goes_on(window: Window) -> bool:
    """Whether something follows the first object: a .json file with an object on each line is common."""
    try:
        window.value(strict=False)
    except DataError:  # a large object, or a fault that its reader will name
        return False
    return bool(window.peek())


def _txt(path: Path, bad: BadRows) -> Iterator[Row]:
    for number, line in lines(path, bad):
        if line.strip():
            yield _numbered({"text": line.rstrip("\r\n")}, number)


def _csv(path: Path, bad: BadRows) -> Iterator[Row]:
    return _table(path, ",", bad)


def _tsv(path: Path, bad: BadRows) -> Iterator[Row]:
    return _table(path, "\t", bad)


def _table(path: Path, delimiter: str, bad: BadRows) -> Iterator[Row]:
    records = _records(path, delimiter)
    line, header = next(records, (0, []))
    names = [name.strip() for name in header]
    doubles = sorted({name for name in names if name and names.count(name) > 1})
    if doubles:
        fail(f"{path}:{line}", f"the column {doubles[0]!r} stands twice in the header", "rename or remove one of them")
    for line, cells in records:
        if len(cells) == len(names):
            # a column without a name is the row number that pandas writes
            yield _numbered({name: cell for name, cell in zip(names, cells, strict=True) if name}, line)
        else:
            bad.add(_wrong_cells(f"{path}:{line}", cells, names, delimiter), delimiter.join(cells))


def _wrong_cells(where: str, cells: list[str], names: list[str], delimiter: str) -> DataError:
    what = f"the row has {len(cells)} cells, the header has {len(names)} ({', '.join(names)})"
    then = "add or remove cells; a cell with the separator, a quote or a line break needs double quotes"
    return fault(where, what, then, delimiter.join(cells))


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line it began in, cells) of each record that is not blank. A fault may hide where rows end: it is raised."""
    line, size = 1, 0

    def fed() -> Iterator[str]:
        nonlocal size
        for _, text in lines(path, BadRows()):
            size += len(text)
            if size > strict_json.ROW_LIMIT_BYTES:  # an open quote takes in all lines to the end
                too_large(f"{path}:{line}", text)
            yield text

    # the library's own limit is for the whole process and would refuse long articles; it is only ever raised
    csv.field_size_limit(max(csv.field_size_limit(), strict_json.ROW_LIMIT_BYTES))
    reader = csv.reader(fed(), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line, size = reader.line_num + 1, 0
    except csv.Error as error:
        then = "check the quotes: a cell with a quote is written in double quotes, with the quote doubled"
        fail(f"{path}:{line}", f"invalid table: {error}, in the row that begins here", then)


def _parquet(path: Path, bad: BadRows) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=2**20) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                yield from (Row(record) for record in batch.to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        fail(path, f"is not a usable parquet file: {error}", "write it again, or give json or csv")


def _numbered(values: dict[str, Any], line: int) -> Row:
    row = Row(values)
    row.line = line
    return row


_READERS: dict[str, _Reader] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _txt,
    ".parquet": _parquet,
}
