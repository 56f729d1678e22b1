"""Memory of looking at, and of training the first steps on, more rows than one would hold in memory.

    python -m benchmarks.large_data --rows 1000000

Rows of about 1 KB are written to a folder in TMPDIR (1 GB for a million) and deleted again. Each measurement is a
process of its own; its peak is what the kernel says about it when it has ended. `look`: splits, the tokens of a sample.
`train`: a few steps of LoRA on the embedded model. Does not: measure speed of training (finetune.py).
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS = 3
_VERBS = ("carries", "sells", "finds", "mends", "paints", "hides", "weighs", "counts", "lends", "keeps")
_THINGS = ("a red bag", "two old maps", "the last loaf", "a silver key", "nine blue eggs", "the long rope")
_PLACES = ("near the station", "behind the mill", "on Monday", "before the storm", "in the market", "at noon")
_LOOK = """
import sys
from neuralbot import conversation, modeling
from neuralbot.arguments import DataArguments
from neuralbot.data.splits import load_splits
from neuralbot.data.training_data import tokenize_splits
tokenizer = modeling.load_tokenizer("seedling")
conversation.ensure_chat_template(tokenizer, "completion")
data = DataArguments(train_file=sys.argv[1], validation_split_percentage=1, streaming=True)
splits = load_splits(data, "completion", do_eval=True)
print(tokenize_splits(splits, tokenizer, 512, False, data, print).describe())
"""


@dataclass(frozen=True)
class Measured:
    """One process: what it did, how long it took, the most memory it held, and the last line that it printed."""

    what: str
    seconds: float
    peak_bytes: int
    last_line: str


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
            told = rng.choices(facts, k=20)
            row = {"instruction": f"Story {number}: who does what first?", "input": " ".join(told), "output": told[0]}
            file.write(json.dumps(row) + "\n")


def recipe(folder: Path, rows: Path, **data: Any) -> Path:
    """A recipe that trains the embedded model on a stream of these rows for a few steps."""
    whole = {
        "model": {"model_name_or_path": "seedling"},
        "data": {"train_file": str(rows), "validation_split_percentage": 1, "max_eval_samples": 64, "streaming": True}
        | data,
        "training": {
            "output_dir": str(folder / "run"), "max_steps": STEPS, "per_device_train_batch_size": 8, "do_eval": True,
            "logging_steps": 1, "overwrite_output_dir": True,
        },
        "evaluation": {"metric": "none"},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def look(rows: Path) -> Measured:
    return _measured("look", [sys.executable, "-c", _LOOK, str(rows)])


def train(rows: Path, **data: Any) -> Measured:
    made = recipe(rows.parent, rows, **data)
    return _measured("train", [sys.executable, "-m", "neuralbot.finetune", str(made)])


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
    return Measured(what, round(time.monotonic() - start, 1), usage.ru_maxrss * 1024, lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(rows, count)
        size = rows.stat().st_size
        for done in (look(rows), train(rows)):
            print(json.dumps({"rows": count, "bytes": size, **asdict(done)}), flush=True)


if __name__ == "__main__":
    main()
