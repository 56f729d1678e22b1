from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralbot.data import sources, strict_json, text_files
from neuralbot.data.bad_rows import BadRows
from neuralbot.errors import DataError

ROWS = [{"instruction": "Add 1, 2", "output": 'three "3"'}, {"instruction": "Grüße\nzwei Zeilen", "output": "ok 😀"}]


def read_rows(path: Path) -> list[strict_json.Row]:
    return list(sources.rows(path, BadRows()))


def lines_of(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[dict[str, str]], delimiter: str) -> str:
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


FORMS = {
    "a.json": json.dumps(ROWS, indent=1),
    "b.json": json.dumps({"version": "1", "data": ROWS}),
    "c.json": lines_of(ROWS),
    "a.jsonl": lines_of(ROWS),
    "b.jsonl": "\n" + lines_of(ROWS).replace("\n", "\n\n"),
    "a.csv": table(ROWS, ","),
    "a.tsv": table(ROWS, "\t"),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str, line_end: str, bom: bytes, packed: str) -> None:
    # the line break inside a cell of a table is part of the text, so only the others may change
    text = FORMS[name] if "sv" in name else FORMS[name].replace("\n", line_end)
    path = write(tmp_path / (name + packed), bom + text.encode())
    assert read_rows(path) == ROWS


def test_text_gives_a_row_for_each_line_that_is_not_blank(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\r\n\n  two \n\u2028three")
    assert read_rows(path) == [{"text": "one"}, {"text": "  two "}, {"text": "\u2028three"}]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert read_rows(path) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.jsonl", '\n{"a": 1}\n\n{"a": 2}\n', [2, 4]),
        ("a.json", '[\n{"a": 1},\n\n{"a":\n 2}, {"a": 3}]', [2, 4, 5]),
        ("a.csv", 'a,b\n1,"x\ny"\n\n2,z\n', [2, 5]),
        ("a.txt", "\nx\ny\n", [2, 3]),
    ],
)
def test_rows_know_their_line(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    rows = read_rows(write(tmp_path / name, text))
    assert [row.line for row in rows if isinstance(row, strict_json.Row)] == lines


def test_a_column_without_a_name_is_the_row_number_of_pandas(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "a.csv", ",a\n0,x\n1,y\n")) == [{"a": "x"}, {"a": "y"}]


GOOD = '{"a": "x"}'


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", f'{GOOD}\n{GOOD}\n{{"a": x}}\n', [":3:7:", "invalid JSON", '{"a": x}', "double quotes"]),
        ("a.jsonl", f'{GOOD}\r\n{{"a": "x"\r\n', [":2:10:", "invalid JSON", "commas between items"]),
        ("a.jsonl", f"{GOOD} {GOOD}\n", [":1:12:", "text after the end of the row", "own line"]),
        ("a.jsonl", f'{GOOD}\n["x"]\n', [":2:", "the row is a list, not an object"]),
        ("a.jsonl", f"{GOOD}\nnull\n", [":2:", "the row is null"]),
        ("a.jsonl", f'{GOOD}\n{{"a": NaN}}\n', [":2:1:", "NaN is not a JSON value"]),
        ("a.jsonl", '{"a": -Infinity}\n', [":1:1:", "-Infinity is not a JSON value"]),
        ("a.jsonl", '{"a": 1, "b": 2, "a": 3}\n', [":1:1:", "'a' appears twice"]),
        ("a.jsonl", f'{GOOD}\n{{"b": {{"a": 1, "a": 3}}}}\n', [":2:1:", "'a' appears twice"]),
        ("a.jsonl", '{"b": "ok", "a": "\\ud83d!"}\n', [":1:19:", "ud83d is half a character"]),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}\n", [":1:1:", "a number of 5000 digits"]),
        ("a.jsonl", "[" * 200_000 + "\n", [":1:1:", "nested too deeply"]),
        ("a.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n', [":2:11:", "byte 0xe9 is not UTF-8", "iconv"]),
        ("a.jsonl", b'{"a": "x"}\n{"a": "\x00"}\n', [":2:8:", "NUL"]),
        ("a.json", b'[{"a":\n "\xc3\xa9\xe9"}]', [":2:4:", "byte 0xe9 is not UTF-8"]),
        ("a.json", '[\n{"a": 1},\n{"a" 2}]', [":3:6:", "invalid JSON", '{"a" 2}']),
        ("a.json", '[{"a": 1} {"a": 2}]', [":1:11:", "a comma or ] is missing"]),
        ("a.json", '[{"a": 1},\n{"a": 2}\n', [":3:1:", "the file ends inside the list"]),
        ("a.json", '[{"a": 1}]\n]', [":2:1:", "text after the end of the list"]),
        ("a.json", '[{"a": 1},\n 5]', [":2: row 2:", "the row is a number"]),
        ("a.json", '[{"a": 1},\n {"a": NaN}]', [":2:2:", "NaN"]),
        ("a.json", '{"a": 1, "b": {}}', ["one object with no list", "'a', 'b'", "a list of objects"]),
        ("a.json", '{"a": [], "b": []}', ["lists under 'a', 'b'"]),
        ("a.json", '{"data": [1]}', ["data: row 1", "the row is a number"]),
        ("a.json", '"text"', [":1:1", "is not a list of objects"]),
        ("a.json", "", ["has no rows: 0 usable of 0"]),
        ("a.json", "[]", ["has no rows"]),
        ("a.jsonl", "\n  \n", ["has no rows"]),
        ("a.csv", "a,b\n", ["has no rows"]),
        ("a.txt", "\n\n", ["has no rows"]),
        ("a.csv", "a,b\n1,2\n1,2,3\n", [":3:", "3 cells", "the header has 2 (a, b)", "1,2,3"]),
        ("a.csv", 'a,b\n"x\ny",2\n1\n', [":4:", "1 cells"]),
        ("a.csv", "a,a\n1,2\n", [":1:", "'a' stands twice in the header"]),
        ("a.csv", 'a,b\n1,2\n3,"x\n5,6\n', [":3:", "invalid table", "check the quotes"]),
        ("a.tsv", "a\tb\n1\n", [":2:", "1 cells"]),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), [":1:1:", "UTF-16", "iconv -f UTF-16"]),
        ("a.txt", b"ok\n\xff\xfe", [":2:1:", "byte 0xff"]),
        ("a.parquet", "PAR1 nothing", ["is not a usable parquet file"]),
        ("a.xlsx", "x", ["extension '.xlsx'", ".jsonl"]),
        ("a.parquet.gz", "x", ["extension '.gz'"]),
        ("plain", "x", ["extension ''"]),
    ],
)
def test_faults_are_named_with_their_place(tmp_path: Path, name: str, content: str | bytes, parts: list[str]) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message
    assert len(message) < 600


def test_missing_file_folder_and_broken_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"is a folder without rows; expected files of the kinds \.json, \.jsonl"):
        read_rows(tmp_path)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress((GOOD + "\n").encode() * 50)[:-12])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: cannot be read"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "no.jsonl.gz").write_text(GOOD)
    with pytest.raises(DataError, match=r"no\.jsonl\.gz: cannot be read"):
        read_rows(tmp_path / "no.jsonl.gz")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz"])
def test_rows_are_held_to_a_size(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_json, "ROW_LIMIT_BYTES", 1000)
    row = '{"a": "' + "x" * 2000 + '"}'
    content = {"a.json": f"[{GOOD},\n{row}]", "a.csv": "a\ny\n" + "x" * 2000}.get(name, f"{GOOD}\n{row}\n")
    with pytest.raises(DataError, match=r":[23].*the row is larger"):
        read_rows(write(tmp_path / name, content))


def test_a_cell_may_be_long_but_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 200_000  # over the default limit of the csv library
    assert read_rows(write(tmp_path / "a.csv", f'a\n"{long}"\n')) == [{"a": long}]
    monkeypatch.setattr(strict_json, "ROW_LIMIT_BYTES", 1000)
    with pytest.raises(DataError, match=r":2: the row is larger"):
        read_rows(write(tmp_path / "b.csv", 'a\n"' + "x\n" * 2000 + '"\n'))


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz"])
def test_an_archive_that_unpacks_without_end_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_BOMB_BYTES", 100_000)
    with pytest.raises(DataError, match="more than 100 times its size"):
        read_rows(write(tmp_path / name, b" \n" * 1_000_000))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), _JSON, max_size=3), min_size=1, max_size=4), indent=st.booleans()
)
def test_what_json_writes_is_read_back(tmp_path: Path, rows: list[dict[str, object]], indent: bool) -> None:
    clean = [row for row in rows if "\x00" not in json.dumps(row)]
    array = write(tmp_path / "r.json", json.dumps(clean or [{}], indent=1 if indent else None))
    assert read_rows(array) == (clean or [{}])
    assert read_rows(write(tmp_path / "r.jsonl", lines_of(rows).replace("\x00", ""))) is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), name=st.sampled_from(list(FORMS)))
def test_a_damaged_byte_gives_rows_or_a_located_error(tmp_path: Path, at: int, byte: int, name: str) -> None:
    raw = bytearray(FORMS[name].encode())
    raw[at % len(raw)] = byte
    path = write(tmp_path / f"damaged.{name}", bytes(raw))
    try:
        read_rows(path)
    except DataError as error:
        assert str(error).startswith(str(path))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.binary(max_size=60), name=st.sampled_from(["x.json", "x.jsonl", "x.csv", "x.txt", "x.jsonl.gz", "x.parquet"])
)
def test_any_bytes_give_rows_or_a_located_error(tmp_path: Path, raw: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    try:
        assert read_rows(path)
    except DataError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("line", range(1, 21))
def test_the_damaged_line_is_the_one_reported(tmp_path: Path, line: int) -> None:
    rows = [GOOD] * 20
    rows[line - 1] = '{"a": "x", }'
    for ending, name in (("\n", "a.jsonl"), ("\r\n", "a.jsonl"), ("\n", "a.jsonl.gz")):
        with pytest.raises(DataError, match=rf":{line}:12: invalid JSON"):
            read_rows(write(tmp_path / name, b"\xef\xbb\xbf" + ending.join(rows).encode()))


# Rows that cannot be used


def skipping(path: Path, most: int = 100) -> tuple[list[strict_json.Row], BadRows]:
    bad = BadRows("skip", most)
    return list(sources.rows(path, bad)), bad


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("a.jsonl", b'{"a": x}'),
        ("a.jsonl", b'{"a": "caf\xe9"}'),
        ("a.jsonl", b'{"a": "\x00"}'),
        ("a.jsonl", b'{"a": NaN}'),
        ("a.jsonl", b"[1]"),
        ("a.json", b'{"a": "\\ud800"}'),
        ("a.txt", b"caf\xe9"),
        ("a.csv", b"x,y"),
        ("a.tsv", b"x\ty"),
    ],
)
def test_a_bad_row_is_skipped_with_its_line_and_the_rows_around_it_stay(
    tmp_path: Path, name: str, bad: bytes, line_end: str, packed: str
) -> None:
    head, good = (b"a\n", b"%d") if name[2] in "ct" and name != "a.txt" else (b"", b'{"a": "%d"}')
    body = b"".join((bad if number in (3, 8) else good % number) + b"\n" for number in range(10))
    path = write(tmp_path / (name + packed), b"\xef\xbb\xbf" + (head + body).replace(b"\n", line_end.encode()))
    rows, found = skipping(path)
    assert len(rows) == 8
    first = 1 + len(head.splitlines())
    assert [row.line for row in rows] == [number + first for number in range(10) if number not in (3, 8)]
    places = [row.problem.removeprefix(f"{path}:").split(":")[0] for row in found.found]
    assert places == [str(3 + first), str(8 + first)]
    assert all(row.row for row in found.found)
    with pytest.raises(DataError, match=rf":{3 + first}:"):
        read_rows(path)
    with pytest.raises(DataError, match=r"more than 1 bad rows, the limit of data\.max_bad_rows"):
        skipping(path, most=1)


def test_a_line_that_is_too_long_is_skipped_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_json, "ROW_LIMIT_BYTES", 1000)
    path = write(tmp_path / "a.jsonl", f'{GOOD}\n{{"a": "{"x" * 5000}"}}\n{GOOD}\n')
    rows, bad = skipping(path)
    assert [row.line for row in rows] == [1, 3]
    assert len(bad.found) == 1 and "a.jsonl:2: the row is larger" in bad.found[0].problem
    path = write(tmp_path / "b.jsonl", f'{GOOD}\n{{"a": "{"x" * 5000}')
    assert [row.line for row in skipping(path)[0]] == [1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'a,b\n1,2\n3,"x\n5,6\n'),
        ("a.csv", b"a\nx\ncaf\xe9\n"),
        ("a.json", '[{"a": 1} {"a": 2}]'),
        ("a.json", b'[{"a": 1},\n{"a": "\xe9"}]'),
        ("a.json", '[{"a": 1},\n{"a" 2}]'),
        ("a.jsonl", "x".encode("utf-16")),
        ("a.parquet", "PAR1"),
    ],
)
def test_a_fault_that_hides_the_rows_behind_it_is_never_skipped(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    with pytest.raises(DataError) as stopped:
        read_rows(write(tmp_path / name, content))
    with pytest.raises(DataError) as skipped:
        skipping(tmp_path / name)
    assert str(skipped.value) == str(stopped.value)


def test_a_file_of_bad_rows_has_none_that_are_usable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: has no rows: 0 usable of 3"):
        skipping(write(tmp_path / "a.jsonl", "x\n" * 3))


def test_rows_read_again_are_set_aside_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", f"{GOOD}\nx\n")
    bad = BadRows("skip", most=1)
    for _ in range(3):
        assert len(list(sources.rows(path, bad))) == 1
    assert len(bad.found) == 1


def test_a_folder_is_all_its_files_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    for name, text in (
        ("b.jsonl", '{"a": "3"}\n'),
        ("a/z.csv", "a\n1\n"),
        ("a.txt", "2"),
        ("README.md", "no rows"),
        (".cache/x.jsonl", "hidden"),
        (".x.jsonl", "hidden"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, text)
    assert [path.relative_to(folder).as_posix() for path in sources.files(folder)] == ["a/z.csv", "a.txt", "b.jsonl"]
    assert read_rows(folder) == [{"a": "1"}, {"text": "2"}, {"a": "3"}]
    write(folder / "c.jsonl", "x\n")
    with pytest.raises(DataError, match=r"rows/c\.jsonl:1:1: invalid JSON"):
        read_rows(folder)
