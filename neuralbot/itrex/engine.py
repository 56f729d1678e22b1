"""A recipe and a chat on the genuine package: what `--engine itrex` of `neuralbot finetune` and `neuralbot chat` does.

Does not: score answers on the test rows. What the package makes of them is shown for a few.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot import modeling
from neuralbot import recipe as recipes
from neuralbot.arguments import ServingArguments
from neuralbot.data.splits import Splits, Stream, load_splits
from neuralbot.errors import DataError
from neuralbot.itrex import checkpoint, environment, job, process, rows
from neuralbot.progress import progress
from neuralbot.training import run_folder
from neuralbot.training.records import read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from neuralbot.recipe import Recipe

_LOG = "itrex.log"


def finetune(recipe: Recipe, console: Console) -> Path:
    """Train by the recipe with the genuine `finetune_model`; returns the run folder.

    Raises as `neuralbot.finetune.run` does, and ModelError with what the package said where it failed.
    """
    environment.python()
    job.refuse(recipe)
    console.print(f"note: {environment.WARNING}", highlight=False)
    output, task, model = Path(recipe.training["output_dir"]), recipe.finetuning.task, recipe.model
    run_folder.check(output, overwrite=recipe.overwrite_output_dir)
    splits = load_splits(recipe.data, task, do_eval=recipe.evaluates, token=model.token)
    if isinstance(splits.train, Stream):
        raise DataError(f"{splits.notices[0]}; the engine itrex cannot: give it fewer rows with data.max_train_samples")
    for line in (*splits.detected, *(f"note: {notice}" for notice in splits.notices)):
        console.print(line, highlight=False, markup=False)
    source = modeling.local_folder(
        model.model_name_or_path or "", weights=True, revision=model.model_revision, token=model.token,
        cache_dir=model.cache_dir,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="itrex-") as work:
        files = _files(splits, task, Path(work))
        folder = run_folder.create(
            output, recipe_text=recipes.dump(recipe), manifest=_manifest(recipe, splits),
            serving=asdict(recipe.serving), overwrite=recipe.overwrite_output_dir,
        )  # fmt: skip
        asked = [rows.question(row, task) for row in splits.test[: recipe.evaluation.show_samples]]
        with folder, progress(console, "training") as report:
            made = job.finetune(recipe, checkpoint.prepare(source, Path(work)), files, asked, folder.path)
            folder.enter(run_folder.TRAINING)
            found = process.run(made, folder.path / _LOG, lambda told: report(told["step"], told["of"]))
            _name_base(folder.path, recipe.model.model_name_or_path or "")
            for record in found["log"]:
                folder.log(record)
            folder.write_results({"engine": "itrex", "metrics": _metrics(found)})
            folder.finish({"train": found["train_s"], "all": found["all_s"]})
    _tell(found, asked, output, console)
    return output


def _files(splits: Splits, task: str, work: Path) -> dict[str, Path]:
    """The rows as files, by their use."""
    files = {}
    for role, kept in (("train", splits.sample()), ("validation", splits.validation)):
        if kept:
            files[role] = work / rows.NAME.format(role)
            rows.write(kept, task, files[role])
    return files


def _name_base(run: Path, name: str) -> None:
    """Let the adapter name the recipe's base, not the folder of links that the package saw."""
    path = run / modeling.ADAPTER_CONFIG
    if path.is_file():
        write_json(path, read_json(path) | {"base_model_name_or_path": name})


def _manifest(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    counts = {"train": len(splits.sample()), "validation": len(splits.validation), "test": len(splits.test)}
    return {
        "name": Path(recipe.training["output_dir"]).name,
        "engine": "itrex",
        "engine_versions": environment.requirements(),
        "task": recipe.finetuning.task,
        "base_model": {"name": recipe.model.model_name_or_path},
        "data": {"fingerprint": splits.fingerprint, "rows": counts},
        "notices": (*recipe.notices, environment.WARNING),
    }


def _metrics(found: dict[str, Any]) -> dict[str, float]:
    last: dict[str, float] = {}
    for record in found["log"]:
        last |= {key: record[key] for key in ("train_loss", "eval_loss", "eval_ppl") if key in record}
    return last | {"steps": found["steps"]}


def _tell(found: dict[str, Any], asked: Sequence[str], output: Path, console: Console) -> None:
    console.print(f"\n{output} is ready after {found['all_s']:.0f} s, {found['train_s']:.0f} of them training")
    for name, value in _metrics(found).items():
        console.print(f"{name} {value:.4g}", highlight=False)
    for question, answer in zip(asked, found["answers"], strict=True):
        console.print(f"\nquestion  {question}\nanswer    {answer}", highlight=False, markup=False)
    console.print(f"\nchat with it: neuralbot chat {output} --engine itrex", highlight=False)


def chat(source: str, adapter: str | None) -> int:
    """Answer standard input line by line with the genuine `build_chatbot`; it remembers nothing of a conversation.

    Returns 1 if a question had no answer. Raises ModelError if there is no chatbot.
    """
    environment.python()
    _say(f"note: {environment.WARNING}")
    place = modeling.local_folder(source, weights=True)
    own = Path(adapter) if adapter else None
    if (place / modeling.ADAPTER_CONFIG).is_file():
        base, revision = modeling.base_of(place)
        place, own = modeling.local_folder(base, weights=True, revision=revision), place
    serving = ServingArguments(**modeling.read_serving(own or place))
    failed = False
    with tempfile.TemporaryDirectory(prefix="itrex-") as work:
        log = Path(work) / _LOG
        made = job.chat(checkpoint.prepare(place, Path(work)), own, serving)
        with process.started(made, log) as worker:
            assert worker.stdin and worker.stdout
            if worker.stdout.readline():
                for line in filter(str.strip, sys.stdin):
                    failed |= _exchange(worker, line.strip(), log)
    return int(failed)


def _exchange(worker: Any, question: str, log: Path) -> bool:
    """Ask one question; True if there was no answer."""
    print(json.dumps(question), file=worker.stdin, flush=True)
    told = json.loads(worker.stdout.readline() or '{"error": "it ended"}')
    if "answer" in told:
        print(told["answer"], flush=True)
        return False
    _say(f"error: {process.failure(told, log)}")
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
