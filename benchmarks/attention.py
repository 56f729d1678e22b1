"""Forward and backward of one attention layer in bf16: torch's fused CPU kernel against plain matrix products.

    python -m benchmarks.attention            writes benchmarks/results/attention.json

Why it matters: finetune.py picks the plain form for short rows. Both are run in turn on the same tensors; the figure is
the median over the rounds. Nothing else of a training step is timed here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralbot import hardware
from neuralbot.training.records import write_json

OUTPUT = Path(__file__).parent / "results" / "attention.json"
TOKENS = 3072  # rows times their length, the same in every case
LENGTHS = (32, 64, 128, 256, 512, 1024)
SHAPES = ((8, 32), (4, 64), (32, 64))  # heads, head size


def fused(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)


def plain(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    scores = q_BHTD @ k_BHTD.transpose(-1, -2) * q_BHTD.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1, dtype=torch.float32).to(q_BHTD.dtype) @ v_BHTD


def seconds(attention: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    start = time.perf_counter()
    attention(*inputs).sum().backward()
    return time.perf_counter() - start


def case(heads: int, head_size: int, length: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds of both forms for one shape."""
    shape = (TOKENS // length, heads, length, head_size)
    inputs = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    times: dict[str, list[float]] = {"fused": [], "plain": []}
    for step in range(rounds + 2):
        for name, attention in (("fused", fused), ("plain", plain)):
            took = seconds(attention, inputs)
            if step >= 2:
                times[name].append(took * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "heads": heads, "head_size": head_size, "length": length, "rows": shape[0],
        "fused_ms": round(medians["fused"], 3), "plain_ms": round(medians["plain"], 3),
        "fused_over_plain": round(medians["fused"] / medians["plain"], 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    plan = hardware.plan(hardware.probe())
    plan.apply()
    torch.manual_seed(0)
    cases = []
    for heads, head_size in SHAPES:
        for length in LENGTHS:
            cases.append(case(heads, head_size, length, rounds))
            print(cases[-1], flush=True)
    machine = {"hardware": asdict(plan.hardware), "threads": plan.threads, "torch": torch.__version__}
    write_json(OUTPUT, {"tokens": TOKENS, "rounds": rounds, "dtype": "bfloat16", **machine, "cases": cases})


if __name__ == "__main__":
    main()
