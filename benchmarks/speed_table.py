"""The README's table of training speeds, from the files that `python -m benchmarks.finetune` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = ("model, rows", "trainer", "tokens/s", "speed", "peak memory", "last losses")
_ALIGNMENT = ("---", "---", "---:", "---:", "---:", "---:")
_NAMES = {
    "hf": "HF Trainer + PEFT, bf16",
    "trl": "TRL SFTTrainer, bf16",
    "trl-packed": "TRL, packing (bfd)",
    "itrex": "ITREX 1.4.2, bf16",
    "itrex-concat": "ITREX, concatenation",
    "neuralbot": "**neuralbot**, bf16 base",
    "neuralbot-int8": "**neuralbot**, int8 base",
    "neuralbot-nf4": "**neuralbot**, nf4 base",
    "neuralbot-reference": "neuralbot, plain kernels",
}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown between the markers: a row for each shape and method, then the machine and the method."""
    rows = [row for result in results for row in _rows(result)]
    lines = [f"| {' | '.join(row)} |" for row in (_HEAD, _ALIGNMENT, *rows)]
    return "\n".join([*lines, "", *dict.fromkeys(map(_conditions, results)), _repeats(results)])


def _rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    data, name = result["data"], result["shape"]["name"]
    what = f"{name}, {data['rows']} rows, {data['tokens']:,} tokens"
    found = []
    for method, figures in result["methods"].items():
        label = _NAMES.get(method, method)
        found.append((what, label, *_figures(figures)) if "tokens_per_s" in figures else (what, label, *["failed"] * 4))
        what = ""
    return found


def _figures(figures: Mapping[str, Any]) -> tuple[str, ...]:
    difference = figures.get("loss_difference")
    return (
        f"{figures['tokens_per_s']['median']:,.0f}",
        f"{figures['speedup']:.2f}x" if "speedup" in figures else "",
        f"{figures['peak_bytes']['median'] / 2**30:.2f} GiB",
        f"{difference:+.2%}".replace("%", " %") if difference is not None else "",
    )


def _conditions(result: Mapping[str, Any]) -> str:
    settings, versions = result["settings"], result["versions"]
    return (
        f"{result['hardware']['cpu']}, {result['threads']} threads, oneDNN {result['onednn']['bf16_product']}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}, peft {versions['peft']}; random weights, one "
        f"epoch, batch {settings['batch']} x {settings['accumulation']}, LoRA r={settings['lora_rank']} on "
        f"{' and '.join(settings['lora_modules'])}."
    )


def _repeats(results: Sequence[Mapping[str, Any]]) -> str:
    counts = ", ".join(f"{result['settings']['repeats']} for {result['shape']['name']}" for result in results)
    return (
        f"Medians of interleaved runs ({counts}); tokens are those of the rows, without padding; losses: the mean of "
        "the last quarter against HF's."
    )
