"""Bad files by the hundred: each ends in a DataError that names file and line, or in counted skips with all good rows.

Where a fault stands is known from how the file was written: a mark is put there, found in its bytes and taken out.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralbot.arguments import DataArguments
from neuralbot.data import formats, sources, strict_json
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.splits import load_splits
from neuralbot.errors import DataError

MARK = "\ue000"
LIMIT = 2000  # characters of a row, lowered for the rows that are too long

# Rows that are bad. @: where a message has to point. OUTPUT: any text as JSON. SEP: the separator of a table.
# LONG: too long a text.
FIELDS = {
    "null": '@{"instruction": OUTPUT, "output": null}',
    "number": '@{"instruction": OUTPUT, "output": 7}',
    "list": '@{"instruction": OUTPUT, "output": ["a"]}',
    "object": '@{"instruction": {"a": "b"}, "output": OUTPUT}',
    "boolean": '@{"instruction": true, "output": OUTPUT}',
    "missing": '@{"instruction": OUTPUT}',
    "misspelt": '@{"instruction": "x", "outptu": OUTPUT}',
    "blank": '@{"instruction": " \\n", "output": OUTPUT}',
    "input": '@{"instruction": "x", "input": 3, "output": OUTPUT}',
}
NO_OBJECTS = {"a list": "@[OUTPUT]", "a text": "@OUTPUT", "a number": "@5", "nothing": "@null"}
NOT_STRICT = {
    "NaN": '@{"instruction": OUTPUT, "output": "x", "n": NaN}',
    "Infinity": '@{"instruction": OUTPUT, "output": "x", "n": [-Infinity]}',
    "too large": '@{"instruction": OUTPUT, "output": "x", "n": 1e999}',
    "many digits": '@{"instruction": OUTPUT, "output": "x", "n": ' + "9" * 5000 + "}",
    "key twice": '@{"output": OUTPUT, "instruction": "x", "output": "y"}',
    "long key twice": '@{"instruction": OUTPUT, "output": "y", "LONG": 1, "LONG": 2}',
    "key twice inside": '@{"output": OUTPUT, "instruction": "x", "n": [{"a": 1, "b": 2, "a": 3}]}',
    "half a character": '{"output": OUTPUT, "instruction": "x@\\ud83d!"}',
    "other half": '{"output": OUTPUT, "instruction": "@\\uDE00\\ud83d"}',
    "half behind a pair": '{"output": "\\ud83d\\ude00 \\\\ud83d İ", "instruction": "@\\ud83d"}',
    "half a key": '{"output": OUTPUT, "instruction": "x", "@\\ud800": 1}',
}
SYNTAX = {
    "single quotes": "{@'instruction': OUTPUT}",
    "comma at the end": '{"instruction": "x", "output": OUTPUT, @}',
    "comma missing": '{"instruction": OUTPUT @"output": "x"}',
    "no quotes": '{"output": OUTPUT, "instruction": @yes}',
    "control character": '{"output": OUTPUT, "instruction": "x@\t"}',
    "bad escape": '{"output": OUTPUT, "instruction": "x@\\x41"}',
    "comment": '{"output": OUTPUT, @/* why */ "instruction": "x"}',
    "nested": '@{"output": OUTPUT, "n": ' + "[" * 100_000 + "}",
}
LINES = {
    "cut": '{"instruction": "x", "output": OUTPUT@',
    "two objects": '{"instruction": "x", "output": OUTPUT} @{"instruction": "x", "output": OUTPUT}',
    "comma between rows": '{"instruction": "x", "output": OUTPUT}@,',
    "text in front": '@data: {"instruction": "x", "output": OUTPUT}',
}
# \x00: NUL. \udce9: the byte 0xe9, a letter of Latin-1. The last: half a character, written as UTF-8 must not.
NO_TEXT = {"NUL": "\x00", "Latin-1": "\udce9", "surrogate": "\udced\udca0\udc80"}
NO_TEXT_JSON = {name: f'{{"instruction": OUTPUT, "output": "x@{bad}"}}' for name, bad in NO_TEXT.items()}
NO_TEXT_CELL = {name: f"x@{bad}SEPy" for name, bad in NO_TEXT.items()}
NO_TEXT_LINE = {name: f"x@{bad}" for name, bad in NO_TEXT.items()}
CELLS = {"too many": "@xSEPySEPz", "too few": "@x", "blank": "@ SEPy"}
QUOTES = {"open quote": '@xSEP"y', "text behind a quote": '@"x" ySEPz'}

# (extension, fault, template, whether the rows behind it can be read)
CASES = [
    *[("jsonl", *fault, True) for group in (FIELDS, NO_OBJECTS, NOT_STRICT, SYNTAX, LINES) for fault in group.items()],
    *[("jsonl", *fault, True) for fault in NO_TEXT_JSON.items()],
    *[("json", *fault, True) for group in (FIELDS, NO_OBJECTS, NOT_STRICT) for fault in group.items()],
    *[("json", *fault, False) for group in (SYNTAX, NO_TEXT_JSON) for fault in group.items()],
    *[(table, *fault, True) for table in ("csv", "tsv") for fault in CELLS.items()],
    *[
        (table, *fault, False)
        for table in ("csv", "tsv")
        for group in (QUOTES, NO_TEXT_CELL)
        for fault in group.items()
    ],
    *[("txt", *fault, True) for fault in NO_TEXT_LINE.items()],
    ("jsonl", "too long", '@{"instruction": "LONG", "output": OUTPUT}', True),
    ("json", "too long", '@{"instruction": "LONG", "output": OUTPUT}', False),
    ("csv", "too long", "@LONGSEPy", False),
    ("csv", "too long together", '@x,"' + ("y" * (LIMIT // 20) + "\n") * 30 + '"', False),
    ("txt", "too long", "@LONG", True),
]

Pair = tuple[str, str]
Place = tuple[int, int, int]  # line, column, number of the row
LETTERS = st.characters(exclude_categories=["C"])
PLAIN = st.text(LETTERS.filter(lambda letter: letter not in "\"',\t"), min_size=1, max_size=8).filter(str.strip)
TEXTS = st.text(LETTERS | st.sampled_from('"",;\t\n\r\\{}[]:'), min_size=1, max_size=12).filter(str.strip)
QUICK = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def separator(kind: str) -> str:
    return "\t" if kind == "tsv" else ","


def written(draw: st.DrawFn, kind: str, row: Pair) -> str:
    """A good row as it may stand in a file of this kind."""
    if kind == "txt":
        return " ".join(row[0].split())
    if kind in ("csv", "tsv"):
        out, quoting = io.StringIO(), draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        csv.writer(out, delimiter=separator(kind), quoting=quoting).writerow(row)
        return out.getvalue().removesuffix("\r\n")
    indent = draw(st.sampled_from([None, 2])) if kind == "json" else None
    named = {"instruction": row[0], "output": row[1]}
    return json.dumps(named, indent=indent, ensure_ascii=draw(st.booleans()))


def joined(draw: st.DrawFn, kind: str, records: list[str]) -> str:
    """Records as a file: with either line end, blank lines between them, a list also on a single line."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    first = draw(st.sampled_from(["", end]))
    if kind == "json":
        between = "," + draw(st.sampled_from(["", " ", end, end + end]))
        return f"{first}[{between[1:]}{between.join(records)}]{first}"
    if kind in ("csv", "tsv"):
        records = [f"instruction{separator(kind)}output", *records]
    return first + "".join(one + end * draw(st.integers(1, 3)) for one in records)


@st.composite
def bad_files(
    draw: st.DrawFn, kind: str, fault: str, template: str, *, many: bool
) -> tuple[bytes, list[Place], list[list[str]]]:
    """The bytes of a file with bad rows, where these stand, and the texts of the good ones."""
    texts = PLAIN if fault == "open quote" else TEXTS  # or the next quote would close it
    rows = draw(st.lists(st.tuples(texts, texts), min_size=2, max_size=6))
    bad = draw(st.sets(st.integers(0, len(rows) - 1), min_size=1, max_size=len(rows) - 1 if many else 1))
    spoiled = template.replace("@", MARK).replace("SEP", separator(kind)).replace("LONG", "x" * 2 * LIMIT)
    records = [
        spoiled.replace("OUTPUT", json.dumps(row[1])) if number in bad else written(draw, kind, row)
        for number, row in enumerate(rows)
    ]
    content, places = joined(draw, kind, records), []
    for number in sorted(bad):
        before, _, behind = content.partition(MARK)
        places.append((before.count("\n") + 1, len(before) - before.rfind("\n"), number + 1))
        content = before + behind
    good = [[written(draw, kind, row)] if kind == "txt" else list(row) for n, row in enumerate(rows) if n not in bad]
    mark = draw(st.sampled_from([b"", codecs.BOM_UTF8]))
    return mark + content.encode("utf-8", "surrogateescape"), places, good


def file(folder: Path, kind: str, content: bytes, *, packed: bool) -> Path:
    path = folder / f"rows.{kind}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return path


def read(path: Path, bad: BadRows) -> list[list[str]]:
    """The texts of all conversations, read as a run reads them."""
    rows = list(sources.rows(path, bad))
    fmt = formats.detect(list(dict.fromkeys(column for row in rows for column in row)), "completion")
    found = formats.conversations(rows, fmt, str(path), bad)
    return [[turn.content for turn in conversation.turns] for conversation in found]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(DataArguments(train_file=str(path)), "completion", do_eval=False)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < len(str(path)) + 1200
    return message


def assert_stands(message: str, path: Path, place: Place, *, exact: bool) -> None:
    """The message begins with the file and this place; the column may be left out, and is held to only if exact."""
    found = re.match(rf"{re.escape(str(path))}:(\d+)(?::(\d+))?: (?:row (\d+): )?", message)
    assert found, message
    line, column, number = (None if part is None else int(part) for part in found.groups())
    assert line == place[0], message
    assert number in (None, place[2]), message
    assert column in (None, place[1]) or not exact, message


@pytest.mark.parametrize(
    ("kind", "fault", "template", "goes_on"), CASES, ids=[f"{kind}-{fault}" for kind, fault, _, _ in CASES]
)
@QUICK
@given(data=st.data(), packed=st.booleans())
def test_a_bad_row_is_located_or_skipped(
    tmp_path: Path, kind: str, fault: str, template: str, goes_on: bool, data: st.DataObject, packed: bool
) -> None:
    content, places, good = data.draw(bad_files(kind, fault, template, many=goes_on))
    path, bad = file(tmp_path, kind, content, packed=packed), BadRows("skip", most=99)
    exact = fault not in SYNTAX and fault not in LINES
    with pytest.MonkeyPatch.context() as patch:
        if "too long" in fault:
            patch.setattr(strict_json, "ROW_LIMIT_BYTES", LIMIT)
        assert_stands(refusal(path), path, places[0], exact=exact)
        if goes_on:
            assert read(path, bad) == good
        else:
            with pytest.raises(DataError) as caught:
                read(path, bad)
            assert_stands(str(caught.value), path, places[0], exact=exact)
            return
    assert len(bad.found) == len(places)
    for one, place in zip(bad.found, places, strict=True):
        assert_stands(one.problem, path, place, exact=exact)


GOOD = {
    "jsonl": b'{"instruction": "a", "output": "b"}\n' * 3,
    "json": b'[\n{"instruction": "a", "output": "b"},\n{"instruction": "a", "output": "b"}\n]\n',
    "csv": b"instruction,output\na,b\na,b\n",
    "tsv": b"instruction\toutput\na\tb\na\tb\n",
    "txt": b"one\ntwo\nthree\n",
}
KINDS = pytest.mark.parametrize("kind", GOOD)


@KINDS
@QUICK
@given(content=st.text(" \t\r\n").map(str.encode), mark=st.sampled_from([b"", codecs.BOM_UTF8]), packed=st.booleans())
def test_a_file_of_blanks_has_no_rows(tmp_path: Path, kind: str, content: bytes, mark: bytes, packed: bool) -> None:
    path = file(tmp_path, kind, mark + content, packed=packed)
    said = refusal(path)
    assert said.startswith(f"{path}: has no rows: 0 usable of 0" if kind in ("json", "jsonl", "txt") else f"{path}:")


@KINDS
@QUICK
@given(encoding=st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le"]), packed=st.booleans())
def test_utf_16_is_named_in_line_1(tmp_path: Path, kind: str, encoding: str, packed: bool) -> None:
    text = "\ufeff" + GOOD[kind].decode()
    path = file(tmp_path, kind, text.encode(encoding), packed=packed)
    assert refusal(path).startswith(f"{path}:1:1: the file is UTF-16")


@KINDS
@settings(QUICK, max_examples=8)
@given(data=st.data())
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    whole = gzip.compress(GOOD[kind] * 99 if kind != "json" else GOOD[kind])
    at = data.draw(st.integers(1, len(whole) - 1))
    damaged = data.draw(st.sampled_from([whole[:at], whole[:-8] + b"\xff" * 8, whole + b"more", GOOD[kind]]))
    path = tmp_path / f"rows.{kind}.gz"
    path.write_bytes(damaged)
    assert refusal(path).startswith(f"{path}: cannot be read: ")


LONG_ROWS = {  # the beginning of a file, and a row of a mebibyte that may be repeated
    "jsonl": ("", '{"instruction": "LONG", "output": "b"}\n'),
    "json": ("[", '{"instruction": "LONG", "output": "b"},\n'),
    "csv": ("instruction,output\n", "LONG,b\n"),
    "tsv": ("instruction\toutput\n", "LONG\tb\n"),
    "txt": ("", "LONG\n"),
}


@KINDS
def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, kind: str) -> None:
    path, (first, row) = tmp_path / f"rows.{kind}.gz", LONG_ROWS[kind]
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write((first + 70 * row.replace("LONG", "x" * 2**20)).encode())
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: unpacks to more than 100 times its size"):
        for _ in sources.rows(path, BadRows("skip")):
            pass


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@QUICK
@given(names=st.lists(PLAIN.map(str.strip), min_size=1, max_size=5), before=st.integers(0, 3), data=st.data())
def test_a_column_twice_is_named_with_the_line_of_the_header(
    tmp_path: Path, kind: str, names: list[str], before: int, data: st.DataObject
) -> None:
    header = data.draw(st.permutations([*names, names[0]]))
    lines = ["", separator(kind).join(header), separator(kind).join("x" * len(header)), ""]
    path = file(tmp_path, kind, ("\r\n" * before + "\r\n".join(lines[1:])).encode(), packed=False)
    assert refusal(path).startswith(f"{path}:{before + 1}: the column ")


@settings(QUICK, max_examples=40)
@given(data=st.data(), end=st.sampled_from(["\n", "\r\n"]))
def test_a_list_that_is_cut_is_located_where_it_ends(tmp_path: Path, data: st.DataObject, end: str) -> None:
    rows = data.draw(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
    text = joined(data.draw, "json", [written(data.draw, "json", row) for row in rows]).replace("\n", end)
    cut = text[: data.draw(st.integers(text.index("[") + 1, text.rindex("]")))]
    path = file(tmp_path, "json", cut.encode(), packed=data.draw(st.booleans()))
    found = re.match(rf"{re.escape(str(path))}:(\d+):\d+: invalid JSON", refusal(path))
    assert found
    assert int(found[1]) in (cut.count("\n") + 1, cut.rstrip().count("\n") + 1)


@settings(QUICK, max_examples=20)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=2, max_size=6), data=st.data())
def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path, rows: list[Pair], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    columns = {"instruction": [row[0] for row in rows], "output": [row[1] for row in rows]}
    columns[data.draw(st.sampled_from(list(columns)))][at] = None
    path, bad = tmp_path / "rows.parquet", BadRows("skip")
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert refusal(path).startswith(f"{path}: row {at + 1}: column ")
    assert read(path, bad) == [list(row) for number, row in enumerate(rows) if number != at]
    assert [one.problem.startswith(f"{path}: row {at + 1}: ") for one in bad.found] == [True]


@settings(QUICK, max_examples=100)
@given(data=st.data())
def test_a_damaged_parquet_file_gives_rows_or_an_error(tmp_path: Path, data: st.DataObject) -> None:
    out = io.BytesIO()
    table = pyarrow.table({"instruction": ["a", "b", "é"] * 9, "output": ["c", "d", "e"] * 9})
    pyarrow.parquet.write_table(table, out, compression=data.draw(st.sampled_from(["none", "snappy", "zstd"])))
    whole = bytearray(out.getvalue())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[at:]
    else:
        whole[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "rows.parquet"
    path.write_bytes(whole)
    try:
        load_splits(DataArguments(train_file=str(path)), "completion", do_eval=False)
    except DataError as error:
        assert str(error).startswith(str(path))
