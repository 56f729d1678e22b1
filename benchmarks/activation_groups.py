"""What it costs to round activations to 8 bits, in groups of several sizes: a tuned model on rows it never saw.

    python -m benchmarks.activation_groups runs/alpaca

Beside weights that are integers, OpenVINO rounds the other side of each product too, so many values to a scale; the
larger the group, the faster (`python -m benchmarks.generate --tries`). The form of the result file is in
benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.openvino_loss import loss
from benchmarks.peers import methods
from neuralbot import hardware, modeling
from neuralbot.command import run as run_command
from neuralbot.conversation import Encoded
from neuralbot.engines import export
from neuralbot.training.provenance import environment
from neuralbot.training.records import write_json

RESULT = methods.ROOT / "benchmarks" / "results" / "activation-groups.json"
GROUPS = (0, 32, 64, 128, 256)  # 0: not rounded; 32 is OpenVINO's own choice


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.activation_groups",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="the folder of a finished run of recipes/alpaca.yaml")
    parser.add_argument("--rows", type=Path, default=methods.ROOT / "data" / "alpaca" / "test.json", metavar="FILE")
    parser.add_argument("--output", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _command(arguments), debug=False)


def _command(arguments: argparse.Namespace) -> int:
    modeling.prepare_transformers()
    rows = list(_rows(arguments.run, arguments.rows))
    losses = {kept: _losses(arguments.run, kept, rows) for kept in ("int8", "int4")}
    content = {
        "schema": 1,
        "rows": len(rows),
        "targets": sum(sum(row.target_mask) for row in rows),
        "losses": losses,
        "hardware": asdict(hardware.probe()),
        **environment(),
    }
    write_json(arguments.output, content)
    for kept, found in losses.items():
        print(kept, ", ".join(f"groups of {group}: {loss:.4f}" for group, loss in found.items()))
    return 0


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """The words between the markers."""
    (result,) = results
    parts = [
        f"with weights in {kept} {found['0']:.4f} where activations are not rounded, {found['32']:.4f} in OpenVINO's "
        f"groups of 32, {found['128']:.4f} in neuralbot's of 128"
        for kept, found in result["losses"].items()
    ]
    return (
        f"Loss of the embedded model, tuned by recipes/alpaca.yaml, on {result['rows']} rows that it never saw: "
        f"{'; '.join(parts)} (`python -m benchmarks.activation_groups runs/alpaca`)."
    )


def _rows(run: str, path: Path) -> Iterator[Encoded]:
    from neuralbot.conversation import Turn, encode_prompt

    tokenizer = modeling.load_tokenizer(run)
    for row in json.loads(path.read_text(encoding="utf-8")):
        question = "\n".join(filter(None, (row["instruction"], row["input"])))
        prompt = encode_prompt(tokenizer, [Turn("user", question)])
        answer = tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        yield Encoded(prompt + answer, [False] * len(prompt) + [True] * len(answer))


def _losses(run: str, kept: Any, rows: Sequence[Encoded]) -> dict[int, float]:
    folder = export.exported(export.Spec(run, kept)).folder
    return {group: round(loss(folder, group, rows), 5) for group in GROUPS}


if __name__ == "__main__":
    sys.exit(main())
