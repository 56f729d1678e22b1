"""Builds what a run trains with: the base, and the trainer: over packs where that can train it, else the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import transformers
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from neuralbot import modeling, quantized_base
from neuralbot.arguments import FinetuningArguments, ModelArguments
from neuralbot.data.streaming import StreamedRows
from neuralbot.data.tokenized import Row
from neuralbot.kernels.quantized import quantizer
from neuralbot.progress import Show, unseen
from neuralbot.training import packed_model, packed_trainer
from neuralbot.training.trainer import Collator, Trainer


def load_model(
    args: ModelArguments, tuning: FinetuningArguments, dtype: torch.dtype, show: Show = unseen
) -> PreTrainedModel:
    """The base as it is trained: in `dtype`, in 8 or 4 bits (qlora), or in float32 if all its weights are trained.

    show: the progress of quantizing.
    """
    name = args.model_name_or_path or ""
    place = {
        "revision": args.model_revision,
        "token": args.token,
        "cache_dir": args.cache_dir,
        "config": args.config_name,
    }
    if tuning.qlora:
        quantize = quantizer(tuning.bits, tuning.quant_type, tuning.double_quant)
        return quantized_base.load_quantized(name, dtype, quantize, show=show, **place)
    # Full finetuning keeps its weights in fp32 (autocast computes in bf16): bf16 weights would swallow small steps.
    return modeling.load_base(name, torch.float32 if tuning.full_finetune else dtype, **place)


def build_trainer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
    train: Sequence[Row] | StreamedRows,
    validation: Sequence[Row] | None,
    *,
    kernels: Literal["fast", "reference"],
    pad_to: int | None = None,
    early_stopping_patience: int | None = None,
) -> Trainer:
    """A trainer over tokenized rows; `fast` only where `why_reference` finds nothing against it.

    train: rows, or a stream of them, for which `stream_steps.run_by_steps` has set the arguments.
    pad_to: every batch of the plain trainer is padded to that many tokens instead of its longest row.
    """
    callbacks: list[TrainerCallback] = []
    if early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience))
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    kind: type[Trainer] = Trainer
    collator: Collator | packed_trainer.PackCollator = Collator(pad_id, pad_to)
    if kernels == "fast":
        collator = packed_trainer.PackCollator(packed_trainer.tokens_at_once(model))
        kind = packed_trainer.PackedTrainer
        packed_trainer.merge_accumulation(arguments)
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.trainer_callback.ProgressCallback)
    return trainer


def why_reference(model: nn.Module, arguments: TrainingArguments, longest_row: int) -> str | None:
    """What keeps the fast trainer from this run; None if nothing does."""
    for setting in ("neftune_noise_alpha", "auto_find_batch_size", "torch_compile"):
        if getattr(arguments, setting):
            return f"training.{setting} is set"
    if arguments.include_num_input_tokens_seen not in (False, "no"):
        return "training.include_num_input_tokens_seen is set"
    if str(arguments.device) != "cpu" or arguments.world_size > 1:
        return "it runs in one process on a CPU"
    return packed_model.unsupported(model, longest_row)
