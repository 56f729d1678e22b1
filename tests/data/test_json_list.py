"""A JSON list read through a window of a few bytes gives the rows, lines and faults that one large window gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralbot.data import json_list, sources, strict_json
from neuralbot.data.bad_rows import BadRows
from neuralbot.errors import DataError

Outcome = tuple[list[tuple[dict[str, Any], int, int]], list[str], str]
INNER = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.dictionaries(st.text(max_size=4), INNER, max_size=3), min_size=1, max_size=5)
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(path: Path, chunk: int, policy: Any = "stop") -> Outcome:
    """Rows with their places, problems of skipped rows, and the final error, if there is one."""
    bad = BadRows(policy)
    rows: list[tuple[dict[str, Any], int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "_CHUNK_BYTES", chunk)
        try:
            rows.extend((dict(row), row.line, row.number) for row in sources.rows(path, bad))
        except DataError as error:
            return rows, [row.problem for row in bad.found], str(error)
    return rows, [row.problem for row in bad.found], ""


def in_form(rows: list[dict[str, Any]], form: str) -> str:
    text = json.dumps(rows, ensure_ascii=False, indent=2 if "indented" in form else None)
    return f'{{"version": 1.5e3, "data": {text}, "n": 3}}' if "object" in form else text


@RELAXED
@given(
    rows=DOCUMENTS,
    form=st.sampled_from(["plain", "indented", "object", "indented object"]),
    chunk=st.integers(1, 9),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_window_gives_the_rows_and_their_places(
    tmp_path: Path, rows: list[dict[str, Any]], form: str, chunk: int, line_end: str
) -> None:
    rows = [row for row in rows if "\\u0000" not in json.dumps(row)] or [{}]
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + in_form(rows, form).replace("\n", line_end).encode())
    found, skipped, error = outcome(path, chunk)
    assert ([row for row, _, _ in found], skipped, error) == (rows, [], "")
    assert [number for _, _, number in found] == list(range(1, len(rows) + 1))
    assert (found, skipped, error) == outcome(path, 2**20)


@RELAXED
@given(
    rows=DOCUMENTS,
    form=st.sampled_from(["plain", "indented", "indented object"]),
    chunk=st.integers(1, 9),
    at=st.integers(0, 10_000),
    byte=st.sampled_from([*range(256), *b'{}[],:"\\0N\n']),
    policy=st.sampled_from(["stop", "skip"]),
)
def test_any_window_names_the_same_faults(
    tmp_path: Path, rows: list[dict[str, Any]], form: str, chunk: int, at: int, byte: int, policy: str
) -> None:
    raw = bytearray(in_form(rows, form).encode())
    raw[at % len(raw)] = byte
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    rows_then, skipped_then, error_then = outcome(path, chunk, policy)
    found, skipped, error = outcome(path, 2**20, policy)
    # a large window meets a byte that is no text before it gives the rows in front of it
    assert found == rows_then[: len(found)] and (found == rows_then or "UTF-8" in error or "NUL" in error)
    assert skipped == skipped_then[: len(skipped)]
    assert error.split("; it reads")[0] == error_then.split("; it reads")[0]


BAD = {
    '{"a": NaN}': "NaN is not a JSON value",
    '{"a": 1, "a": 2}': "'a' appears twice",
    '{"a": "\\ud800"}': "half a character",
    '{"a": ' + "7" * 1200 + "}": "digits",
    "5": "the row is a number",
}


@pytest.mark.parametrize("row", BAD)
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_a_bad_row_in_a_list_is_skipped_with_its_place(tmp_path: Path, row: str, chunk: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'[{{"a": "x"}},\n\n {row} ,\n{{"a": "y"}}]')
    rows, problems, error = outcome(path, chunk, "skip")
    assert [row for row, _, _ in rows] == [{"a": "x"}, {"a": "y"}]
    assert [line for _, line, _ in rows] == [1, 4]
    assert len(problems) == 1 and problems[0].startswith(f"{path}:3:") and BAD[row] in problems[0]
    assert error == ""
    assert BAD[row] in outcome(path, chunk, "stop")[2]


def test_columns_count_from_the_line_not_from_the_window(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + '{"a": "x"}, ' * 1000 + '{"a" "x"}]')
    assert f"{path}:1:{1 + 12 * 1000 + 6}: invalid JSON" in outcome(path, 64)[2]


def test_a_file_without_end_fails_as_soon_as_a_row_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": "x"},\n{"a": "' + "x" * 2**20 + '"}]')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "ROW_LIMIT_BYTES", 2**16)
        rows, _, error = outcome(path, 2**12)
    assert len(rows) == 1
    assert error.startswith(f"{path}:2: the row is larger than")
