from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from neuralbot.conversation import Conversation, Turn
from neuralbot.data import token_cache
from neuralbot.data.token_cache import tokenize_or_recall
from neuralbot.data.tokenized import Tokenized, tokenize
from neuralbot.errors import DataError

ROWS = [Conversation((Turn("user", f"What is {n}?"), Turn("assistant", "word " * (n + 1)))) for n in range(30)]
Recall = Callable[..., Tokenized]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were really tokenized, call by call."""
    counts: list[int] = []

    def counting(conversations: Any, *arguments: Any, **more: Any) -> Tokenized:
        counts.append(len(conversations))
        return tokenize(conversations, *arguments, **more)

    monkeypatch.setattr(token_cache, "tokenize", counting)
    return counts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test, used for any number of rows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(token_cache, "WORTH_CHARACTERS", 0)
    return tmp_path / "neuralbot" / "rows"


@pytest.fixture
def recall(tiny_tokenizer: PreTrainedTokenizerFast, folder: Path) -> Recall:
    def call(rows: list[Conversation] = ROWS, length: int = 40, **more: Any) -> Tokenized:
        return tokenize_or_recall(rows, tiny_tokenizer, length, False, "training rows", **more)

    return call


def same(one: Tokenized, other: Tokenized) -> bool:
    return list(one.rows) == list(other.rows) and one.notices == other.notices and one.dropped == other.dropped


def test_the_second_run_tokenizes_nothing_and_gets_the_same(
    recall: Recall, made: list[int], folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = tokenize(ROWS, tiny_tokenizer, 40, False, "training rows")
    assert plain.cut and plain.notices
    first, second = recall(), recall()
    assert same(first, plain) and same(second, plain)
    assert (second.cut, second.shortened) == (plain.cut, plain.shortened)
    assert made == [30]
    assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".safetensors"]


def test_rows_come_mapped_from_the_file(recall: Recall, folder: Path) -> None:
    recall()
    entry = next(folder.glob("*.safetensors"))
    kept = recall()
    assert str(entry) in Path("/proc/self/maps").read_text()
    assert kept.rows.tokens > 0


def test_whatever_the_rows_depend_on_makes_another_entry(
    recall: Recall, made: list[int], tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall()
    other = [*ROWS[:-1], Conversation((Turn("user", "What is 29?"), Turn("assistant", "a")))]
    system = [Conversation((Turn("system", "Be brief."), *row.turns)) for row in ROWS]
    recall(other)
    recall(system)
    recall(ROWS[:-1])
    recall(list(reversed(ROWS)))
    recall(length=41)
    tokenize_or_recall(ROWS, tiny_tokenizer, 40, True, "training rows")
    template, token = copy.deepcopy(tiny_tokenizer), copy.deepcopy(tiny_tokenizer)
    template.chat_template = "{{ '!' }}" + str(tiny_tokenizer.chat_template)
    token.add_tokens(["word"])
    for tokenizer in (template, token):
        tokenize_or_recall(ROWS, tokenizer, 40, False, "training rows")
    monkeypatch.setattr(token_cache, "_code", lambda: "another version")
    recall()
    assert len(made) == 10
    monkeypatch.undo()


def test_tools_that_may_be_called_are_part_of_the_key(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with_tools = [replace(ROWS[0], tools=({"type": "function", "function": {"name": "find"}},))]
    keys = {token_cache._key(rows, tiny_tokenizer, 40, False, "rows") for rows in (ROWS[:1], with_tools, ROWS[:1])}
    assert len(keys) == 2


def test_the_place_of_a_row_does_not_matter(recall: Recall, made: list[int]) -> None:
    recall()
    recall([Conversation(row.turns, where="elsewhere.jsonl:7") for row in ROWS])
    assert made == [30]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_entry_is_made_anew_and_it_is_said(
    recall: Recall, made: list[int], folder: Path, damage: str
) -> None:
    first = recall()
    rows = list(first.rows)
    del first  # or its mapping would be cut under it
    entry = next(folder.glob("*.safetensors"))
    raw = entry.read_bytes()
    flipped = raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]
    entry.unlink()
    entry.write_bytes({"cut": raw[:-100], "flipped": flipped, "empty": b"", "foreign": b"x" * 5000}[damage])
    again = recall()
    assert list(again.rows) == rows
    assert "tokenized anew, the cached rows" in again.notices[-1] and str(entry) in again.notices[-1]
    assert made == [30, 30]
    assert not any("anew" in notice for notice in recall().notices)
    assert made == [30, 30]


def test_overwrite_cache_makes_the_rows_anew(recall: Recall, made: list[int]) -> None:
    recall()
    assert "because of data.overwrite_cache" in recall(overwrite=True).notices[-1]
    assert made == [30, 30]
    recall()
    assert made == [30, 30]


def test_few_rows_are_not_kept(recall: Recall, made: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "WORTH_CHARACTERS", 10_000)
    recall()
    recall()
    assert made == [30, 30] and not folder.exists()


def test_an_error_in_the_rows_keeps_nothing(recall: Recall, folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="0 usable of 30 rows"):
            recall(length=2)
    assert not list(folder.glob("*.safetensors"))


def test_the_entries_used_longest_ago_go_first(
    recall: Recall, made: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def age(entry: Path, days: int) -> None:
        os.utime(entry, (1.7e9 - days * 86400,) * 2)

    names = {}
    for length, days in ((40, 1), (41, 3), (42, 2)):
        before = set(folder.glob("*.safetensors"))
        recall(length=length)
        (names[length],) = set(folder.glob("*.safetensors")) - before
        age(names[length], days)
    recall(length=41)  # used just now: the newest
    monkeypatch.setattr(token_cache, "KEPT_BYTES", int(3.5 * names[40].stat().st_size))
    recall(length=43)
    left = {length for length, name in names.items() if name.exists()}
    assert left == {40, 41}
    assert not names[42].with_suffix(".lock").exists()
    monkeypatch.setattr(token_cache, "KEPT_BYTES", 0)
    recall(length=44)
    assert len(list(folder.glob("*.safetensors"))) == 1  # what is used now stays


def test_a_folder_that_cannot_be_written_is_a_notice(
    recall: Recall, made: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = recall()
    assert "training rows: tokenized without the cache: " in done.notices[-1]
    assert len(done.rows) == 30 and made == [30]


def test_a_full_disk_while_writing_is_a_notice_and_costs_no_second_tokenizing(
    recall: Recall, made: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "save_file", full)
    done = recall()
    assert "not kept in the cache: [Errno 28] No space left on device" in done.notices[-1]
    assert len(done.rows) == 30 and made == [30]


def test_a_lock_that_is_held_is_told_and_waited_for(
    recall: Recall, made: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall()
    (lock_file,) = (path.with_suffix(".lock") for path in folder.glob("*.safetensors"))
    held, told = FileLock(lock_file, thread_local=False), list[str]()

    def say(text: str) -> None:
        told.append(text)
        threading.Timer(0.2, held.release).start()

    held.acquire()
    done = recall(say=say)
    assert made == [30] and len(done.rows) == 30
    assert len(told) == 1 and str(lock_file) in told[0] and "at most 600 s" in told[0]


def test_a_lock_that_is_never_given_back_is_a_notice_that_names_it(
    recall: Recall, made: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recall()
    monkeypatch.setattr(token_cache, "_WAIT_S", 0.1)
    (lock_file,) = (path.with_suffix(".lock") for path in folder.glob("*.safetensors"))
    with FileLock(lock_file):
        done = recall(say=lambda _: None)
    assert str(lock_file) in done.notices[-1] and "tokenized without the cache" in done.notices[-1]
    assert made == [30, 30]
