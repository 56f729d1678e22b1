"""Mistakes people make in data files: each ends in one message that says where, what and what next, and in status 3."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from neuralbot.arguments import DataArguments
from neuralbot.data.splits import load_splits
from neuralbot.data.tokenized import tokenize
from neuralbot.errors import DataError

GOOD = {"instruction": "Add 1 and 2.", "output": "3"}
LINE = json.dumps(GOOD) + "\n"


def jsonl(*rows: Any) -> str:
    return LINE * 2 + "".join(json.dumps(row) + "\n" for row in rows)


def talk(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


MISTAKES: dict[str, tuple[str, str | bytes, list[str]]] = {
    "a comma is missing in line 3": (
        "t.jsonl",
        LINE * 2 + '{"instruction": "a" "output": "b"}\n',
        ["t.jsonl:3:21:", "invalid JSON"],
    ),
    "single quotes": ("t.jsonl", "{'instruction': 'a'}\n", ["t.jsonl:1:2:", "double quotes"]),
    "the list is not closed": ("t.json", f"[{LINE},{LINE}", ["t.json:3:1:", "the file ends inside the list"]),
    "empty file": ("t.json", "", ["t.json: has no rows: 0 usable of 0", "at least one row"]),
    "empty list": ("t.json", "[]", ["t.json: has no rows"]),
    "header alone": ("t.csv", "instruction,output\n", ["t.csv: has no rows"]),
    "latin-1": (
        "t.csv",
        "instruction,output\nJos\xe9,x\n".encode("latin-1"),
        ["t.csv:2:4:", "0xe9 is not UTF-8", "iconv"],
    ),
    "UTF-16": ("t.csv", "instruction,output\na,b\n".encode("utf-16"), ["t.csv:1:1:", "UTF-16"]),
    "NUL": ("t.txt", b"a\nb\x00c\n", ["t.txt:2:2:", "NUL"]),
    "half a character": (
        "t.jsonl",
        LINE + '{"instruction": "\\udc00", "output": "x"}\n',
        ["t.jsonl:2:18:", "lone surrogate"],
    ),
    "NaN": ("t.jsonl", '{"instruction": "a", "output": NaN}\n', ["t.jsonl:1:1:", "NaN is not a JSON value"]),
    "a key twice": ("t.jsonl", '{"output": "a", "output": "b"}\n', ["t.jsonl:1:1:", "'output' appears twice"]),
    "a row is a list": ("t.jsonl", LINE + '["a", "b"]\n', ["t.jsonl:2:", "a list, not an object"]),
    "an unquoted comma": ("t.csv", "instruction,output\na,b\na,b,c\n", ["t.csv:3:", "3 cells", "header has 2"]),
    "a column twice": ("t.csv", "output,output\na,b\n", ["t.csv:1:", "'output' stands twice"]),
    "an open quote": ("t.csv", 'instruction,output\n"a,b\nc,d\n', ["t.csv:2:", "check the quotes"]),
    "column misspelt": (
        "t.csv",
        "instruction,ouput\na,b\n",
        ["t.csv:", "'output' or 'response' is missing", "'ouput'"],
    ),
    "unknown columns": ("t.csv", "x,y\na,b\n", ["t.csv:", "no known format", "'x', 'y'", "question|query"]),
    "column missing in one row": ("t.jsonl", jsonl({"instruction": "a"}), ["t.jsonl:3: ", "'output' is missing"]),
    "null": ("t.jsonl", jsonl({"instruction": "a", "output": None}), ["t.jsonl:3: ", "'output' is null"]),
    "list for text": ("t.jsonl", jsonl({"instruction": "a", "output": ["b"]}), ["t.jsonl:3: ", "'output' is a list"]),
    "number for text": (
        "t.jsonl",
        jsonl({"instruction": 1, "output": "b"}),
        ["t.jsonl:3: ", "'instruction' is a number"],
    ),
    "empty question": (
        "t.jsonl",
        jsonl({"instruction": " ", "output": "b"}),
        ["t.jsonl:3: ", "'instruction' is empty"],
    ),
    "empty answer": (
        "t.jsonl",
        jsonl({"instruction": "a", "output": ""}),
        ["t.jsonl:3: ", "1 of 3 rows", "answer is empty"],
    ),
    "unknown role": ("t.json", json.dumps([talk("user", "robot")]), ["row 1", "unknown role 'robot'", "gpt"]),
    "roles swapped": ("t.json", json.dumps([talk("assistant", "user")]), ["row 1", "turn 1 is the assistant's"]),
    "no answer": ("t.json", json.dumps([talk("user")]), ["row 1", "no assistant turn"]),
    "messages as text": ("t.json", '[{"messages": "hi"}]', ["row 1", "'messages' is a text", "list of turns"]),
    "packed and cut off": ("t.jsonl.gz", gzip.compress(LINE.encode() * 99)[:-9], ["t.jsonl.gz: cannot be read"]),
    "a spreadsheet": ("t.xlsx", b"PK", ["extension '.xlsx'", ".csv"]),
    "not parquet": ("t.parquet", b"PK", ["is not a usable parquet file"]),
}


def refusal(data: DataArguments, *, do_eval: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(data, "completion", do_eval=do_eval)
    assert caught.value.exit_status == 3
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_a_file(tmp_path: Path, mistake: str) -> None:
    name, content, parts = MISTAKES[mistake]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    message = refusal(DataArguments(train_file=str(path)))
    for part in parts:
        assert part in message
    assert sorted(tmp_path.iterdir()) == [path]


def test_mistakes_are_found_in_every_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(LINE)
    bad.write_text(LINE + "{}\n")
    for arguments in ({"validation_file": str(bad)}, {"test_file": str(bad)}):
        assert "bad.jsonl:2: " in refusal(DataArguments(train_file=str(good), **arguments), do_eval=True)


def test_mistakes_in_what_is_asked_for(tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text(LINE)
    assert "does not exist" in refusal(DataArguments(train_file=str(tmp_path / "none.jsonl")))
    (tmp_path / "empty").mkdir()
    assert "empty: is a folder without rows" in refusal(DataArguments(train_file=str(tmp_path / "empty")))
    assert "validation_split_percentage" in refusal(DataArguments(train_file=str(good)), do_eval=True)
    assert "max_train_samples is -1" in refusal(DataArguments(train_file=str(good), max_train_samples=-1))
    assert "data.train_file" in refusal(DataArguments(test_file=str(good)))


def test_a_length_that_leaves_no_answer(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text(LINE)
    splits = load_splits(DataArguments(train_file=str(good)), "completion", do_eval=False)
    with pytest.raises(DataError, match=r"0 usable of 1 rows.*data\.max_seq_length=4") as caught:
        tokenize(splits.train, tiny_tokenizer, 4, False, where="training rows")
    assert caught.value.exit_status == 3
