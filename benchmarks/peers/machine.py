"""What this machine's matrix products reach, and the instruction sets that oneDNN picks for them.

    python -m benchmarks.peers.machine peak        GFLOP/s of bf16 and GOP/s of int8 products of 2048 x 2048 matrices
    python -m benchmarks.peers.machine products    one small product of each; run with ONEDNN_VERBOSE=1
    python -m benchmarks.peers.machine openvino FOLDER PRECISION    a token of an exported model, likewise
    python -m benchmarks.peers.machine bandwidth   GB/s of the memory, all threads: reading, copying, a triad

A benchmark runs them in a fresh process; `read_onednn` and `read_openvino` understand what is printed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SIZE = 2048
_FLOATS = 2**27  # 512 MiB, far more than a cache holds
_SECONDS = 1.0
_MARK = "benchmark-int8"


def peak() -> dict[str, float]:
    """The best of what fits into a second each: the machine's peak, which noise can only lower."""
    import torch

    bf16 = torch.randn(SIZE, SIZE).to(torch.bfloat16)
    int8 = torch.randint(-127, 127, (SIZE, SIZE), dtype=torch.int8)
    return {
        "bf16_gflops": round(_billions_per_s(lambda: torch.mm(bf16, bf16)), 1),
        "int8_gops": round(_billions_per_s(lambda: torch._int_mm(int8, int8)), 1),
    }


def bandwidth() -> dict[str, float]:
    """The best of what fits into a second each, in bytes read and written; the cache's reads before writes not counted.

    What is read is summed up, which is little work beside reading it.
    """
    import torch

    one, two, three = (torch.ones(_FLOATS) for _ in range(3))
    size = _FLOATS * 4 / 1e9
    return {
        "read": round(size / _best_s(lambda: one.sum()), 1),
        "copy": round(2 * size / _best_s(lambda: two.copy_(one)), 1),
        "triad": round(3 * size / _best_s(lambda: torch.add(one, two, alpha=3.0, out=three)), 1),
    }


def products() -> None:
    import torch

    bf16 = torch.ones(64, 64, dtype=torch.bfloat16)
    torch.mm(bf16, bf16)
    print(_MARK, flush=True)
    int8 = torch.ones(64, 64, dtype=torch.int8)
    torch._int_mm(int8, int8)


def openvino(folder: str, precision: str) -> None:
    import numpy as np
    import openvino_genai as genai
    from openvino import Tensor

    options = {"INFERENCE_PRECISION_HINT": precision}
    prompt = Tensor(np.ones((1, 64), dtype=np.int64))
    with suppress(RuntimeError):  # with oneDNN's log on, OpenVINO 2026.4 may fail; the lines until then are read
        pipeline = genai.ContinuousBatchingPipeline(folder, genai.SchedulerConfig(), "CPU", options)
        pipeline.add_request(0, prompt, genai.GenerationConfig(max_new_tokens=2, ignore_eos=True))
        while pipeline.has_non_finished_requests():
            pipeline.step()


def read_onednn(output: str) -> dict[str, str | None]:
    """Version, isa and the implementation of both products, as oneDNN names them; null where it was not used."""
    lines = output.splitlines()
    mark = lines.index(_MARK) if _MARK in lines else len(lines)
    return {
        "version": _after(lines, "info,oneDNN v"),
        "isa": _after(lines, "info,cpu,isa:"),
        "bf16_product": _implementation(lines[:mark]),
        "int8_product": _implementation(lines[mark:]),
    }


def read_openvino(output: str) -> dict[str, Any]:
    """The same of OpenVINO's own oneDNN: version, isa, and the implementations of the linear layers."""
    lines = output.splitlines()
    layers = {line.split(",")[6] for line in lines if ",exec,cpu,inner_product," in line}
    return {
        "version": _after(lines, "info,oneDNN v"),
        "isa": _after(lines, "info,cpu,isa:"),
        "linear_layers": sorted(layers),
    }


def _billions_per_s(product: Callable[[], Any]) -> float:
    return 2 * SIZE**3 / _best_s(product) / 1e9


def _best_s(work: Callable[[], Any]) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _after(lines: list[str], words: str) -> str | None:
    return next((line.partition(words)[2].partition(" (commit")[0] for line in lines if words in line), None)


def _implementation(lines: list[str]) -> str | None:
    """The last product's: "onednn_verbose,v1,primitive,exec,cpu,matmul,IMPLEMENTATION,..."; gemm_api names none."""
    fields = [line.split(",") for line in lines if line.startswith("onednn_verbose") and ",exec,cpu," in line]
    products = [(kind, name) for *_, kind, name in (line[:7] for line in fields) if kind in ("matmul", "gemm_api")]
    return (products[-1][1] or products[-1][0]) if products else None


if __name__ == "__main__":
    if sys.argv[1:] == ["products"]:
        products()
    elif sys.argv[1] == "openvino":
        openvino(*sys.argv[2:])
    else:
        print(json.dumps({"peak": peak, "bandwidth": bandwidth}[sys.argv[1]]()))
