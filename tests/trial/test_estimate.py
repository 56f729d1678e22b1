"""The estimate of a whole run, by figures that are counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from neuralbot.arguments import EvaluationArguments
from neuralbot.conversation import Conversation, Turn
from neuralbot.data.splits import Splits
from neuralbot.data.tokenized import Tokenized, TokenRows
from neuralbot.data.training_data import TrainingData
from neuralbot.trial.estimate import Measured, duration, whole_run

MEASURED = Measured(training=100.0, evaluation=200.0, answering=10.0, memory_bytes=3 << 30, saved_bytes=5 << 20)


def tokens(rows: int) -> Tokenized:
    """Rows of 20 tokens, 5 of them trained on."""
    return Tokenized(TokenRows.of({"input_ids": [1] * 20, "labels": [-100] * 15 + [1] * 5} for _ in range(rows)), 0, ())


def data(validation: int = 0, test: int = 0) -> TrainingData:
    rows = tuple(Conversation((Turn("user", str(place)), Turn("assistant", "b"))) for place in range(test))
    return TrainingData(Splits((), (), rows, (), {}), tokens(100), tokens(validation) if validation else None, 20)


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    chosen = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "save_strategy": "no"} | more
    return TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", **chosen)


def test_time_goes_by_tokens(tmp_path: Path) -> None:
    found = whole_run(arguments(tmp_path, num_train_epochs=2), data(), None, MEASURED, 1.5)
    assert found.steps == 26  # 100 rows in 13 batches of 8, twice
    assert found.training_s == pytest.approx(2 * 100 * 20 / 100)
    assert (found.evaluation_s, found.scoring_s, found.prepare_s) == (0.0, 0.0, 1.5)
    assert found.describe() == [
        "26 steps in about 42 s: 40 s for training, 0 s for held-out losses, 2 s before the first step",
        "3.0 GiB of memory, 5 MiB of disk",
    ]


def test_max_steps_ends_it(tmp_path: Path) -> None:
    found = whole_run(arguments(tmp_path, max_steps=10), data(), None, MEASURED, 0.0)
    assert found.steps == 10
    assert found.training_s == pytest.approx(10 * 8 * 20 / 100)


@pytest.mark.parametrize(
    ("more", "times"),
    [({}, 2), ({"eval_strategy": "steps", "eval_steps": 5}, 2 + 7), ({"eval_strategy": "epoch"}, 2 + 3),
     ({"eval_strategy": "steps", "eval_steps": 0.25}, 2 + 4)],
)  # fmt: skip
def test_held_out_losses_before_after_and_meanwhile(tmp_path: Path, more: dict[str, Any], times: int) -> None:
    found = whole_run(arguments(tmp_path, **more), data(validation=10), None, MEASURED, 0.0)
    assert found.steps == 39
    assert found.evaluation_s == pytest.approx(times * 10 * 20 / 200)


def test_scoring_asks_each_question_before_and_after(tmp_path: Path) -> None:
    scoring = EvaluationArguments(max_new_tokens=8)
    found = whole_run(arguments(tmp_path), data(test=30), scoring, MEASURED, 0.0)
    assert found.scoring_s == pytest.approx(30 * (8 + 5) / 10)
    after_only = replace(scoring, before_tuning=False, max_samples=20, max_new_tokens=3)
    assert whole_run(arguments(tmp_path), data(test=30), after_only, MEASURED, 0.0).scoring_s == pytest.approx(6)


@pytest.mark.parametrize(
    ("more", "checkpoints"),
    [
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "steps", "save_steps": 10}, 3),
        ({"save_strategy": "steps", "save_steps": 10, "save_total_limit": 1}, 2),
        (
            {"save_strategy": "epoch", "save_total_limit": 1, "load_best_model_at_end": True, "eval_strategy": "epoch"},
            3,
        ),
    ],
)
def test_checkpoints_take_disk(tmp_path: Path, more: dict[str, Any], checkpoints: int) -> None:
    found = whole_run(arguments(tmp_path, **more), data(validation=1), None, MEASURED, 0.0)
    assert found.disk_bytes == (1 + checkpoints) * (5 << 20)


def test_times_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.4, 99, 120, 5999, 9000)] == ["0 s", "99 s", "2 min", "100 min", "2.5 h"]
