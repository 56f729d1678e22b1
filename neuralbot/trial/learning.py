"""A run over a few rows until they are known by heart, by the code of the whole run; and how fast its steps are."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from neuralbot import hardware
from neuralbot.data.tokenized import Row, Tokenized, TokenRows
from neuralbot.errors import TrialFailed
from neuralbot.training.packed_trainer import PackedTrainer
from neuralbot.trial import rows
from neuralbot.trial.rows import ROWS, TrialRow

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from neuralbot.finetune import Prepared
    from neuralbot.training.trainer import Trainer

# Every step sees the same rows, so what falls was learned: without learning the loss stays to the last digit. A tenth
# is more than rounding could do, and little for rows that are seen twenty times.
CLEAR_FALL = 0.10
BY_HEART = 0.1  # nine of ten tokens are certain
WARMUP_STEPS = 5
MOST_STEPS, FEWEST_STEPS = 100, 20
BUDGET_S = 20.0
SPEED_STEPS, SPEED_S = 5, 5.0  # so many ordinary steps are timed, or as many as begin in so many seconds


class Enough(TrainerCallback):  # type: ignore[misc]  # the library is not typed
    """Stops when the rows are known by heart; after BUDGET_S, when the loss has clearly fallen or never will."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        self.first = loss if self.first is None else self.first
        late = time.monotonic() - self.start > BUDGET_S
        # twice the fall that is asked for: dropout makes these losses uncertain
        clear = loss < self.first * (1 - 2 * CLEAR_FALL) or state.global_step >= FEWEST_STEPS
        if loss < BY_HEART or (late and clear):
            control.should_training_stop = True


def small_run(prepared: Prepared, taken: Sequence[TrialRow], place: Path, whole: TrainingArguments) -> Prepared:
    """The run over these rows alone, all of them in each step, at the recipe's learning rate; it goes to `place`.

    whole: the arguments of the whole run.
    """
    recipe = prepared.recipe
    at_once = min(ROWS, whole.per_device_train_batch_size)
    ours = {
        "output_dir": str(place),
        "max_steps": MOST_STEPS,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": math.ceil(len(taken) / at_once),
        "per_device_eval_batch_size": at_once,
        "lr_scheduler_type": "constant_with_warmup",
        "lr_scheduler_kwargs": None,
        "warmup_steps": WARMUP_STEPS,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "eval_on_start": False,
        "dataloader_drop_last": False,
        "train_sampling_strategy": "random",
        "report_to": "none",
    }
    conversations = tuple(one.conversation for one in taken)
    splits = replace(prepared.data.splits, train=conversations, validation=conversations, test=())
    made = Tokenized(TokenRows.of(one.row for one in taken), 0, ())
    data = replace(prepared.data, splits=splits, train=made, validation=made, stream=None)
    recipe = replace(recipe, training=recipe.training | ours, early_stopping_patience=None)
    return replace(prepared, recipe=recipe, data=data)


def fallen(losses: dict[str, float], trainer: Trainer) -> str:
    """The loss of the rows before and after. Raises TrialFailed if it has not clearly fallen."""
    before, after, steps = losses["eval_loss_before"], losses["eval_loss"], trainer.state.global_step
    said = f"loss {before:.3f} -> {after:.3f} in {steps} steps on the same rows"
    if after > before * (1 - CLEAR_FALL):
        raise TrialFailed(
            f"{said}: less than a tenth of it is gone; training.learning_rate={trainer.args.learning_rate:g} is too "
            "small or too large, or too little is trained (finetuning.lora_rank, lora_target_modules)"
        )
    return said


def speed(data: TokenRows, trainer: Trainer, whole: TrainingArguments) -> float:
    """Tokens a second in steps as the whole run takes them; before, a step of its longest rows is tried for memory.

    The steps change the weights: to be called when these are saved and nobody asks them any more.
    """
    count = whole.per_device_train_batch_size * whole.gradient_accumulation_steps
    at_once = count if isinstance(trainer, PackedTrainer) else whole.per_device_train_batch_size
    with hardware.freed_memory_kept():
        _step(trainer, rows.longest(data, count), at_once)
        speeds, start = list[float](), time.monotonic()
        while len(speeds) < SPEED_STEPS and time.monotonic() - start < SPEED_S:
            drawn, begun = rows.drawn(data, count, len(speeds)), time.monotonic()
            _step(trainer, drawn, at_once)
            speeds.append(sum(len(row["input_ids"]) for row in drawn) / (time.monotonic() - begun))
        return statistics.median(speeds)


def _step(trainer: Trainer, taken: list[Row], at_once: int) -> None:
    """One optimizer step, as the trainer does it."""
    model = trainer.model_wrapped
    for start in range(0, len(taken), at_once):
        batch = trainer.data_collator(taken[start : start + at_once])
        trainer.training_step(model, trainer._prepare_inputs(batch))
    trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm or math.inf)
    trainer.optimizer.step()
    model.zero_grad()
