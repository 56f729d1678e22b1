"""`neuralbot test RECIPE`: 8 of its rows are learnt by heart, saved, read back, asked for, and compared.

Preparing, training and saving are those of `finetune`, the chatbot is that of `neuralbot chat`. All files go to a
temporary folder that is removed in the end, however it ends; what stays is the cache of the tokenised rows, which the
run itself uses. Does not: try what depends on all rows, such as whether the answers become good.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neuralbot import recipe as recipes
from neuralbot.errors import ResourceError, TrialFailed

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import TrainingArguments

    from neuralbot.conversation import Conversation
    from neuralbot.finetune import Prepared
    from neuralbot.recipe import Recipe
    from neuralbot.trial.checks import Checks
    from neuralbot.trial.estimate import Measured
    from neuralbot.trial.rows import TrialRow


def main(argv: Sequence[str]) -> int:
    """Run the trial and return the exit status. Raises NeuralbotError: TrialFailed if a check fails."""
    options = _parser().parse_intermixed_args(argv)
    recipe = recipes.load(options.recipe, options.overrides, output_dir=options.output_dir)
    from rich.console import Console

    from neuralbot import modeling

    modeling.hide_loading_bars()
    with _ended_as_by_ctrl_c():
        trial(recipe, Console(soft_wrap=True))
    return 0


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Other ways to end a program remove the temporary folder, too."""
    before = {ending: signal.signal(ending, signal.default_int_handler) for ending in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot test",
        description="Try a recipe before a long run: 8 rows are learnt by heart, saved, read back, asked for.",
        epilog="Exit status: 0 all checks hold, 6 one failed; else as of finetune. Nothing is left behind.",
    )
    parser.add_argument("recipe", help="path of a recipe, or the name of a shipped one (`neuralbot recipes list`)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    parser.add_argument("--output-dir", metavar="DIR", help="run folder, instead of training.output_dir; not written")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def trial(recipe: Recipe, console: Console) -> None:
    """Run all checks, print them, and then an estimate of the whole run.

    Raises TrialFailed if a check fails, and what `finetune.run` raises where it could not even begin.
    """
    from neuralbot import finetune, hardware
    from neuralbot.evaluation.metrics import BY_LIKELIHOOD
    from neuralbot.evaluation.questions import resolve_metric
    from neuralbot.trial import estimate, rows
    from neuralbot.trial.checks import Checks

    checks, start = Checks(console), time.monotonic()
    taken: list[TrialRow] = []
    checks.run("folder", partial(_free, recipe))
    prepared = finetune.prepare(recipe, console, lambda *made: taken.extend(rows.choose(*made)))
    prepare_s = time.monotonic() - start
    checks.run("base", partial(_base, prepared, taken))
    settings, test = recipe.evaluation, prepared.data.splits.test
    metric = resolve_metric(settings.metric, recipe.finetuning.task, test)
    if metric == "unit_tests" and test:
        checks.run("sandbox", partial(_sandbox, recipe, test))
    arguments = finetune.training_arguments(prepared)  # now: making them unmakes the state that a trainer works in
    with tempfile.TemporaryDirectory(prefix="neuralbot-test-") as place:
        _require_room(prepared, Path(place))
        measured = _learn_and_serve(prepared, taken, Path(place) / "run", arguments, checks, console)
    answered = None if metric in (*BY_LIKELIHOOD, "none") else settings
    whole = estimate.whole_run(arguments, prepared.data, answered, measured, prepare_s)
    checks.run("disk", partial(_disk, recipe, whole.disk_bytes))
    console.out("\nthe whole run, estimated by the speed of these steps:", highlight=False)
    for line in whole.describe():
        console.out(f"  {line}", highlight=False)
    if (busy := hardware.busy_processors()) > prepared.plan.hardware.usable_cpus + 1:
        there = prepared.plan.hardware.usable_cpus
        console.out(f"  other work keeps this machine busy (load {busy:.1f}, {there} to run on): without it, less")
    checks.finish()


def _learn_and_serve(
    prepared: Prepared,
    taken: Sequence[TrialRow],
    place: Path,
    whole: TrainingArguments,
    checks: Checks,
    console: Console,
) -> Measured:
    """Train and save, then read back and ask; what was measured meanwhile. Raises TrainingDiverged."""
    import torch

    from neuralbot import finetune, hardware
    from neuralbot.engines.torch_engine import TorchEngine
    from neuralbot.training import run_folder
    from neuralbot.trial import learning, serving
    from neuralbot.trial.estimate import Measured

    small = learning.small_run(prepared, taken, place, whole)
    text, settings = recipes.dump(small.recipe), asdict(small.recipe.serving)
    with run_folder.create(place, recipe_text=text, manifest={}, serving=settings) as folder:
        trainer, losses = finetune.train(small, folder, console, [learning.Enough()])
    checks.run("training", partial(learning.fallen, losses, trainer))
    model, plan = trainer.accelerator.unwrap_model(trainer.model), prepared.plan
    with torch.autocast(plan.device, plan.torch_dtype(), enabled=plan.dtype == "bfloat16"):  # as it was trained
        trained = serving.ask(TorchEngine(model, prepared.tokenizer), taken)
    evaluation_s = max(trainer.state.log_history[-1].get("eval_runtime", 0.0), 1e-3)
    training = learning.speed(prepared.data.train.rows, trainer, whole)
    checks.run("memory", partial(_memory, prepared, training))
    trainer.release()
    back = checks.run(
        "reload",
        partial(serving.ReadBack, place, prepared, taken),
        lambda back: back.losses(trained),
    )
    if back:
        checks.run("answers", partial(back.answers, trained))
        checks.run("prompts", back.prompts)
        checks.run("request", back.request)
    return Measured(
        training=training,
        evaluation=small.data.train.rows.tokens / evaluation_s,
        answering=(back.said if back else trained).tokens_per_s,
        memory_bytes=hardware.peak_memory_bytes() or 0,
        saved_bytes=sum(file.stat().st_size for file in place.rglob("*") if file.is_file()),
    )


def _free(recipe: Recipe) -> str:
    from neuralbot.training import run_folder

    place = Path(recipe.training["output_dir"])
    run_folder.check(place, overwrite=recipe.overwrite_output_dir)
    return f"{place} can be written"


def _base(prepared: Prepared, taken: Sequence[TrialRow]) -> str:
    lengths = sorted(len(one.row["input_ids"]) for one in taken)
    return (
        f"{prepared.model.config.model_type}; {len(taken)} rows of {lengths[0]} to {lengths[-1]} tokens are to be "
        f"learnt by heart (the longest of all has {prepared.data.train.rows.longest})"
    )


def _sandbox(recipe: Recipe, test: Sequence[Conversation]) -> str:
    """Run the expected answer of a test row, which has to pass, and no answer, which must not."""
    from neuralbot.evaluation import unit_tests

    settings = recipe.evaluation
    row = next(row for row in test if row.tests)
    gold, tests = row.turns[-1].content, row.tests or ""
    right, wrong = (unit_tests.run(answer, tests, settings.timeout_s, settings.sandbox) for answer in (gold, ""))
    if right.status != "passed":
        raise TrialFailed(
            f"the expected answer of {row.where or 'a test row'} does not pass its own tests ({right.status}: "
            f"{right.message}): correct the row, or raise evaluation.timeout_s"
        )
    if wrong.status == "passed":
        raise TrialFailed(f"the tests of {row.where or 'a test row'} pass without an answer: correct the row")
    return "the expected answer of a test row passes its tests, none does not"


def _memory(prepared: Prepared, speed: float) -> str:
    from neuralbot import hardware

    peak, there = (hardware.peak_memory_bytes() or 0) / 2**30, prepared.plan.hardware.memory_bytes / 2**30
    return f"a step of the longest rows fits: {peak:.1f} of {there:.1f} GiB at the most; {speed:,.0f} tokens/s"


def _require_room(prepared: Prepared, place: Path) -> None:
    """Raises ResourceError where the temporary folder has no room for all weights, if all are trained."""
    need = 4 * prepared.model.num_parameters() if prepared.recipe.finetuning.full_finetune else 0
    free = shutil.disk_usage(place).free
    if need > free:
        raise ResourceError(
            f"{place.parent} has {free / 2**30:.1f} GiB free, and all weights take {need / 2**30:.1f} GiB: set TMPDIR "
            "to a folder with more room"
        )


def _disk(recipe: Recipe, need: int) -> str:
    place = Path(recipe.training["output_dir"]).absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise TrialFailed(
            f"the run will take about {need / 2**20:,.0f} MiB, and {there} has {free / 2**20:,.0f} MiB free: make "
            "room, choose another --output-dir, or keep fewer checkpoints (training.save_total_limit)"
        )
    return f"about {need / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free"
