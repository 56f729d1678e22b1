"""Memory of previewing, and of training the first steps on, more rows than one would hold in memory.

    python -m benchmarks.large_data --rows 1000000

Rows of about 1 KB are written to a folder in TMPDIR (1 GB for a million) and deleted again. Each measurement is a
command of its own, with the embedded model; its peak is what the kernel says about the process when it has ended.

Does not: measure the speed of training (finetune.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuralbot.hardware import probe
from neuralbot.training.provenance import environment
from neuralbot.training.records import write_json

STEPS = 3
_VERBS = ("carries", "sells", "finds", "mends", "paints", "hides", "weighs", "counts", "lends", "keeps")
_THINGS = ("a red bag", "two old maps", "the last loaf", "a silver key", "nine blue eggs", "the long rope")
_PLACES = ("near the station", "behind the mill", "on Monday", "before the storm", "in the market", "at noon")


@dataclass(frozen=True)
class Measured:
    """One process: what it did, how long it took, and the most memory it held."""

    what: str
    seconds: float
    peak_bytes: int


def write_rows(path: Path, count: int) -> None:
    """`count` Alpaca rows as jsonl, each about 1 KB, all different, the same each time."""
    rng = random.Random(0)
    names = [
        f"{first}{last}" for first in ("An", "Be", "Ca", "Do", "El", "Fi") for last in ("na", "ro", "la", "vid", "sa")
    ]
    facts = [
        f"{rng.choice(names)} {rng.choice(_VERBS)} {rng.choice(_THINGS)} {rng.choice(_PLACES)}." for _ in range(999)
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            told = rng.choices(facts, k=23)
            question = f"Story {number}: who does what first?"
            file.write(json.dumps({"instruction": question, "input": " ".join(told), "output": told[0]}) + "\n")


def recipe(folder: Path, rows: Path) -> Path:
    """A recipe that trains the embedded model on a stream of these rows for a few steps."""
    whole = {
        "model": {"model_name_or_path": "seedling"},
        "data": {"train_file": str(rows), "validation_split_percentage": 1, "max_eval_samples": 64, "streaming": True},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": STEPS, "per_device_train_batch_size": 8, "do_eval": True,
            "logging_steps": 1, "overwrite_output_dir": True,
        },
        "evaluation": {"metric": "none"},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def measure(rows: Path) -> list[Measured]:
    """`neuralbot data preview` and `neuralbot finetune` of a recipe with these rows."""
    made = str(recipe(rows.parent, rows))
    commands = (["data", "preview", made], ["finetune", made])
    return [_measured(" ".join(command[:-1]), [sys.executable, "-m", "neuralbot", *command]) for command in commands]


def _measured(what: str, command: Sequence[str]) -> Measured:
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().strip().splitlines()
    if process.returncode != 0:
        raise RuntimeError(f"{what} ended with status {process.returncode}: {' '.join(lines[-5:])}")
    return Measured(what, round(time.monotonic() - start, 1), usage.ru_maxrss * 1024)


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """What the README says of the one result."""
    (result,) = results
    preview, finetune = (f"{done['peak_bytes'] / 1e9:.2f} GB" for done in result["runs"])
    size = f"{result['bytes'] / 1e9:.1f} GB"
    return (
        f"{result['rows']:,} rows ({size}) took {preview} of memory to preview, and {finetune} to "
        f"train the first {result['steps']} steps of the embedded model."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/large-data.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(rows, arguments.rows)
        size = rows.stat().st_size
        found = [asdict(done) for done in measure(rows)]
    hardware = asdict(probe())
    write_json(
        arguments.output,
        {**environment(), "hardware": hardware, "rows": arguments.rows, "bytes": size, "steps": STEPS, "runs": found},
    )
    print(arguments.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
