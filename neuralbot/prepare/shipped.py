"""`python -m neuralbot.prepare.shipped [FOLDER]`: writes the four shipped data sets, the same bytes every time.

Each split draws combinations that hash to it, so no combination stands in two splits; each row stands once.
"""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from neuralbot.prepare import articles, dialogues, functions, skills
from neuralbot.prepare.skills import Split

SEED = 2024
COUNTS: dict[str, dict[Split, int]] = {
    "alpaca": {"train": 12000, "validation": 240, "test": 480},
    "summarization": {"train": 3000, "validation": 120, "test": 240},
    "code": {"train": 3000, "validation": 120, "test": 240},
    "chat": {"train": 3000, "validation": 120, "test": 240},
}
Row = dict[str, Any]


def alpaca_row(rng: random.Random, split: Split) -> Row:
    task = skills.draw(rng, split)
    return {"instruction": task.instruction, "input": task.input, "output": task.output}


def summarization_row(rng: random.Random, split: Split) -> Row:
    article = articles.draw(rng, split)
    return {"article": article.article, "highlights": article.highlights}


def code_row(rng: random.Random, split: Split) -> Row:
    function = functions.draw(rng, split)
    return {"instruction": function.instruction, "output": function.code, "tests": function.tests}


def chat_row(rng: random.Random, split: Split) -> Row:
    dialogue = dialogues.draw(rng, split)
    messages = [{"role": role, "content": text} for role, text in dialogue.messages]
    return {"messages": messages, "expected": list(dialogue.expected)}


def distinct(draw: Callable[[random.Random, Split], Row], rng: random.Random, split: Split, count: int) -> list[Row]:
    """`count` rows of a split, no two the same."""
    made: dict[str, Row] = {}
    while len(made) < count:
        row = draw(rng, split)
        made.setdefault(json.dumps(row), row)
    return list(made.values())


def as_json(rows: list[Row]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def as_jsonl(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


SETS: dict[str, tuple[Callable[[random.Random, Split], Row], Callable[[list[Row]], str], str]] = {
    "alpaca": (alpaca_row, as_json, "json"),
    "summarization": (summarization_row, as_csv, "csv"),
    "code": (code_row, as_jsonl, "jsonl"),
    "chat": (chat_row, as_jsonl, "jsonl"),
}


def render(name: str, split: Split) -> str:
    """The text of one shipped file."""
    draw, write, _ = SETS[name]
    return write(distinct(draw, random.Random(f"{SEED} {name} {split}"), split, COUNTS[name][split]))


def main(folder: Path) -> None:
    """Write every split of every data set below `folder`."""
    for name, (_, _, suffix) in SETS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split in get_args(Split):
            (folder / name / f"{split}.{suffix}").write_text(render(name, split), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
