"""One recipe on both engines, neuralbot and the genuine package: losses and times.

    neuralbot itrex setup
    python -m benchmarks.engines --model FOLDER --rows FILE

The rows are Alpaca rows, every twentieth held out. Both engines get the same recipe: one epoch of LoRA on q and v in
bf16. They do not train the same tokens: the package writes its own prompt, cuts and masks in its own way, trains its
adapter in bf16 and means its losses over batches. So losses are near, not equal. Times are those of one run each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from neuralbot import finetune, recipe
from neuralbot.hardware import probe
from neuralbot.itrex import ENGINES, engine, environment
from neuralbot.training.provenance import environment as versions
from neuralbot.training.records import read_json, write_json

RESULT = Path("benchmarks/results/engines.json")
_EVERY = 20  # row is held out
_SETTINGS = {
    "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "lr_scheduler_type": "linear",
    "logging_steps": 20, "do_eval": True, "seed": 42, "bf16": True,
}  # fmt: skip


def write_recipe(folder: Path, model: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The recipe and its files; returns its path."""
    held_out = rows[::_EVERY]
    kept = [row for place, row in enumerate(rows) if place % _EVERY]
    for name, part in (("train", kept), ("validation", held_out), ("test", held_out[:5])):
        (folder / f"alpaca-{name}.json").write_text(json.dumps(part), encoding="utf-8")
    files = {f"{name}_file": str(folder / f"alpaca-{name}.json") for name in ("train", "validation", "test")}
    whole = {
        "model": {"model_name_or_path": model},
        "data": files | {"max_seq_length": 256},
        "finetuning": {"task": "completion", "lora_dropout": 0.0},
        "training": _SETTINGS | {"output_dir": str(folder / "run")},
        "evaluation": {"metric": "none"},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def measure(path: Path, name: str, console: Console) -> dict[str, Any]:
    """Run the recipe on an engine; its figures."""
    run = path.parent / name
    loaded = recipe.load(path, output_dir=str(run))
    if name == "itrex":
        engine.finetune(loaded, console)
    else:
        finetune.run(loaded, console)
    metrics = read_json(run / "results.json")["metrics"]
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curve = [(record["step"], record["loss"]) for record in map(json.loads, lines) if "loss" in record]
    return {"seconds": read_json(run / "manifest.json")["durations_s"], "metrics": metrics, "losses": curve}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the one result."""
    (result,) = results
    lines = ["| engine | training | first loss | last loss | held-out loss |", "|---|---:|---:|---:|---:|"]
    for name, found in result["engines"].items():
        first, last = found["losses"][0][1], found["losses"][-1][1]
        seconds, held_out = found["seconds"]["train"], found["metrics"]["eval_loss"]
        lines.append(f"| {name} | {seconds:.0f} s | {first:.3f} | {last:.3f} | {held_out:.3f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a Llama checkpoint")
    parser.add_argument("--rows", type=Path, required=True, help="JSON list of Alpaca rows")
    parser.add_argument("--count", type=int, default=2000, help="so many rows, the first ones (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args(argv)
    raw = arguments.rows.read_bytes()
    rows, console = json.loads(raw)[: arguments.count], Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        path = write_recipe(Path(folder), arguments.model, rows)
        found = {name: measure(path, name, console) for name in ENGINES}
    facts = {
        "model": Path(arguments.model).name,
        "rows": {"file": arguments.rows.name, "sha256": hashlib.sha256(raw).hexdigest(), "count": len(rows)},
        "settings": _SETTINGS,
        "hardware": asdict(probe()),
        **versions(),
        "itrex": environment.requirements(),
    }
    write_json(arguments.output, facts | {"engines": found})
    console.print(table([facts | {"engines": found}]), markup=False)


if __name__ == "__main__":
    main()
