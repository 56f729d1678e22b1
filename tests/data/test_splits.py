from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from neuralbot.arguments import DataArguments
from neuralbot.conversation import Conversation
from neuralbot.data import origins, splits
from neuralbot.data.splits import Splits, Stream, load_splits
from neuralbot.errors import DataError


def rows(start: int, stop: int) -> list[dict[str, str]]:
    return [{"instruction": f"Question {number}", "output": f"Answer {number}"} for number in range(start, stop)]


def write(path: Path, content: list[dict[str, Any]]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def questions(conversations: Iterable[Conversation]) -> list[str]:
    return [row.turns[0].content for row in conversations]


def held_back(path: Path, content: list[dict[str, Any]], *, percent: int = 20, seed: int = 42) -> Splits:
    data = DataArguments(train_file=write(path, content), validation_split_percentage=percent, dataset_seed=seed)
    return load_splits(data, "completion", do_eval=True)


def test_three_files(tmp_path: Path) -> None:
    names = [
        write(tmp_path / f"{role}.jsonl", rows(start, start + 2)) for start, role in ((0, "a"), (2, "b"), (4, "c"))
    ]
    data = DataArguments(train_file=names[0], validation_file=names[1], test_file=names[2])
    splits = load_splits(data, "completion", do_eval=True)
    assert questions(splits.train) == ["Question 0", "Question 1"]
    assert questions(splits.validation) == ["Question 2", "Question 3"]
    assert questions(splits.test) == ["Question 4", "Question 5"]
    assert splits.notices == ()
    assert splits.fingerprint == {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}
    assert splits.detected[0].startswith(f"{names[0]}: 2 rows, read as Alpaca rows")


def test_validation_rows_are_held_back_by_question(tmp_path: Path) -> None:
    content = rows(0, 500)
    splits = held_back(tmp_path / "a.jsonl", content)
    assert 70 < len(splits.validation) < 130
    assert len(splits.train) + len(splits.validation) == 500
    assert not set(questions(splits.train)) & set(questions(splits.validation))


def test_rows_appended_later_move_none(tmp_path: Path) -> None:
    before = held_back(tmp_path / "a.jsonl", rows(0, 200))
    after = held_back(tmp_path / "a.jsonl", rows(0, 300))
    assert questions(after.validation)[: len(before.validation)] == questions(before.validation)
    assert questions(after.train)[: len(before.train)] == questions(before.train)


def test_the_seed_decides_and_the_same_question_stays_together(tmp_path: Path) -> None:
    content = [row | {"output": f"{row['output']} {way}"} for row in rows(0, 100) for way in "ab"]
    first, again = (held_back(tmp_path / "a.jsonl", content) for _ in range(2))
    other = held_back(tmp_path / "a.jsonl", content, seed=7)
    assert first == again
    assert questions(first.validation) != questions(other.validation)
    assert not set(questions(first.train)) & set(questions(first.validation))
    assert first.notices == ()


def test_at_least_one_row_is_held_back_and_said(tmp_path: Path) -> None:
    splits = held_back(tmp_path / "a.jsonl", rows(0, 10), percent=1)
    assert (len(splits.train), len(splits.validation)) == (9, 1)
    assert "data.validation_split_percentage=1 of 10 rows came to none: one is held back" in splits.notices


def test_evaluation_without_rows_names_the_field(tmp_path: Path) -> None:
    data = DataArguments(train_file=write(tmp_path / "a.jsonl", rows(0, 10)))
    with pytest.raises(DataError, match=r"data\.validation_split_percentage is 0; set it to 1 to 99"):
        load_splits(data, "completion", do_eval=True)
    splits = load_splits(data, "completion", do_eval=False)
    assert (len(splits.train), len(splits.validation)) == (10, 0)


def test_one_row_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 1 row leaves none to train on"):
        held_back(tmp_path / "a.jsonl", rows(0, 1), percent=50)


def test_limits_cut_and_say_when_they_ask_for_too_much(tmp_path: Path) -> None:
    names = [write(tmp_path / "a.jsonl", rows(0, 10)), write(tmp_path / "b.jsonl", rows(10, 14))]
    data = DataArguments(train_file=names[0], validation_file=names[1], max_train_samples=3, max_eval_samples=9)
    splits = load_splits(data, "completion", do_eval=True)
    assert (len(splits.train), len(splits.validation)) == (3, 4)
    assert splits.notices == ("data.max_eval_samples=9, but there are only 4 rows: all are used",)
    data.max_train_samples = 0
    with pytest.raises(DataError, match=r"data\.max_train_samples is 0"):
        load_splits(data, "completion", do_eval=True)


def test_questions_in_two_splits_are_counted(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{start}.jsonl", rows(start, start + 10)) for start in (0, 7, 9)]
    data = DataArguments(train_file=names[0], validation_file=names[1], test_file=names[2])
    splits = load_splits(data, "completion", do_eval=True)
    assert splits.notices == (
        "3 of 10 validation rows ask what the train rows ask too: their scores may flatter",
        "1 of 10 test rows ask what the train rows ask too: their scores may flatter",
        "8 of 10 test rows ask what the validation rows ask too: their scores may flatter",
    )


def test_what_is_given_but_not_used_is_said(tmp_path: Path) -> None:
    names = [write(tmp_path / "a.jsonl", rows(0, 10)), write(tmp_path / "b.jsonl", rows(10, 14))]
    data = DataArguments(train_file=names[0], validation_file=names[1], validation_split_percentage=5)
    assert "data.validation_split_percentage is not used" in load_splits(data, "completion", do_eval=True).notices[0]
    notices = load_splits(data, "completion", do_eval=False).notices
    assert notices == (f"data.validation_file {names[1]} is not read: evaluation is off (training.do_eval)",)


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", [*rows(0, 299), {"instruction": "Q", "output": ""}])
    splits = load_splits(DataArguments(train_file=name), "completion", do_eval=False)
    assert len(splits.train) == 299
    assert splits.notices == (f"{name}: 1 row of 300 left out, the answer is empty: {name}:300",)


def test_a_row_with_other_columns_is_named(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", [*rows(0, 3), {"instruction": "Q", "outptu": "A"}])
    with pytest.raises(DataError, match=r"a\.jsonl:4: column 'output' is missing; present.*'outptu'"):
        load_splits(DataArguments(train_file=name), "completion", do_eval=False)


def test_columns_of_any_name_are_mapped(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", [{"Frage": "Q", "Antwort": "A", "answer": "no"}])
    data = DataArguments(train_file=name, columns={"question": "Frage", "answer": "Antwort"})
    splits = load_splits(data, "completion", do_eval=False)
    assert [turn.content for turn in splits.train[0].turns] == ["Q", "A"]
    assert "'Frage' (data.columns: question), 'Antwort' (data.columns: answer)" in splits.detected[0]
    data.columns = {"question": "Frgae"}
    with pytest.raises(DataError, match=r"a\.jsonl: data\.columns: there is no column 'Frgae'.*did you mean 'Frage'"):
        load_splits(data, "completion", do_eval=False)


def test_a_data_set_in_a_folder_gives_its_splits(tmp_path: Path) -> None:
    for role, start in (("train", 0), ("validation", 50), ("test", 60)):
        write(tmp_path / "set" / f"{role}.jsonl", rows(start, start + 10))
    name, cache = str(tmp_path / "set"), str(tmp_path / "cache")
    data = DataArguments(dataset_name=name, dataset_cache_directory=cache, max_train_samples=4)
    splits = load_splits(data, "completion", do_eval=True)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4, 10, 10)
    assert set(splits.fingerprint) == {f"{name}/train", f"{name}/validation", f"{name}/test"}
    mine = write(tmp_path / "mine.jsonl", rows(80, 83))
    splits = load_splits(
        DataArguments(dataset_name=name, dataset_cache_directory=cache, test_file=mine), "completion", do_eval=False
    )
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (10, 0, 3)


def test_rows_are_held_back_from_all_of_a_data_set_before_it_is_limited(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", rows(0, 200))
    data = DataArguments(
        dataset_name=str(tmp_path / "set"),
        dataset_cache_directory=str(tmp_path / "cache"),
        max_train_samples=10,
        validation_split_percentage=20,
    )
    splits = load_splits(data, "completion", do_eval=True)
    assert (len(splits.train), len(splits.test)) == (10, 0)
    assert len(splits.validation) > 20


def test_no_training_rows_is_an_error(tmp_path: Path) -> None:
    data = DataArguments(validation_file=write(tmp_path / "a.jsonl", rows(0, 3)))
    with pytest.raises(DataError, match=r"give data\.train_file or data\.dataset_name"):
        load_splits(data, "completion", do_eval=True)


# Several sources


def mixed(folder: Path, weights: tuple[float | None, float | None], **more: Any) -> DataArguments:
    """Two sources, of 40 and 20 rows; the second a folder of two files."""
    first = write(folder / "first.jsonl", rows(0, 40))
    write(folder / "second" / "a.jsonl", rows(100, 110))
    write(folder / "second" / "b.jsonl", rows(110, 120))
    entries = [{"path": first, "weight": weights[0]}, {"path": str(folder / "second"), "weight": weights[1]}]
    return DataArguments(sources=entries, **more)


def test_sources_without_weights_give_every_row_once(tmp_path: Path) -> None:
    found = load_splits(mixed(tmp_path, (None, None)), "completion", do_eval=False)
    assert sorted(questions(found.train)) == sorted(f"Question {n}" for n in (*range(40), *range(100, 120)))
    assert found.used == {str(tmp_path / "first.jsonl"): 40, str(tmp_path / "second"): 20}
    assert found.detected[1].startswith(f"{tmp_path / 'second'}: 2 files, 20 rows, read as Alpaca rows")
    assert found.detected[2] == f"{tmp_path / 'first.jsonl'}: 40 of the 60 rows of an epoch (67%)"
    assert set(found.fingerprint) == set(found.used)


def test_weights_decide_the_shares_and_repetition_is_said(tmp_path: Path) -> None:
    found = load_splits(mixed(tmp_path, (1, 1)), "completion", do_eval=False)
    counts = Counter(questions(found.train))
    assert found.used == {str(tmp_path / "first.jsonl"): 40, str(tmp_path / "second"): 40}
    assert counts["Question 3"] == 1 and counts["Question 105"] == 2
    assert found.detected[-1] == (
        f"{tmp_path / 'second'}: 40 of the 80 rows of an epoch (50%, weight 1); each of its 20 rows 2.0 times"
    )
    limited = load_splits(mixed(tmp_path, (3, 1), max_train_samples=8), "completion", do_eval=False)
    assert list(limited.used.values()) == [6, 2]


def test_validation_rows_are_held_back_from_each_source(tmp_path: Path) -> None:
    found = load_splits(mixed(tmp_path, (1, 1), validation_split_percentage=30), "completion", do_eval=True)
    held_back = questions(found.validation)
    assert len(held_back) == len(set(held_back))
    assert any(len(question) == 12 for question in held_back)  # "Question 105"
    assert any(len(question) < 12 for question in held_back)
    assert not set(held_back) & set(questions(found.train))
    assert set(held_back) | set(questions(found.train)) == {f"Question {n}" for n in (*range(40), *range(100, 120))}


def test_weights_are_for_all_sources_or_for_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.sources: .*second has no weight, others have; give every source"):
        load_splits(mixed(tmp_path, (1, None)), "completion", do_eval=False)
    with pytest.raises(DataError, match=r"data\.sources: give every source a weight"):
        load_splits(mixed(tmp_path, (None, None), streaming=True), "completion", do_eval=False)


def test_a_source_of_the_hub_is_read_with_its_split(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", rows(0, 5))
    write(tmp_path / "set" / "test.jsonl", rows(5, 8))
    name, cache = str(tmp_path / "set"), str(tmp_path / "cache")
    data = DataArguments(sources=[{"name": name}, {"name": name, "split": "test"}], dataset_cache_directory=cache)
    found = load_splits(data, "completion", do_eval=False)
    assert sorted(questions(found.train)) == [f"Question {n}" for n in range(8)]
    assert found.used == {f"{name}/train": 5, f"{name}/test": 3}


# Bad rows


def test_bad_rows_are_skipped_counted_and_kept(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", [*rows(0, 5), {"instruction": 5, "output": "x"}, *rows(5, 9)])
    with Path(name).open("a") as file:
        file.write("no json\n")
    with pytest.raises(DataError, match=r"a\.jsonl:11:1: invalid JSON"):  # columns are looked for before fields
        load_splits(DataArguments(train_file=name), "completion", do_eval=False)
    found = load_splits(DataArguments(train_file=name, on_bad_row="skip"), "completion", do_eval=False)
    assert len(tuple(found.train)) == 9
    assert {row.row for row in found.bad.found} == {'{"instruction": 5, "output": "x"}', "no json\n"}
    assert found.notices[-1].startswith(f"2 bad rows were skipped (data.on_bad_row), the first: {name}:")
    with pytest.raises(DataError, match=r"more than 1 bad rows, the limit of data\.max_bad_rows"):
        load_splits(DataArguments(train_file=name, on_bad_row="skip", max_bad_rows=1), "completion", do_eval=False)


# Streamed


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0)])
def test_a_stream_gives_what_memory_would_hold(tmp_path: Path, weights: tuple[float, float]) -> None:
    arguments: dict[str, Any] = {
        "validation_split_percentage": 20,
        "test_file": write(tmp_path / "test.jsonl", rows(3, 4)),
    }
    whole = load_splits(mixed(tmp_path, weights, **arguments), "completion", do_eval=True)
    found = load_splits(mixed(tmp_path, weights, **arguments, streaming=True), "completion", do_eval=True)
    assert isinstance(found.train, Stream)
    assert list(found.train) == list(found.train) == list(whole.train)
    assert sorted(questions(found.validation)) == sorted(questions(whole.validation))
    assert found.fingerprint == whole.fingerprint
    assert found.train.count() == len(tuple(whole.train))
    assert found.train.used == whole.used


def test_of_a_stream_no_more_is_read_than_the_validation_rows_need(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", rows(0, 3000))
    with Path(name).open("a") as file:
        file.write("no json\n")
    data = DataArguments(train_file=name, validation_split_percentage=50, max_eval_samples=20, streaming=True)
    found = load_splits(data, "completion", do_eval=True)  # the end of the file is not reached
    assert isinstance(found.train, Stream)
    assert len(found.validation) == 20
    assert len(found.train.head()) == splits.SAMPLE_ROWS
    assert found.detected[0].startswith(f"{name}: read while training, read as Alpaca rows")
    with pytest.raises(DataError, match=r"a\.jsonl:3001"):
        found.train.count()


def test_the_default_number_of_streamed_validation_rows_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "STREAMED_EVAL_ROWS", 30)
    data = DataArguments(
        train_file=write(tmp_path / "a.jsonl", rows(0, 500)), validation_split_percentage=50, streaming=True
    )
    found = load_splits(data, "completion", do_eval=True)
    assert len(found.validation) == 30
    assert found.notices == ("data.max_eval_samples is not set: of the streamed rows the first 30 are validated on",)


def test_a_stream_tells_what_held_out_rows_it_gives_away(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{start}.jsonl", rows(start, start + 10)) for start in (0, 7, 9)]
    data = DataArguments(train_file=names[0], validation_file=names[1], test_file=names[2], streaming=True)
    found = load_splits(data, "completion", do_eval=True)
    assert isinstance(found.train, Stream)
    assert "8 of 10 test rows ask what the validation rows ask too: their scores may flatter" in found.notices
    assert found.train.notices() == []
    found.train.count()
    assert found.train.notices() == [
        "3 questions of the held-out rows are asked by training rows too: their scores may flatter"
    ]


def test_nothing_held_back_from_a_stream_is_an_error(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", rows(0, 3))
    with pytest.raises(DataError, match="validation_split_percentage=1 holds back none of the rows; raise it"):
        load_splits(
            DataArguments(train_file=name, validation_split_percentage=1, streaming=True), "completion", do_eval=True
        )


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_files_that_are_large_beside_the_memory_are_streamed_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    import gzip

    path = Path(write(tmp_path / "a.jsonl", rows(0, 50)))
    if packed:
        content = path.read_bytes()
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(content))
    size = path.stat().st_size * (origins._PACKED if packed else 1)
    for memory, streamed in ((size * splits.SHARE_OF_MEMORY, False), (size * splits.SHARE_OF_MEMORY - 32, True)):
        machine = splits.hardware.Hardware("", "", 1, 1, memory, False, False)
        monkeypatch.setattr(splits.hardware, "probe", lambda machine=machine: machine)
        found = load_splits(DataArguments(train_file=str(path)), "completion", do_eval=False)
        assert isinstance(found.train, Stream) == streamed
        assert any("more than 1/32 of the memory" in notice for notice in found.notices) == streamed
        assert sorted(questions(found.train)) == sorted(f"Question {n}" for n in range(50))


def test_rows_appended_later_move_none_of_a_stream(tmp_path: Path) -> None:
    before, after = (
        load_splits(
            DataArguments(
                train_file=write(tmp_path / "a.jsonl", rows(0, count)), validation_split_percentage=20, streaming=True
            ),
            "completion",
            do_eval=True,
        )
        for count in (200, 300)
    )
    # the file of both is the longer one by now; what was held back before is what counts
    assert set(questions(before.validation)) <= set(questions(after.validation))
    assert not set(questions(before.validation)) & set(questions(after.train))
