"""Peer: transformers' Trainer with a peft adapter and padding to the longest row, as its documentation shows it."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.job import Job, measure, run


def work(job: Job) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16 if job.bf16 else torch.float32)
    trainer = Trainer(
        model=get_peft_model(model, LoraConfig(**job.lora_arguments())),
        args=TrainingArguments(**job.training_arguments()),
        train_dataset=job.load_rows(),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    return measure(trainer, trainer.train)


if __name__ == "__main__":
    run(work)
