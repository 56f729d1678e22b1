"""Peer: TRL's SFTTrainer on the tokenized rows, in an environment of its own (trl-requirements.txt).

Options: those of SFTConfig, such as `packing` and `max_length`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.job import Job, measure, run


def work(job: Job) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16 if job.bf16 else torch.float32)
    set_seed(job.seed)  # the trainer makes the adapter
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**(job.training_arguments() | {"max_length": job.max_length} | job.options)),
        train_dataset=Dataset.from_list(job.load_rows()),
        processing_class=tokenizer,
        peft_config=LoraConfig(**job.lora_arguments()),
    )
    return measure(trainer, trainer.train)


if __name__ == "__main__":
    run(work)
