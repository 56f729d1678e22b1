from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from neuralbot.training.stream_steps import run_by_steps


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "report_to": "none"}
    return TrainingArguments(output_dir=str(folder), use_cpu=True, **settings | more)


def never() -> int:
    raise AssertionError("the rows were counted")


def test_with_a_number_of_steps_nothing_is_counted_or_changed(tmp_path: Path) -> None:
    found = arguments(tmp_path, max_steps=7, eval_strategy="steps", eval_steps=3)
    assert run_by_steps(found, never) is None
    assert (found.max_steps, found.eval_steps) == (7, 3)
    assert found.accelerator_config.dispatch_batches is False


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(80, 3.0, 30), (81, 3.0, 33), (3, 1.0, 1), (800, 0.5, 50)])
def test_epochs_become_steps(tmp_path: Path, rows: int, epochs: float, steps: int) -> None:
    found = arguments(tmp_path, num_train_epochs=epochs)
    said = run_by_steps(found, lambda: rows)
    assert found.max_steps == steps
    assert said is not None and f"an epoch of {rows} rows takes" in said and f"max_steps={steps}" in said


def test_what_is_done_each_epoch_is_done_each_so_many_steps(tmp_path: Path) -> None:
    found = arguments(tmp_path, max_steps=50, eval_strategy="epoch", save_strategy="epoch")
    said = run_by_steps(found, lambda: 80)
    assert (found.eval_strategy, found.eval_steps, found.save_strategy, found.save_steps) == ("steps", 10, "steps", 10)
    assert found.max_steps == 50
    assert said == "the rows are streamed: an epoch of 80 rows takes 10 steps, eval_steps=10, save_steps=10"


def test_no_workers_read_the_rows_once_more(tmp_path: Path) -> None:
    found = arguments(tmp_path, max_steps=5, dataloader_num_workers=2, dataloader_persistent_workers=True)
    said = run_by_steps(found, never)
    assert (found.dataloader_num_workers, found.dataloader_persistent_workers) == (0, False)
    assert said == "the rows are streamed: dataloader_num_workers=0 (each worker would read all rows)"
