"""`python -m neuralbot.finetune RECIPE`: a recipe goes in, a run folder comes out.

The only place where the stages meet: recipe, machine, data, model, training, evaluation, run folder.
Everything is checked before the run folder is made, so a mistake leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuralbot import hardware
from neuralbot import recipe as recipes
from neuralbot.command import run as run_command
from neuralbot.errors import RunFolderError
from neuralbot.itrex import ENGINE_HELP, ENGINES
from neuralbot.progress import LONG_S, progress
from neuralbot.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

    from neuralbot.conversation import Conversation
    from neuralbot.data.splits import Splits
    from neuralbot.data.tokenized import Tokenizing
    from neuralbot.data.training_data import TrainingData
    from neuralbot.evaluation.lm_harness import HarnessResult, Tasks
    from neuralbot.evaluation.results import Evaluation
    from neuralbot.training.run_folder import RunFolder
    from neuralbot.training.trainer import Trainer


@dataclass(frozen=True)
class FinetuneResult:
    """What a run made: its folder, the scores before and after, the losses, and the seconds each stage took."""

    run_dir: Path
    before: Evaluation | None
    after: Evaluation | None
    metrics: dict[str, float]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Prepared:
    """All that a run needs and that can fail because of a user's mistake, made before anything is written."""

    recipe: Recipe
    plan: hardware.Plan
    tokenizer: PreTrainedTokenizerBase
    prompt_style: str
    new_tokens: tuple[int, ...]
    data: TrainingData
    model: PreTrainedModel
    notices: tuple[str, ...]
    lm_tasks: Tasks | None = None


class Stopwatch:
    """Seconds per named stage, by the monotonic clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return run_command(lambda: _command(arguments), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m neuralbot.finetune", description="Finetune a model by a recipe.")
    parser.add_argument("recipe", help="path of a recipe, or the name of a shipped one (`neuralbot recipes list`)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument("--output-dir", metavar="DIR", help="run folder, instead of training.output_dir")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=f"{ENGINE_HELP} (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, then stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from neuralbot import modeling

    console = Console(soft_wrap=True)
    recipe = recipes.load(arguments.recipe, arguments.overrides, output_dir=arguments.output_dir)
    if arguments.dry_run:
        plan = _plan(recipe)
        console.out(recipes.dump(recipe), end="", highlight=False)
        console.out(f"# plan: {plan.describe()}", highlight=False)
        for notice in recipe.notices:
            console.out(f"# note: {notice}", highlight=False)
        return 0
    modeling.hide_loading_bars()
    if arguments.engine == "itrex":
        from neuralbot.itrex import engine
        from neuralbot.report.files import write_all

        for problem in write_all(engine.finetune(recipe, console)):
            console.print(f"note: {problem}", highlight=False, markup=False)
    else:
        run(recipe, console)
    return 0


def run(recipe: Recipe, console: Console | None = None) -> FinetuneResult:
    """Finetune by `recipe` and write the run folder `recipe.training["output_dir"]`.

    Raises: DataError, ModelError, ResourceError and RunFolderError before anything is written;
    TrainingDiverged when the loss stops being a number.
    """
    from rich.console import Console

    from neuralbot.training import run_folder

    console = console or Console()
    watch = Stopwatch()
    run_folder.check(Path(recipe.training["output_dir"]), overwrite=recipe.overwrite_output_dir)
    prepared = prepare(recipe, console)
    watch.lap("prepare")
    folder = run_folder.create(
        Path(recipe.training["output_dir"]),
        recipe_text=recipes.dump(recipe),
        manifest=_manifest(prepared),
        serving=asdict(recipe.serving),
        overwrite=recipe.overwrite_output_dir,
    )
    for notice in folder.notices:
        console.print(f"note: {notice}", highlight=False)
    with folder:
        folder.write_rejects(map(asdict, prepared.data.splits.bad.found))
        before, lm_before = None, None
        folder.enter("evaluating before tuning")
        if recipe.evaluation.before_tuning:
            before, lm_before = _scores(prepared, lambda: prepared.model, "before tuning", console)
            watch.lap("evaluate_before")
        trainer, losses = train(prepared, folder, console)
        watch.lap("train")
        after, lm_after = _scores(prepared, lambda: _tuned(trainer, prepared, folder), "after tuning", console)
        watch.lap("evaluate_after")
        metrics = _metrics(trainer, losses, recipe.finetuning.eval_ppl)
        _write_results(folder, before, after, {"metrics": metrics} | _harness(lm_before, lm_after), prepared)
        _finish(folder, watch, console)
    result = FinetuneResult(folder.path, before, after, metrics, watch.seconds)
    _summary(result, recipe.evaluation.show_samples, console)
    return result


def _plan(recipe: Recipe) -> hardware.Plan:
    return hardware.plan(hardware.probe(), bf16=recipe.training.get("bf16"), device=recipe.finetuning.device)


def prepare(
    recipe: Recipe, console: Console, look: Callable[[Splits, TrainingData, Tokenizing], None] | None = None
) -> Prepared:
    """Load and check everything a run needs; writes nothing.

    look: sees the conversations with their rows, and what makes one of the other, before they are let go.
    """
    from neuralbot import modeling, recipe_tokenizer, vocabulary
    from neuralbot.data import splits as data_splits
    from neuralbot.data.tokenized import Tokenizing
    from neuralbot.data.training_data import tokenize_splits
    from neuralbot.evaluation import lm_harness
    from neuralbot.training import adapter
    from neuralbot.training.build import load_model

    plan = _plan(recipe)
    plan.apply()
    lm_tasks = lm_harness.find(recipe.finetuning.lm_eval_tasks) if recipe.finetuning.do_lm_eval else None
    console.print(f"[bold]neuralbot[/bold] {recipe.source}: {plan.describe()}", highlight=False)
    task, model_args, data = recipe.finetuning.task, recipe.model, recipe.data
    rendering = recipe_tokenizer.load(recipe)
    tokenizer, style = rendering.tokenizer, rendering.style
    splits = data_splits.load_splits(data, task, do_eval=recipe.evaluates, token=model_args.token)
    _require_sandbox(recipe, splits.test)
    show = partial(progress, console, after_s=LONG_S)
    length = modeling.row_limit(model_args, data.max_seq_length, recipe.finetuning.virtual_tokens)
    rows = tokenize_splits(splits, tokenizer, length, recipe.finetuning.train_on_inputs, data, _teller(console), show)
    if look is not None:
        settings = (recipe.finetuning.train_on_inputs, "training rows", data.max_prompt_length)
        look(splits, rows, Tokenizing(tokenizer, length, *settings))
    model = load_model(model_args, recipe.finetuning, plan.torch_dtype(), show)
    vocabulary.make_room(model, rendering.new_tokens)
    if plan.device == "cpu" and rows.mean_length <= SHORT_ROW:
        model.set_attn_implementation("eager")
    adapted = adapter.check(model, recipe.finetuning, rendering.new_tokens)
    base = (*_left_whole(recipe, model), *_slow_int8(recipe, plan))
    notices = (*recipe.notices, *rendering.notices, *adapted, *base, *rows.notices, *plan.notices)
    notices += lm_tasks.notices if lm_tasks else ()
    for line in (*splits.detected, *(f"note: {notice}" for notice in notices)):
        console.print(line, highlight=False, markup=False)
    console.print(f"{rows.describe()}; prompt style: {style}", highlight=False)
    return Prepared(recipe, plan, tokenizer, style, rendering.new_tokens, rows, model, notices, lm_tasks)


def _require_sandbox(recipe: Recipe, test: Sequence[Conversation]) -> None:
    """A night's training must not end with code that cannot be run."""
    from neuralbot.evaluation import unit_tests
    from neuralbot.evaluation.questions import resolve_metric

    settings = recipe.evaluation
    if test and resolve_metric(settings.metric, recipe.finetuning.task, test) == "unit_tests":
        unit_tests.require(settings.sandbox)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(f"note: {text}", highlight=False, markup=False)


def _left_whole(recipe: Recipe, model: PreTrainedModel) -> tuple[str, ...]:
    from neuralbot import quantized_base

    left = quantized_base.left_whole(model) if recipe.finetuning.qlora else 0
    if not left:
        return ()
    return (f"{left} linear layers are not quantised: the width of their input is no multiple of 64",)


def _slow_int8(recipe: Recipe, plan: hardware.Plan) -> tuple[str, ...]:
    if recipe.finetuning.qlora and recipe.finetuning.bits == 8 and not plan.hardware.has_int8:
        return (f"int8 saves memory here but no time: {plan.hardware.cpu} multiplies no integers (no VNNI, no AMX)",)
    return ()


# Up to this many tokens in the mean row, plain matrix products train faster on a CPU than the fused attention: two
# to four times at 32 and 64 tokens, slower from 256 on (benchmarks/attention.py).
SHORT_ROW = 128


def training_arguments(prepared: Prepared) -> TrainingArguments:
    from transformers import TrainingArguments

    ours = _OURS | {"bf16": prepared.plan.dtype == "bfloat16", "use_cpu": prepared.plan.device == "cpu"}
    return TrainingArguments(**prepared.recipe.training | ours)


# Values that differ from the library's defaults, each for one reason.
_OURS: dict[str, Any] = {
    "disable_tqdm": True,  # neuralbot shows its own progress
    "report_to": "none",  # training.trackers starts them, and keeps their failures from ending the run
    "trackio_space_id": None,  # nothing is pushed to a hub
    "save_only_model": True,  # optimizer files of the library are pickles
    "logging_nan_inf_filter": False,  # a bad loss stops the run, it is not averaged away
    "remove_unused_columns": False,  # rows hold exactly what the collator reads
    "dataloader_pin_memory": False,  # means nothing on a CPU and warns there
}


def train(
    prepared: Prepared, folder: RunFolder, console: Console, callbacks: Sequence[TrainerCallback] = ()
) -> tuple[Trainer, dict[str, float]]:
    """Add the adapter, train with progress, and leave the best weights in memory and in the run folder.

    Returns the trainer and the losses: on the training rows, and held out before and after.
    """
    from neuralbot import modeling
    from neuralbot.training import adapter
    from neuralbot.training.build import build_trainer
    from neuralbot.training.energy import EnergyMeter
    from neuralbot.training.run_folder import TRAINING
    from neuralbot.training.stream_steps import run_by_steps
    from neuralbot.training.trackers import Trackers
    from neuralbot.training.trainer import MetricsCallback

    recipe, model, data = prepared.recipe, prepared.model, prepared.data
    arguments = training_arguments(prepared)
    if data.stream is not None:
        _note(run_by_steps(arguments, lambda: _counted(data, console)), folder, console)
    if not recipe.finetuning.full_finetune:
        model = adapter.add_adapter(model, recipe.finetuning, arguments.seed, prepared.new_tokens)
    trained, total = adapter.trainable_parameters(model)
    folder.update_manifest(trainable_parameters=trained)
    console.print(f"training {trained:,} of {total:,} parameters ({trained / total:.1%})", highlight=False)
    trainer = build_trainer(
        model, prepared.tokenizer, arguments, data.trained_on, data.validation.rows if data.validation else None,
        kernels=_kernels(prepared, model, arguments, folder, console),
        pad_to=recipe.data.max_seq_length if recipe.data.pad_to_max_length else None,
        early_stopping_patience=recipe.early_stopping_patience,
    )  # fmt: skip
    trainer.add_callback(
        MetricsCallback(folder.log, eval_ppl=recipe.finetuning.eval_ppl, begin=partial(folder.enter, TRAINING))
    )
    energy = EnergyMeter()
    for callback in (energy, *callbacks):
        trainer.add_callback(callback)
    with Trackers(
        recipe.training.get("report_to"), trainer, folder.path,
        say=lambda text: console.print(text, highlight=False, markup=False),
        note=lambda text: _note(text, folder, console),
    ):  # fmt: skip
        losses = _fit(trainer, data, folder, console)
        trainer.save_model(str(folder.path))
    folder.update_manifest(energy=energy.found())
    if recipe.model.config_name and not recipe.finetuning.full_finetune:
        modeling.keep_config(recipe.model, folder.path)
    return trainer, losses


def _fit(trainer: Trainer, data: TrainingData, folder: RunFolder, console: Console) -> dict[str, float]:
    """Train; returns the losses: on the training rows, and held out before and after."""
    from neuralbot.training.trainer import ProgressCallback

    losses: dict[str, float] = {}
    if data.validation:
        losses["eval_loss_before"] = _held_out_loss(trainer, "before tuning", console)
    try:
        with progress(console, "training") as report:
            shown = ProgressCallback(trainer, report)
            trainer.add_callback(shown)
            losses["train_loss"] = trainer.train().training_loss
            trainer.remove_callback(shown)
        folder.enter("evaluating after tuning")
    finally:
        _tell_what_reading_showed(data, folder, console)
    if data.validation:
        losses["eval_loss"] = _held_out_loss(trainer, "after tuning", console)
    return losses


def _held_out_loss(trainer: Trainer, when: str, console: Console) -> float:
    from neuralbot.training.trainer import EvaluationProgress

    with progress(console, f"held-out loss {when}", after_s=LONG_S) as report:
        shown = EvaluationProgress(report)
        trainer.add_callback(shown)
        loss: float = trainer.evaluate()["eval_loss"]
        trainer.remove_callback(shown)
    return loss


def _counted(data: TrainingData, console: Console) -> int:
    console.print("counting the streamed rows, because the number of steps depends on them", highlight=False)
    return data.count_stream()


def _tell_what_reading_showed(data: TrainingData, folder: RunFolder, console: Console) -> None:
    """What is known only after rows were streamed: how many were left out or cut, and which."""
    folder.write_rejects(map(asdict, data.splits.bad.found))
    if data.stream is not None:
        folder.update_manifest(data=data.manifest())
        for notice in data.later_notices():
            _note(notice, folder, console)


def _note(notice: str | None, folder: RunFolder, console: Console) -> None:
    """Tell a notice that came up after the manifest was written."""
    if notice:
        folder.add_notice(notice)
        console.print(f"note: {notice}", highlight=False, markup=False)


def _kernels(
    prepared: Prepared, model: PreTrainedModel, arguments: TrainingArguments, folder: RunFolder, console: Console
) -> Literal["fast", "reference"]:
    """The recipe's choice, or `reference` where the fast path cannot go; said, and kept in the manifest."""
    from neuralbot import kernels
    from neuralbot.training.build import why_reference

    if prepared.recipe.finetuning.kernels == "reference":
        folder.update_manifest(kernels="reference")
        return "reference"
    reason = why_reference(model, arguments, longest_row=prepared.data.longest)
    if reason:
        folder.update_manifest(kernels="reference", kernels_reason=reason)
        console.print(f"note: the fast kernels are not used: {reason}; training goes the plain way", highlight=False)
        return "reference"
    folder.update_manifest(kernels="fast", kernels_built=kernels.best() is kernels.native)
    if kernels.best() is kernels.plain:
        console.print(
            "note: the kernels run in torch, which is slower: no working C compiler (gcc, clang or cc) was found",
            highlight=False,
        )
    return "fast"


def _scores(
    prepared: Prepared, load: Callable[[], PreTrainedModel], when: str, console: Console
) -> tuple[Evaluation | None, HarnessResult | None]:
    """What the test rows and lm-evaluation-harness say of the model, which is loaded once, and only if it is asked."""
    loaded = cache(load)
    return _evaluate(prepared, loaded, when, console), _lm_eval(prepared, loaded, when, console)


def _lm_eval(
    prepared: Prepared, load: Callable[[], PreTrainedModel], when: str, console: Console
) -> HarnessResult | None:
    from neuralbot.evaluation import lm_harness

    settings = prepared.recipe.evaluation
    if prepared.lm_tasks is None:
        return None
    found = lm_harness.run(
        load(),
        prepared.tokenizer,
        prepared.lm_tasks,
        batch_size=settings.batch_size,
        limit=settings.max_samples,
        seed=settings.seed,
    )
    for line in found.describe():
        console.print(f"{when}: {line}", highlight=False, markup=False)
    return found


def _evaluate(
    prepared: Prepared, load: Callable[[], PreTrainedModel], when: str, console: Console
) -> Evaluation | None:
    """Score the model on the test rows by greedy answers; None where there is nothing to score."""
    from neuralbot.engines.torch_engine import TorchEngine
    from neuralbot.evaluation.evaluate import evaluate

    settings, rows = prepared.recipe.evaluation, prepared.data.splits.test
    if not rows or settings.metric == "none":
        return None
    engine = TorchEngine(load(), prepared.tokenizer)
    with progress(console, f"evaluating {when}") as report:
        evaluation = evaluate(engine, rows, settings, prepared.recipe.finetuning.task, on_progress=report)
    console.print(f"{when}: {evaluation.describe()}", highlight=False)
    for notice in evaluation.notices:
        console.print(f"note: {notice}", highlight=False)
    return evaluation


def _tuned(trainer: Trainer, prepared: Prepared, folder: RunFolder) -> PreTrainedModel:
    """The trained model as serving will load it, in the plan's dtype: the adapter merged, where it can be."""
    from neuralbot import merging, modeling

    dtype, model = prepared.plan.torch_dtype(), prepared.recipe.model
    if prepared.recipe.finetuning.qlora:  # serving merges into the base as its maker stored it: not two at once
        trainer.release()
        return modeling.load_for_chat(str(folder.path), dtype, token=model.token, cache_dir=model.cache_dir).model
    return merging.merged(trainer.accelerator.unwrap_model(trainer.model), dtype)


def _manifest(prepared: Prepared) -> dict[str, Any]:
    """What the run folder's manifest says before step 1; versions, commit and times are added there."""
    from neuralbot import modeling
    from neuralbot.training.provenance import weights_sha256

    recipe = prepared.recipe
    name = recipe.model.model_name_or_path or ""
    return {
        "name": Path(recipe.training["output_dir"]).name,
        "task": recipe.finetuning.task,
        "method": "full" if recipe.finetuning.full_finetune else recipe.finetuning.peft,
        "base_bits": recipe.finetuning.bits if recipe.finetuning.qlora else None,
        "base_model": {
            "name": name,
            "parameters": prepared.model.num_parameters(),
            "commit": getattr(prepared.model.config, "_commit_hash", None),
            "weights_sha256": weights_sha256(Path(modeling.resolve_model(name))),
        },
        "prompt_style": prepared.prompt_style,
        "data": prepared.data.manifest(),
        "hardware": asdict(prepared.plan.hardware),
        "plan": {"device": prepared.plan.device, "dtype": prepared.plan.dtype, "threads": prepared.plan.threads},
        "seed": recipe.training.get("seed", 42),
        "notices": prepared.notices,
    }


def _write_results(
    folder: RunFolder, before: Evaluation | None, after: Evaluation | None, more: dict[str, Any], prepared: Prepared
) -> None:
    from neuralbot.evaluation.results import results_dict, sample_rows

    folder.write_results(results_dict(prepared.recipe.finetuning.task, before, after) | more)
    if before or after:
        folder.write_samples(sample_rows(before, after))


def _harness(before: HarnessResult | None, after: HarnessResult | None) -> dict[str, Any]:
    """What results.json says of lm-evaluation-harness; nothing where it was not asked."""
    if after is None:
        return {}
    return {"lm_eval": {"before": before and before.scores, "after": after.scores, "versions": after.versions}}


def _finish(folder: RunFolder, watch: Stopwatch, console: Console) -> None:
    """Mark the run as finished, then tell of it: what goes wrong there is said, and the run has ended well."""
    from neuralbot.report.files import write_all

    folder.update_manifest(peak_memory_bytes=hardware.peak_memory_bytes())
    folder.finish(watch.seconds)
    problems = write_all(folder.path)
    for problem in problems:
        console.print(f"note: {problem}", highlight=False, markup=False)
    watch.lap("report")
    with contextlib.suppress(RunFolderError):  # a full disk: it was said
        for problem in problems:
            folder.add_notice(problem)
        folder.update_manifest(durations_s=watch.seconds)


def _metrics(trainer: Trainer, losses: dict[str, float], eval_ppl: bool) -> dict[str, float]:
    """The losses, the perplexities of the held-out ones where `eval_ppl` asks for them, steps and tokens."""
    from neuralbot.training.trainer import perplexity

    found = dict(losses)
    if eval_ppl and "eval_loss" in losses:
        found |= {
            "perplexity_before": perplexity(losses["eval_loss_before"]),
            "perplexity": perplexity(losses["eval_loss"]),
        }
    return found | {
        "steps": trainer.state.global_step,
        "tokens": trainer.tokens,
        "target_tokens": trainer.target_tokens,
        "computed_tokens": trainer.computed_tokens,
    }


def _summary(result: FinetuneResult, shown: int, console: Console) -> None:
    """What a person wants to know at the end: scores, a few held-out answers, and what to type next."""
    from rich.markup import escape

    from neuralbot.evaluation.questions import spread
    from neuralbot.report.page import PAGE

    total = sum(result.seconds.values())
    console.print(f"\n[bold]{result.run_dir}[/bold] is ready after {total:.0f} s", highlight=False)
    if "eval_loss" in result.metrics:
        console.print(f"held-out loss {_before_and_after(result.metrics, 'eval_loss')}", highlight=False)
    if "perplexity" in result.metrics:
        console.print(f"perplexity {_before_and_after(result.metrics, 'perplexity')}", highlight=False)
    for when, evaluation in (("before", result.before), ("after", result.after)):
        if evaluation:
            console.print(f"{when:>6}: {evaluation.describe()}", highlight=False)
    for sample in spread(result.after.samples if result.after else (), shown):
        console.print(f"\n[bold]question[/bold]  {escape(sample.prompt)}", highlight=False)
        console.print(f"[bold]answer[/bold]    {escape(sample.answer)}", highlight=False)
    page = result.run_dir / PAGE
    if page.exists():
        console.print(f"\nthe run's report: [bold]{escape(str(page))}[/bold]", highlight=False, soft_wrap=True)
    console.print(f"chat with it: [bold]{_chat_command(result.run_dir)}[/bold]", highlight=False, soft_wrap=True)


def _before_and_after(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[f'{name}_before']:.3f} -> {metrics[name]:.3f}"


def _chat_command(run_dir: Path) -> str:
    """What to type next, in a form that works in the shell this run was started from."""
    here = shutil.which("neuralbot")
    if here and Path(here).parent == Path(sys.executable).parent:
        return f"neuralbot chat {shlex.quote(str(run_dir))}"
    python = os.path.relpath(sys.executable)
    python = sys.executable if python.startswith("..") else python
    return f"{shlex.quote(python)} -m neuralbot chat {shlex.quote(str(run_dir))}"


if __name__ == "__main__":
    sys.exit(main())
