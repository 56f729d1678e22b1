"""What the whole run will take, from what a trial of the same recipe measured: an estimate, and told as one.

Time goes by tokens, not by rows. Memory is what the trial itself needed, a step of the longest rows included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from neuralbot.arguments import EvaluationArguments
    from neuralbot.data.training_data import TrainingData


@dataclass(frozen=True)
class Measured:
    """Speeds in tokens a second: of training steps as most are, of held-out losses, of greedy answers side by side.

    memory_bytes: the most that was held. saved_bytes: files of the result.
    """

    training: float
    evaluation: float
    answering: float
    memory_bytes: int
    saved_bytes: int


@dataclass(frozen=True)
class WholeRun:
    """steps: None for streamed rows that nobody has counted; then the times hold for 1,000 rows.

    scoring_s: answering the test rows before and after; batches larger than the trial's make it shorter.
    """

    steps: int | None
    training_s: float
    evaluation_s: float
    scoring_s: float
    prepare_s: float
    memory_bytes: int
    disk_bytes: int

    def describe(self) -> list[str]:
        """Lines for people."""
        scoring = f", at most {duration(self.scoring_s)} for scoring answers" if self.scoring_s else ""
        parts = (
            f"{duration(self.training_s)} for training, {duration(self.evaluation_s)} for held-out losses, "
            f"{duration(self.prepare_s)} before the first step{scoring}"
        )
        size = f"{self.memory_bytes / 2**30:.1f} GiB of memory, {self.disk_bytes / 2**20:,.0f} MiB of disk"
        if self.steps is None:
            return [f"for each 1,000 of the streamed rows, which are not counted here: {parts}", size]
        least = self.prepare_s + self.training_s + self.evaluation_s
        most = least + self.scoring_s
        total = duration(least) if duration(least) == duration(most) else f"{duration(least)} to {duration(most)}"
        return [f"{self.steps:,} steps in about {total}: {parts}", size]


def whole_run(
    arguments: TrainingArguments,
    data: TrainingData,
    scoring: EvaluationArguments | None,
    measured: Measured,
    prepare_s: float,
) -> WholeRun:
    """What the run of these `arguments` over `data` takes; `prepare_s` before its first step.

    scoring: how its test rows are answered, if they are.
    """
    rows_a_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    rows = 1000 if data.stream is not None else len(data.train.rows)
    steps: int | None = math.ceil(arguments.num_train_epochs * math.ceil(rows / rows_a_step))
    if arguments.max_steps > 0:
        steps = int(arguments.max_steps)
        tokens = steps * rows_a_step * data.mean_length
    else:
        tokens = arguments.num_train_epochs * rows * data.mean_length
        steps = None if data.stream is not None else steps
    evaluations = 2 + _times(arguments, "eval", steps) if data.validation else 0
    held_out = data.validation.rows.tokens if data.validation else 0
    answers = _answers(scoring, data) if scoring else 0.0
    return WholeRun(
        steps=steps,
        training_s=tokens / measured.training,
        evaluation_s=evaluations * held_out / measured.evaluation,
        scoring_s=answers / measured.answering,
        prepare_s=prepare_s,
        memory_bytes=measured.memory_bytes,
        disk_bytes=measured.saved_bytes * (1 + _checkpoints(arguments, steps)),
    )


def _times(arguments: TrainingArguments, kind: str, steps: int | None) -> int:
    """How often an event of the run comes up: evaluations ("eval") or checkpoints ("save")."""
    strategy = str(getattr(getattr(arguments, f"{kind}_strategy"), "value", "no"))
    if strategy == "epoch":
        return math.ceil(float(arguments.num_train_epochs))
    every: Any = getattr(arguments, f"{kind}_steps")
    if strategy != "steps" or steps is None or not every:
        return 0
    return int(1 / every) if every < 1 else int(steps // every)


def _checkpoints(arguments: TrainingArguments, steps: int | None) -> int:
    """How many are on the disk at once: a new one is written before the oldest goes, and the best one stays."""
    written, limit = _times(arguments, "save", steps), arguments.save_total_limit
    return written if limit is None else min(written, int(limit) + 1 + bool(arguments.load_best_model_at_end))


def _answers(scoring: EvaluationArguments, data: TrainingData) -> float:
    """Tokens of all answers: after tuning they are as long as those of the rows, before it as long as they may be."""
    rows = data.train.rows
    usual = min(rows.targets / len(rows), scoring.max_new_tokens)
    each = usual + (scoring.max_new_tokens if scoring.before_tuning else 0)
    return min(len(data.splits.test), scoring.max_samples or 10**9) * scoring.samples * each


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
