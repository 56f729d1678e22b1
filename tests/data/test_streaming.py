from __future__ import annotations

import itertools
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from neuralbot.arguments import DataArguments
from neuralbot.conversation import Conversation, Turn
from neuralbot.data import streaming
from neuralbot.data.splits import load_splits
from neuralbot.data.streaming import StreamedRows, shuffled
from neuralbot.data.tokenized import Row, Tokenizing, tokenize
from neuralbot.data.training_data import tokenize_splits
from neuralbot.errors import DataError


def row(number: int, length: int = 3) -> Row:
    return {"input_ids": [number] * length, "labels": [-100] + [number] * (length - 1)}


def numbers(rows: Any) -> list[int]:
    return [row["input_ids"][0] for row in rows]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 60), st.integers(0, 9))
def test_a_shuffle_gives_each_row_once_and_is_seeded(count: int, rows: int, tokens: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BUFFER_ROWS", rows)
        patch.setattr(streaming, "BUFFER_TOKENS", tokens)
        found = list(shuffled(map(row, range(count)), random.Random(seed)))
        again = list(shuffled(map(row, range(count)), random.Random(seed)))
    assert found == again
    assert sorted(numbers(found)) == list(range(count))
    assert all(row == {"input_ids": [n] * 3, "labels": [-100, n, n]} for row in found for n in row["input_ids"][:1])


def test_the_buffer_mixes_far_and_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_ROWS", 100)
    waiting = 0

    def source() -> Any:
        nonlocal waiting
        for number in range(1000):
            waiting += 1
            yield row(number)

    found = []
    for one in shuffled(source(), random.Random(1)):
        waiting -= 1
        found.append(one["input_ids"][0])
        assert waiting <= 100
    moved = [abs(place - number) for place, number in enumerate(found)]
    assert sum(moved) / len(moved) > 50


def test_long_rows_fill_the_buffer_by_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_TOKENS", 2_000_000)
    tracemalloc.start()
    count = sum(1 for _ in shuffled((row(number % 7, 100_000) for number in range(200)), random.Random(1)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200
    assert peak < 2_000_000 * 8 * 3  # two arrays of four bytes a token, and lists of the row that is drawn


def conversations(count: int) -> list[Conversation]:
    return [Conversation((Turn("user", f"Question {n}"), Turn("assistant", f"Answer {n}"))) for n in range(count)]


def test_a_stream_has_no_end_and_another_order_in_each_pass(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    asked = conversations(50)
    whole = [tuple(row["input_ids"]) for row in tokenize(asked, tiny_tokenizer, 100, False, "x").rows]

    def passes(seed: int) -> list[list[tuple[int, ...]]]:
        rows = StreamedRows(asked, Tokenizing(tiny_tokenizer, 100, False, "x"), seed)
        found = [tuple(row["input_ids"]) for row in itertools.islice(rows, 150)]
        return [found[start : start + 50] for start in (0, 50, 100)]

    found = passes(1)
    for one in found:
        assert Counter(one) == Counter(whole)
    assert found[0] != found[1] != found[2] != whole
    assert passes(1) == found
    assert passes(2) != found


def test_a_stream_without_a_usable_row_is_an_error_not_an_endless_loop(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = StreamedRows(conversations(5), Tokenizing(tiny_tokenizer, 4, False, "training rows"), 1)
    with pytest.raises(DataError, match=r"training rows: 0 usable of 5 rows.*data\.max_seq_length=4"):
        next(iter(rows))


def test_training_data_of_a_stream_is_its_sample_and_tells_the_rest_later(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    lines = [f'{{"instruction": "Question {n}", "output": "Answer {n}"}}\n' for n in range(1500)]
    lines[1200] = "no json\n"
    lines[1300] = '{"instruction": "Q", "output": "' + "word " * 80 + '"}\n'
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines))
    data = DataArguments(train_file=str(path), on_bad_row="skip", streaming=True)
    found = load_splits(data, "completion", do_eval=False)
    rows = tokenize_splits(found, tiny_tokenizer, 60, False, data, print)
    assert rows.notices == () and len(rows.train.rows) == 1000 and rows.longest == 60
    assert rows.describe().startswith("training rows streamed (the first 1,000: ")
    assert rows.manifest()["streamed"] is True and "train" not in rows.manifest()["rows"]
    assert rows.stream is not None
    assert sum(1 for _ in itertools.islice(rows.stream, 1499)) == 1499
    later = rows.later_notices()
    assert later[0].startswith("training rows: 1 of 1499 have an answer that is cut at data.max_seq_length=60")
    assert later[1].startswith(f"1 bad row was skipped (data.on_bad_row), the first: {path}:1201:1: invalid JSON")
    assert rows.count_stream() == 1499
    assert rows.manifest()["rows"]["train"] == 1499


def test_training_data_in_memory_lets_the_conversations_go(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "Q", "output": "A B"}\n' * 20)
    data = DataArguments(train_file=str(path))
    rows = tokenize_splits(load_splits(data, "completion", do_eval=False), tiny_tokenizer, 60, False, data, print)
    assert rows.splits.train == () and rows.stream is None and rows.trained_on is rows.train.rows
    assert rows.longest == max(len(row["input_ids"]) for row in rows.train.rows)
    assert rows.describe().startswith("20 training rows (")
    assert rows.manifest()["rows"] == {"validation": 0, "test": 0, "train": 20}
    assert rows.later_notices() == []
