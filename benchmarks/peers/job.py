"""What the peers' programs share: the job they read, what is measured around `train()`, the result they write.

    python -m benchmarks.peers.hf_trainer JOB.json RESULT.json

Standard library only, for each peer runs in an environment of its own, some of them years old.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "datasets", "trl",
    "intel-extension-for-transformers", "intel-extension-for-pytorch", "openvino", "openvino-genai", "nncf",
    "optimum-intel", "llama-cpp-python",
)  # fmt: skip
# Nothing here sees pictures, and a torchvision for another torch breaks `import transformers`.
sys.modules["torchvision"] = None  # type: ignore[assignment]
_STARTED = time.perf_counter()  # this module is the first that a peer's program imports


@dataclass(frozen=True)
class Job:
    """One training: the same for every peer, but for `options`, which say in which form a peer does it."""

    model: str  # folder of the base checkpoint and its tokenizer
    rows: str  # JSON list of rows, each with its input_ids and labels
    text_rows: str  # the same rows as instruction, input and output, for a peer that tokenizes them itself
    output_dir: str
    threads: int
    bf16: bool
    batch: int
    accumulation: int
    max_length: int
    learning_rate: float
    seed: int
    lora_rank: int
    lora_alpha: int
    lora_modules: list[str]
    options: dict[str, Any]

    def load_rows(self) -> list[dict[str, list[int]]]:
        rows: list[dict[str, list[int]]] = json.loads(Path(self.rows).read_text(encoding="utf-8"))
        return rows

    def lora_arguments(self) -> dict[str, Any]:
        """Keywords of peft.LoraConfig."""
        return {
            "task_type": "CAUSAL_LM",
            "r": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": 0.0,
            "target_modules": self.lora_modules,
            "bias": "none",
        }

    def training_arguments(self) -> dict[str, Any]:
        """Values of transformers.TrainingArguments, in names that its version 4.41 knows too."""
        return {
            "output_dir": self.output_dir,
            "num_train_epochs": 1,
            "per_device_train_batch_size": self.batch,
            "gradient_accumulation_steps": self.accumulation,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "linear",
            "bf16": self.bf16,
            "use_cpu": True,
            "seed": self.seed,
            "gradient_checkpointing": False,  # TRL's default is True
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
        }


class CountingCollator:
    """A collator that counts what it hands out: real tokens, targets, and all tokens of the batches."""

    def __init__(self, collator: Callable[..., Any]) -> None:
        self.collator = collator
        self.tokens = self.target_tokens = self.computed_tokens = 0

    def __call__(self, rows: Any) -> Any:
        batch = self.collator(rows)
        computed = batch["input_ids"].numel()
        self.computed_tokens += computed
        self.tokens += int(batch["attention_mask"].sum()) if "attention_mask" in batch else computed
        self.target_tokens += int((batch["labels"] != -100).sum())
        return batch


def measure(trainer: Any, train: Callable[[], Any], counts: Any = None) -> dict[str, Any]:
    """Call `train` and return all that is measured: seconds, losses, tokens, memory, threads and versions.

    `trainer` is the transformers.Trainer that `train` runs. `counts` counts tokens as CountingCollator does; without
    it, the trainer's collator is wrapped in one.
    """
    import torch

    if counts is None:
        counts = trainer.data_collator = CountingCollator(trainer.data_collator)
    load_s = time.perf_counter() - _STARTED
    before, load_peak = memory("VmRSS"), memory("VmHWM")
    start = time.perf_counter()
    train()
    train_s = time.perf_counter() - start
    return {
        "load_s": round(load_s, 3),
        "train_s": round(train_s, 4),
        "losses": [round(entry["loss"], 6) for entry in trainer.state.log_history if "loss" in entry],
        "tokens": counts.tokens,
        "target_tokens": counts.target_tokens,
        "computed_tokens": counts.computed_tokens,
        "rss_before_training_bytes": before,
        "load_peak_bytes": load_peak,
        "peak_bytes": memory("VmHWM"),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def memory(field: str, process: str = "self") -> int:
    """Bytes of a process as the kernel counts them: VmRSS is resident now, VmHWM at the highest."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no {field}")


def versions() -> dict[str, str]:
    """Python's and those of the libraries that are installed here."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run(work: Callable[[Job], dict[str, Any]]) -> None:
    """The main program of a peer: the job of the command line in, what `work` measured out."""
    job_path, result_path = map(Path, sys.argv[1:])
    job = Job(**json.loads(job_path.read_text(encoding="utf-8")))
    result_path.write_text(json.dumps(work(job)), encoding="utf-8")
