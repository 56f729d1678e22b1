"""neuralbot's own trainer, called as finetune.py calls it.

Options: fields of FinetuningArguments. Needs torch, transformers, peft, accelerate, safetensors and numpy, and not the
rest that neuralbot depends on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.peers.job import Job, measure, run


def work(job: Job) -> dict[str, Any]:
    from neuralbot import hardware, modeling

    plan = replace(hardware.plan(hardware.probe(), bf16=job.bf16), threads=job.threads)
    plan.apply()
    from transformers import TrainingArguments

    from neuralbot.arguments import FinetuningArguments, ModelArguments
    from neuralbot.training import adapter
    from neuralbot.training.build import build_trainer, load_model, why_reference

    finetuning = FinetuningArguments(
        lora_rank=job.lora_rank, lora_alpha=job.lora_alpha, lora_dropout=0.0, lora_target_modules=job.lora_modules,
        **job.options,
    )  # fmt: skip
    tokenizer, rows = modeling.load_tokenizer(job.model), job.load_rows()
    source = ModelArguments(model_name_or_path=job.model)
    model = adapter.add_adapter(load_model(source, finetuning, plan.torch_dtype()), finetuning, job.seed)
    arguments = TrainingArguments(**job.training_arguments())
    longest = max(len(row["input_ids"]) for row in rows)
    if finetuning.kernels == "fast" and (reason := why_reference(model, arguments, longest)):
        raise RuntimeError(f"the fast kernels cannot be measured here: {reason}")
    kernels: Any = finetuning.kernels
    trainer = build_trainer(model, tokenizer, arguments, rows, None, kernels=kernels)
    return measure(trainer, trainer.train, counts=trainer)


if __name__ == "__main__":
    run(work)
