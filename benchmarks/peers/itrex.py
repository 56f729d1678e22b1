"""Peer: `finetune_model` of intel-extension-for-transformers 1.4.2, in an environment of its own.

It loads, tokenizes, trains and saves in one call, so its Trainer's `train` is wrapped to be measured like the others'.
It takes the rows as text, trains the adapter in bf16, and logs a step's loss as the mean of its batches' means.
Option: `dataset_concatenation`. It tells a Llama and Alpaca rows by "llama" and "alpaca" in their paths.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.job import Job, measure, run


def work(job: Job) -> dict[str, Any]:
    from intel_extension_for_transformers.neural_chat.chatbot import finetune_model
    from intel_extension_for_transformers.neural_chat.config import (
        DataArguments,
        FinetuningArguments,
        ModelArguments,
        TextGenerationFinetuningConfig,
    )
    from transformers import Trainer, TrainingArguments

    measured: dict[str, Any] = {}
    train = Trainer.train

    def measured_train(trainer: Any, **keywords: Any) -> None:
        measured.update(measure(trainer, lambda: train(trainer, **keywords)))

    Trainer.train = measured_train
    config = TextGenerationFinetuningConfig(
        model_args=ModelArguments(model_name_or_path=job.model),
        data_args=DataArguments(
            train_file=job.text_rows, validation_split_percentage=0, max_seq_length=job.max_length, **job.options
        ),
        training_args=TrainingArguments(do_train=True, **job.training_arguments()),
        finetune_args=FinetuningArguments(
            lora_rank=job.lora_rank, lora_alpha=job.lora_alpha, lora_dropout=0.0,
            lora_target_modules=job.lora_modules, device="cpu", task="completion",
        ),
    )  # fmt: skip
    finetune_model(config)
    if not measured:  # it logs what it raised and returns
        raise RuntimeError("finetune_model ended without training; the reason stands in its log, above")
    return measured


if __name__ == "__main__":
    run(work)
