"""The training loop: Hugging Face's Trainer, made to stop at the first bad loss and to write no pickle.

Schedules, accumulation, evaluation, best-model keeping and distributed runs are the library's. Checkpoints hold
weights only: the library's optimizer and argument files are pickles, which neuralbot neither writes nor reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from neuralbot import hardware
from neuralbot.data.tokenized import IGNORED, Row
from neuralbot.errors import TrainingDiverged
from neuralbot.progress import Report, Speed, describe


class Collator:
    """Rows to one right-padded batch: input_ids, attention_mask and labels, each int64 (rows, longest row)."""

    def __init__(self, pad_id: int, pad_to: int | None = None) -> None:
        self.pad_id = pad_id
        self.pad_to = pad_to

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        length = self.pad_to or max(len(row["input_ids"]) for row in rows)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([row[key] + [fill] * (length - len(row[key])) for row in rows])

        ids, labels = padded("input_ids", self.pad_id), padded("labels", IGNORED)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = (torch.arange(length)[None, :] < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class SmoothedLoss:
    """The mean cross entropy of the next tokens; `smoothing` of each target is spread over all tokens.

    In training only: held-out losses stay comparable, and perplexities perplexities. The library's own smoother takes
    accumulated batches for whole steps, and expects as many logits as labels, which virtual tokens add to.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        wanted = labels[:, 1:].flatten()
        logits = outputs.logits[:, -labels.shape[1] : -1].flatten(0, 1).float()
        smoothing = self.smoothing if torch.is_grad_enabled() else 0.0
        total = nn.functional.cross_entropy(
            logits, wanted, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
        )
        return total / ((wanted != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


class Trainer(transformers.Trainer):  # type: ignore[misc]  # the library is not typed
    """`transformers.Trainer` that counts tokens, stops at a loss that is not a number, and pickles nothing."""

    def __init__(self, *, args: TrainingArguments, **kwargs: Any) -> None:
        smoothing = args.label_smoothing_factor
        super().__init__(args=args, compute_loss_func=SmoothedLoss(smoothing) if smoothing else None, **kwargs)
        self.tokens = 0  # of the rows, without padding
        self.target_tokens = 0
        self.computed_tokens = 0  # that went through the model, padding included
        self._began = time.monotonic()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self._began = time.monotonic()
        return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the tokens trained on so far and the memory now (GiB); beside a loss, the mean tokens/s so far."""
        known = {"tokens": self.tokens, "memory_gb": round(hardware.resident_bytes() / 2**30, 3)}
        if "loss" in logs:
            known["tokens_per_s"] = round(self.tokens / (time.monotonic() - self._began), 1)
        super().log(logs | known, start_time)

    def training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        self.tokens += int(inputs["attention_mask"].sum())
        self.target_tokens += int((inputs["labels"] != IGNORED).sum())
        self.computed_tokens += inputs["input_ids"].numel()
        return self.checked(super().training_step(model, inputs, num_items_in_batch))

    def checked(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, or TrainingDiverged."""
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; that step changed no weight. "
                "Lower training.learning_rate, or look for broken rows in data.train_file"
            )
        return loss

    def release(self) -> None:
        """Give the memory of all weights back, once they are saved; the counts stay."""
        self.model.to("meta")

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if isinstance(self.model, PeftModel) and self.model.peft_type == "P_TUNING":
            # What was saved is the prompt that the encoder made, and peft put it where the encoder's input stood.
            self.model.active_peft_config.inference_mode = True

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # The stock method also writes training_args.bin, a pickle.
        target = Path(output_dir or self.args.output_dir)
        target.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        # Left to itself, peft asks the hub whether the vocabulary has grown, and asks about the wrong revision.
        options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        model.save_pretrained(target, state_dict=state_dict, **options)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(target)


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Hands every logged value on as one flat record: step, time_s, and what the Trainer logged.

    eval_ppl: the perplexity beside each held-out loss. begin: called once training begins, with the number of `steps`
    and `logging_steps`, after how many of them values are logged (None: not by steps).
    """

    def __init__(
        self, write: Any, *, eval_ppl: bool = False, begin: Callable[..., None] = lambda steps, logging_steps: None
    ) -> None:
        self.write = write
        self.begin = begin
        self.eval_ppl = eval_ppl
        self.start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.monotonic()
        every = state.logging_steps if args.logging_strategy == "steps" else None
        self.begin(steps=state.max_steps, logging_steps=every)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        elapsed = time.monotonic() - self.start
        record: dict[str, Any] = {"step": state.global_step, "time_s": round(elapsed, 3), **(logs or {})}
        if self.eval_ppl and "eval_loss" in record:
            record["eval_ppl"] = perplexity(record["eval_loss"])
        self.write(record)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Reports each step, with the last losses logged, the speed and the memory; evaluations in between are noted.

    The speed is that of the steps of the last half minute: tokens of rows a second, evaluation and saving left out.
    """

    def __init__(self, trainer: Trainer, report: Report) -> None:
        self.trainer = trainer
        self.report = report
        self.shown: dict[str, float] = {}
        self._speed = Speed()
        self._evaluated = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._next_step()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluated = 0
        self._next_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._next_step()

    def _next_step(self) -> None:
        self._since, self._tokens = time.monotonic(), self.trainer.tokens

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.shown |= {name: value for name, value in (logs or {}).items() if name in ("loss", "eval_loss")}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        speed = self._speed.add(self.trainer.tokens - self._tokens, time.monotonic() - self._since)
        self.shown |= {"tokens_per_s": speed, "memory_gb": hardware.resident_bytes() / 2**30}
        if state.global_step < state.max_steps:
            self.report(state.global_step, state.max_steps, describe(self.shown))
        self._next_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps, describe(self.shown))  # the last loss was logged just now

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        self._evaluated += 1
        note = f"{describe(self.shown)}, evaluating {self._evaluated}/{len(eval_dataloader)}"
        self.report(state.global_step, state.max_steps, note)


class EvaluationProgress(TrainerCallback):  # type: ignore[misc]
    """Reports the batches of an evaluation that stands alone."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.done = 0

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        self.done += 1
        self.report(self.done, len(eval_dataloader))


def perplexity(loss: float) -> float:
    """exp(loss), infinite where the exponential overflows."""
    return math.exp(loss) if loss < 700 else math.inf
