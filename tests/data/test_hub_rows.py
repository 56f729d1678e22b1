"""Data sets by a local folder in the layout of one; tests/hub reads them from a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuralbot.data.hub_rows import hub_splits, load_hub
from neuralbot.errors import DataError

ROWS = [{"instruction": "Add 1, 2", "output": 'three "3"'}, {"instruction": "Grüße\nzwei Zeilen", "output": "ok 😀"}]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_rows_of_a_folder_are_read_as_often_as_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", ROWS)
    write(folder / "test.jsonl", ROWS[:1])
    cache = str(tmp_path / "cache")
    assert sorted(hub_splits(str(folder), None, None, None, cache)) == ["test", "train"]
    for streaming in (False, True):
        rows = load_hub(str(folder), None, "train", None, cache, None, streaming)
        assert [list(rows), list(rows)] == [ROWS, ROWS]
        assert list(load_hub(str(folder), None, "train", None, cache, None, streaming, limit=1)) == ROWS[:1]
    with pytest.raises(DataError, match=r"split 'dev', cannot be loaded.*data\.dataset_name"):
        load_hub(str(folder), None, "dev", None, cache, None, False)


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("instruction,output\n")
    with pytest.raises(DataError, match=r"split 'train', has no rows; choose another split or data set"):
        list(load_hub(str(folder), None, "train", None, str(tmp_path / "cache"), None, True))


def test_scripts_are_never_run(tmp_path: Path) -> None:
    folder, marker = tmp_path / "evil", tmp_path / "ran"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(DataError, match=r"evil.*cannot be loaded"):
        load_hub(str(folder), None, "train", None, str(tmp_path / "cache"), None, False)
    assert not marker.exists()
