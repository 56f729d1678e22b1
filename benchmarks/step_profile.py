"""Where the time of a training step goes: seconds of each part of the fast path, over one epoch.

    python -m benchmarks.step_profile --shape llama-162m --count 256

Parts run one after another, so their seconds add up; what is left is Python, autograd and copies. The rate of a frozen
product says how near it is to the processor's peak, which is measured before. One pass warms up, one is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import finetune
from benchmarks.shapes import SHAPES
from neuralbot import hardware
from neuralbot.command import run as run_command
from neuralbot.training.records import write_json

BASES: dict[str, dict[str, Any]] = {"bf16": {}, "int8": {"qlora": True, "bits": 8}, "nf4": {"qlora": True, "bits": 4}}


class Timed:
    """Stands in for a module or an object and adds up the seconds of each call under label.function."""

    def __init__(self, thing: Any, label: str, seconds: dict[str, float]) -> None:
        self._thing, self._label, self._seconds = thing, label, seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = found(*args, **kwargs)
            self._seconds[f"{self._label}.{name}"] += time.perf_counter() - start
            return result

        return timed


def profile(inputs: finetune.Inputs, base: str) -> dict[str, Any]:
    """Seconds in all and of each part, and the operations of the frozen products, for one epoch over the rows."""
    from neuralbot import kernels
    from neuralbot.arguments import FinetuningArguments, ModelArguments
    from neuralbot.training import adapter, packed_trainer
    from neuralbot.training.build import load_model
    from neuralbot.training.packed_model import PackedModel

    job = inputs.job
    tuning = FinetuningArguments(
        lora_rank=job.lora_rank, lora_alpha=job.lora_alpha, lora_dropout=0.0, lora_target_modules=job.lora_modules,
        **BASES[base],
    )  # fmt: skip
    plan = hardware.plan(hardware.probe())
    plan.apply()
    model = adapter.add_adapter(
        load_model(ModelArguments(model_name_or_path=job.model), tuning, plan.torch_dtype()), tuning, job.seed
    )
    seconds: dict[str, float] = defaultdict(float)
    prepack = packed_trainer.prepacks(model)
    packed: Any = PackedModel(model, Timed(kernels.best(), "kernel", seconds), prepack=prepack)  # type: ignore[arg-type]
    _time_products(packed, seconds)
    collate = packed_trainer.PackCollator(packed_trainer.tokens_at_once(model))
    rows, size = job.load_rows(), job.batch * job.accumulation
    steps = [collate(rows[start : start + size])["packs"] for start in range(0, len(rows), size)]
    with hardware.freed_memory_kept():
        for _ in range(2):
            seconds.clear()
            start = time.perf_counter()
            for packs in steps:
                for one in packs:
                    packed.loss(one, 1.0).backward()
            total = time.perf_counter() - start
    computed = sum(len(one.ids) for packs in steps for one in packs)
    # Kernels that a quantized product calls are part of that product.
    inner = {"kernel.quantize_rows", "kernel.dequantize", "kernel.unpack_four_bits"}
    parts = {name: round(value, 3) for name, value in sorted(seconds.items(), key=lambda item: -item[1])}
    left = total - sum(value for name, value in seconds.items() if name not in inner)
    return {
        "base": base, "prepacked": prepack, "computed_tokens": computed, "seconds": round(total, 3), "parts": parts,
        "left": round(left, 3), "inside_products": sorted(inner & seconds.keys()),
    }  # fmt: skip


def _time_products(packed: Any, seconds: dict[str, float]) -> None:
    for layer in packed.layers:
        for name in ("qkv", "out", "gate_up", "down"):
            projection = getattr(layer, name)
            projection.frozen = Timed(projection.frozen, f"product {name}", seconds)
            projection.lora = Timed(projection.lora, f"lora {name}", seconds)
    packed.head = Timed(packed.head, "product head", seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _command(arguments), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_profile", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="llama-162m", help="size of the model (default: %(default)s)")
    add("--base", choices=BASES, default="bf16", help="how the base is kept (default: %(default)s)")
    add("--rows", type=Path, default=finetune.SHIPPED_ROWS, metavar="FILE", help="JSON list of Alpaca rows")
    add("--tokenizer", type=Path, default=finetune.SHIPPED_TOKENIZER, metavar="FOLDER", help="default: the seedling's")
    add("--count", type=int, default=256, help="so many rows, the first ones (default: %(default)s)")
    add("--output", type=Path, metavar="FILE", help="default: benchmarks/results/profile-SHAPE-BASE.json")
    add("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(batch=4, accumulation=2, max_length=512, threads=None, repeats=1)
    return parser


def _command(arguments: argparse.Namespace) -> int:
    output = arguments.output or finetune.RESULTS / f"profile-{arguments.shape}-{arguments.base}.json"
    with tempfile.TemporaryDirectory(prefix="step-profile-") as folder:
        inputs = finetune.prepare(arguments, Path(folder))
        facts = finetune.facts(arguments, inputs) | {"matrix_product_peak": finetune.peak(inputs)}
        found = profile(inputs, arguments.base)
    write_json(output, facts | {"profile": found})
    for name, value in found["parts"].items():
        print(f"{value:8.2f} s {value / found['seconds']:6.1%}  {name}")
    print(f"{found['left']:8.2f} s {found['left'] / found['seconds']:6.1%}  left\n{found['seconds']:8.2f} s in all")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
