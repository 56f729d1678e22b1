"""A stream has no end and no epochs: here a run over one gets its number of steps, and steps in place of epochs.

Does not: read the stream itself, train.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

_KINDS = (("eval", IntervalStrategy.STEPS), ("save", SaveStrategy.STEPS), ("logging", IntervalStrategy.STEPS))


def run_by_steps(arguments: TrainingArguments, count_rows: Callable[[], int]) -> str | None:
    """Set what training over a stream needs; the rows are counted only where steps depend on them.

    Returns what was changed of the user's settings, for people. Call it before batches are merged for packing.
    """
    arguments.accelerator_config.dispatch_batches = False  # a batch of packs is no tensor that could be dispatched
    changed = []
    if arguments.dataloader_num_workers:
        arguments.dataloader_num_workers, arguments.dataloader_persistent_workers = 0, False
        changed.append("dataloader_num_workers=0 (each worker would read all rows)")
    if arguments.max_steps <= 0 or any(_by_epoch(arguments, kind) for kind, _ in _KINDS):
        changed += _steps_for_epochs(arguments, count_rows())
    return f"the rows are streamed: {', '.join(changed)}" if changed else None


def _by_epoch(arguments: TrainingArguments, kind: str) -> bool:
    return bool(getattr(arguments, f"{kind}_strategy") == "epoch")


def _steps_for_epochs(arguments: TrainingArguments, rows: int) -> list[str]:
    steps = math.ceil(rows / (arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps))
    changed = [f"an epoch of {rows:,} rows takes {steps:,} steps"]
    if arguments.max_steps <= 0:
        arguments.max_steps = math.ceil(arguments.num_train_epochs * steps)
        changed.append(f"max_steps={arguments.max_steps}")
    for kind, by_steps in _KINDS:
        if _by_epoch(arguments, kind):
            setattr(arguments, f"{kind}_strategy", by_steps)
            setattr(arguments, f"{kind}_steps", steps)
            changed.append(f"{kind}_steps={steps}")
    return changed
