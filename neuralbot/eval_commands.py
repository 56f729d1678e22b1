"""`neuralbot eval RUN --data FILE`: score a model on rows; `neuralbot eval compare A B`: which of two is better.

The settings are those of a recipe's section `evaluation`, and so are their names, defaults and bounds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.arguments import TASKS, EvaluationArguments
from neuralbot.command import text_console
from neuralbot.errors import DataError, ResourceError, UsageError
from neuralbot.fast_engine import ENGINES, load_plain, where_it_runs
from neuralbot.prompt_styles import PROMPT_STYLES
from neuralbot.textstream import NO_CONTROLS

if TYPE_CHECKING:
    from rich.console import Console

    from neuralbot.engines.openvino_engine import OpenVinoEngine
    from neuralbot.engines.torch_engine import TorchEngine
    from neuralbot.evaluation.compare import Change, Comparison
    from neuralbot.evaluation.results import Evaluation
    from neuralbot.recipe.fields import Field

_OF_A_RUN = ("before_tuning",)  # settings that mean nothing for one model
_TASKS = tuple(task for task in TASKS if task != "image2text")
_SHOWN_CHANGES = 5
_SHOWN_CHARS = 300


def main(argv: Sequence[str]) -> int:
    """Run one of the two commands and return the exit status. Raises NeuralbotError."""
    if argv and argv[0] == "compare":
        return _compare(_compare_parser().parse_args(argv[1:]))
    options = _parser().parse_args(argv)
    return _lm_eval(options) if options.lm_eval else _eval(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot eval",
        description="Score a model on rows that it was not trained on.",
        epilog="To compare two evaluations, or two runs: neuralbot eval compare A B",
    )
    parser.add_argument("model", help='a run folder, a model folder, "seedling" or a Hugging Face name')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="FILE", help="rows with their answers, or a folder of them")
    what.add_argument(
        "--lm-eval",
        nargs="+",
        metavar="TASK",
        help="tasks of lm-evaluation-harness instead, by name (rows from the hub) or task file (.yaml, local rows); "
        "of the settings it reads max-samples, batch-size and seed",
    )
    parser.add_argument("--task", choices=_TASKS, help="what the rows are for (default: the task of the run)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where results.json and samples.jsonl go")
    parser.add_argument("--columns", nargs="+", metavar="FIELD=COLUMN", default=[], help="as data.columns of a recipe")
    parser.add_argument("--prompt-style", choices=PROMPT_STYLES, help="as data.prompt_style of a recipe")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="openvino where it is installed and runs, else torch; or one of these two; NEURALBOT_ENGINE changes auto. "
        "Likelihoods, beams and --lm-eval are of torch (default: auto)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    group = parser.add_argument_group("settings", "as in section `evaluation` of a recipe")
    for name, field in _known_settings().items():
        more: dict[str, Any] = {"nargs": "+"} if "list" in field.kinds else {}
        more |= {"choices": [one for one in field.choices if one != "none"]} if field.choices else {"metavar": "X"}
        default = "" if field.default is None else f" (default: {field.default})"
        group.add_argument(_flag(name), help=(field.help + default).replace("%", "%%"), **more)
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot eval compare",
        description="Compare two models question by question. With one run folder: before and after its tuning.",
    )
    parser.add_argument("first", type=Path, help="a folder of neuralbot eval or finetune, or a samples.jsonl")
    parser.add_argument("second", type=Path, nargs="?", help="another one, on the same rows")
    parser.add_argument("--score", metavar="NAME", help="the score to compare (default: the main one of the metric)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write all rows that changed, as JSON lines")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _known_settings() -> dict[str, Field]:
    from neuralbot.recipe.fields import section_fields

    known = section_fields("evaluation", EvaluationArguments)
    return {name: field for name, field in known.items() if name not in _OF_A_RUN}


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")


# --- eval ---


def _eval(options: argparse.Namespace) -> int:
    from neuralbot import modeling
    from neuralbot.conversation import ensure_chat_template
    from neuralbot.data import origins
    from neuralbot.data.bad_rows import BadRows
    from neuralbot.evaluation.evaluate import evaluate
    from neuralbot.evaluation.metrics import BY_LIKELIHOOD
    from neuralbot.evaluation.questions import resolve_metric
    from neuralbot.evaluation.results import results_dict, sample_rows
    from neuralbot.progress import progress

    settings = _settings(options)
    task = options.task or _task_of(options.model)
    place = _folder(options)
    console = text_console()
    origin = origins.of_file(options.data, task, BadRows(), _columns(options.columns))
    rows = list(origin)
    for line in origin.describe():
        console.print(line)
    modeling.hide_loading_bars()
    metric = resolve_metric(settings.metric, task, rows)
    beyond = f"--metric {metric}" if metric in BY_LIKELIHOOD else "--num-beams" if settings.num_beams > 1 else None
    engine, described = _engine(options, console, beyond)
    style = ensure_chat_template(engine.tokenizer, task, options.prompt_style)
    console.print(f"prompt style: {style}")
    with progress(console, "evaluating") as report:
        found = evaluate(engine, rows, settings, task, on_progress=report)
    for notice in found.notices:
        console.print(f"note: {notice}")
    results = results_dict(task, None, found) | {"data": {options.data: origin.sha256()}, "engine": described}
    _write(place, options, settings, results, sample_rows(None, found))
    _show(found, settings.show_samples, console)
    console.print(f"\n{place}: results.json, samples.jsonl")
    return 0


def _settings(options: argparse.Namespace) -> EvaluationArguments:
    """The settings that were given, checked as those of a recipe are. Raises UsageError."""
    from neuralbot.recipe import document
    from neuralbot.recipe.fields import check

    values: dict[str, Any] = {}
    for name, known in _known_settings().items():
        given = getattr(options, _flag(name)[2:].replace("-", "_"))
        if given is None:
            continue
        node, problems = document.parse_value(given if isinstance(given, str) else json.dumps(given))
        problem = problems[0].message if problems else check(known, node) if node else None
        if problem or node is None:
            raise UsageError(f"{_flag(name)}: {problem}")
        values[name] = float(node.value) if "float" in known.kinds else node.plain()
    if "labels" in values and values.setdefault("metric", "labels") != "labels":
        raise UsageError(f"--labels belongs to --metric labels, but --metric is {values['metric']}")
    if values.get("num_beams", 1) > 1 and values.get("samples", 1) > 1:
        raise UsageError("--num-beams searches for one answer, --samples draws several: give one of them")
    return EvaluationArguments(**values)


def _columns(pairs: Sequence[str]) -> dict[str, str] | None:
    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise UsageError(f"--columns {wrong[0]}: expected FIELD=COLUMN, such as question=Anfrage")
    return {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs} or None


def _task_of(model: str) -> str:
    """The task that a run folder was made for. Raises UsageError for what is no run folder."""
    from neuralbot.training.records import read_json
    from neuralbot.training.run_folder import MANIFEST

    manifest = Path(model).expanduser() / MANIFEST
    task = read_json(manifest).get("task") if manifest.is_file() else None
    if task not in _TASKS:
        raise UsageError(f"{model} does not tell its task: give --task, one of {', '.join(_TASKS)}")
    return str(task)


def _engine(
    options: argparse.Namespace, console: Console, beyond: str | None
) -> tuple[OpenVinoEngine | TorchEngine, dict[str, str]]:
    """What answers, and its name and precision for the results. beyond: what only the torch engine can do."""
    if beyond is None:
        notices: list[str] = []
        token = os.environ.get("HF_TOKEN")
        fast = where_it_runs(options.engine, options.device, lambda: load_plain(options.model, token=token), notices)
        for notice in notices:
            console.print(f"note: {notice}")
        if fast is not None:
            computed = {"bf16": "bfloat16", "f32": "float32"}[fast.exported.precision]
            console.print(f"{options.model}: {computed}, OpenVINO")
            return fast, {"name": "openvino", "precision": computed}
    elif options.engine == "openvino":
        raise UsageError(f"--engine openvino does not go with {beyond}: use --engine auto")
    slow, precision = _torch_engine(options, console)
    return slow, {"name": "torch", "precision": precision}


def _torch_engine(options: argparse.Namespace, console: Console) -> tuple[TorchEngine, str]:
    """The engine and its precision."""
    from neuralbot import hardware, modeling
    from neuralbot.engines.torch_engine import TorchEngine

    plan = hardware.plan(hardware.probe(), device=options.device)
    plan.apply()
    loaded = modeling.load_for_chat(options.model, plan.torch_dtype())
    console.print(f"{options.model}: {plan.describe()}")
    for notice in plan.notices:
        console.print(f"note: {notice}")
    if plan.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ResourceError("--device cuda was asked for, but torch sees no CUDA device; use --device cpu")
    return TorchEngine(loaded.model.to(plan.device), loaded.tokenizer), plan.dtype


def _folder(options: argparse.Namespace) -> Path:
    """The folder that is written: the one named, which must be new or empty, else the first free name."""
    if options.output is None:
        on = "lm-eval" if options.lm_eval else Path(options.data).name.split(".")[0]
        base = Path("evaluations") / f"{Path(options.model).resolve().name}-{on}"
        names = (base.with_name(f"{base.name}-{number}") if number > 1 else base for number in range(1, 10**6))
        return next(name for name in names if not name.exists())
    place: Path = options.output
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"--output {place}: is there already; expected a new or empty folder")
    return place


def _write(
    place: Path,
    options: argparse.Namespace,
    settings: EvaluationArguments,
    results: dict[str, Any],
    samples: Sequence[dict[str, Any]],
) -> None:
    """results.json, with what it was measured on and with, and samples.jsonl."""
    from neuralbot.training.provenance import environment
    from neuralbot.training.records import cannot_write, json_line, write_json, write_text
    from neuralbot.training.run_folder import RESULTS, SAMPLES

    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(place, error) from error
    write_json(place / RESULTS, results | {"model": options.model, "settings": asdict(settings)} | environment())
    write_text(place / SAMPLES, "".join(json_line(row) for row in samples))


def _show(found: Evaluation, samples: int, console: Console) -> None:
    from rich.table import Table

    from neuralbot.evaluation.questions import spread

    table = Table("score", "value", "95 % interval", box=None, pad_edge=False)
    for name in sorted(found.scores, key=lambda name: name != found.main):
        low, high = found.intervals[name]
        table.add_row(name, f"{found.scores[name]:.3f}", f"{low:.3f} to {high:.3f}")
    for sample in spread(found.samples, samples):
        console.print(f"\nquestion  {_clean(sample.prompt)}\nanswer    {_clean(sample.answer)}")
        console.print(f"expected  {_clean(sample.expected)}")
    console.print()
    console.print(table)
    console.print(f"{found.n:,} questions, {found.seconds:.0f} s, metric {found.metric}")


def _clean(text: str) -> str:
    """A text of a row or a model for the terminal: nothing that could command it, and not without end."""
    shown = text.translate(NO_CONTROLS)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]} ..."


def _lm_eval(options: argparse.Namespace) -> int:
    from neuralbot import modeling
    from neuralbot.evaluation import lm_harness

    settings = _settings(options)
    place = _folder(options)
    tasks = lm_harness.find(options.lm_eval)
    console = text_console()
    for notice in tasks.notices:
        console.print(f"note: {notice}")
    modeling.hide_loading_bars()
    if options.engine == "openvino":
        raise UsageError("--engine openvino does not go with --lm-eval: use --engine auto")
    engine, precision = _torch_engine(options, console)
    found = lm_harness.run(
        engine.model,
        engine.tokenizer,
        tasks,
        batch_size=settings.batch_size,
        limit=settings.max_samples,
        seed=settings.seed,
    )
    results = {"lm_eval": found.scores, "lm_eval_versions": found.versions}
    results["engine"] = {"name": "torch", "precision": precision}
    _write(place, options, settings, results, found.samples)
    for line in found.describe():
        console.print(line)
    console.print(f"\n{place}: results.json, samples.jsonl")
    return 0


# --- compare ---


def _compare(options: argparse.Namespace) -> int:
    from neuralbot.evaluation.compare import compare

    if options.second is None:
        first, second = _side(options.first, "before"), _side(options.first, "after")
        names = f"{options.first} before tuning", f"{options.first} after tuning"
    else:
        first, second = _side(options.first), _side(options.second)
        names = str(options.first), str(options.second)
    found = compare(first, second, options.score)
    console = text_console()
    _tell(found, names, console)
    if options.output:
        _write_changes(options.output, found)
        console.print(f"wrote {options.output}: {len(found.better) + len(found.worse)} rows that changed")
    return 0


def _side(path: Path, which: str | None = None) -> list[dict[str, Any]]:
    """The questions of one side with its answers: those after tuning where there are any, if `which` does not say."""
    from neuralbot.evaluation.results import side
    from neuralbot.training.records import read_jsonl
    from neuralbot.training.run_folder import SAMPLES

    file = path / SAMPLES if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"there is no file {file}; expected a folder that neuralbot eval or finetune wrote, or its {SAMPLES}"
        )
    try:
        found = side(read_jsonl(file), which)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is not what neuralbot writes ({error!r}); expected its {SAMPLES}") from None
    if not found:
        raise DataError(
            f"{file} holds no answers{f' of the model {which} tuning' if which else ''}; nothing to compare"
        )
    return found


def _tell(found: Comparison, names: tuple[str, str], console: Console) -> None:
    for name, value in zip(names, found.values, strict=True):
        console.print(f"{found.score} {value:.3f}  {name}")
    low, high = found.interval
    console.print(
        f"difference {found.difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), p = {found.p:.4f} "
        f"(paired permutation test, {found.n:,} questions): {found.verdict}"
    )
    for notice in found.notices:
        console.print(f"note: {notice}")
    same = found.n - len(found.better) - len(found.worse)
    console.print(f"{len(found.better):,} questions better, {len(found.worse):,} worse, {same:,} with the same score")
    for title, changes in (("better", found.better), ("worse", found.worse)):
        for change in changes[:_SHOWN_CHANGES]:
            console.print(f"\n{title}: {change.values[0]:.3f} -> {change.values[1]:.3f}  {_clean(change.prompt)}")
            console.print(f"  expected  {_clean(change.expected)}")
            for side, answer in zip(("first", "second"), change.answers, strict=True):
                console.print(f"  {side:<8}  {_clean(answer)}")


def _write_changes(file: Path, found: Comparison) -> None:
    from neuralbot.training.records import json_line, write_text

    changes: list[tuple[str, Change]] = [("better", one) for one in found.better]
    changes += [("worse", one) for one in found.worse]
    write_text(file, "".join(json_line({"change": kind} | asdict(change)) for kind, change in changes))
