"""The shipped recipes really teach: a shortened run of two of them answers held-out rows that the base cannot.

The full figures are in the README; these runs are a fraction of a recipe's length, so they ask for less.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot, finetune, recipe


@pytest.fixture(scope="module", autouse=True)
def one_thread_stays() -> None:
    """It does not: these runs take all cores."""


def shortened(name: str, folder: Path, *overrides: str) -> finetune.FinetuneResult:
    return finetune.run(recipe.load(name, overrides, output_dir=str(folder / name)))


def test_code_recipe_learns_to_write_functions_that_pass(tmp_path: Path) -> None:
    run = shortened("code", tmp_path, "training.max_steps=60", "evaluation.max_samples=60")
    assert run.before is not None
    assert run.after is not None
    assert run.before.main_score <= 0.05
    assert run.after.main_score >= 0.3
    assert run.metrics["eval_loss"] < run.metrics["eval_loss_before"] / 2


def test_alpaca_recipe_learns_to_answer_what_it_never_saw(tmp_path: Path) -> None:
    run = shortened("alpaca", tmp_path, "training.max_steps=200", "evaluation.max_samples=120")
    assert run.before is not None
    assert run.after is not None
    assert run.before.main_score <= 0.12
    assert run.after.main_score >= 0.3
    chatbot = build_chatbot(
        PipelineConfig(model_name_or_path=str(run.run_dir), optimization_config=MixedPrecisionConfig())
    )
    sample = next(sample for sample in run.after.samples if sample.correct)
    assert chatbot.predict(query=sample.prompt) == sample.expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("alpaca", 0.10, 0.80), ("summarization", 1.0, 0.60), ("code", 0.05, 0.60), ("chat", 1.0, 0.80)],
)
def test_whole_recipe_reaches_its_goal(name: str, before: float, after: float, tmp_path: Path) -> None:
    run = shortened(name, tmp_path)
    assert run.before is not None
    assert run.after is not None
    assert run.after.n >= 200
    assert run.before.main_score <= before
    assert run.after.main_score >= after
    if name == "summarization":
        assert run.after.main_score >= run.before.main_score + 0.25


@pytest.mark.slow
def test_an_int8_base_ends_where_a_bf16_base_ends(tmp_path: Path) -> None:
    bf16 = shortened("alpaca", tmp_path / "bf16", "evaluation.before_tuning=false")
    int8 = shortened(
        "alpaca", tmp_path / "int8", "evaluation.before_tuning=false", "finetuning.qlora=true", "finetuning.bits=8"
    )
    assert bf16.after is not None
    assert int8.after is not None
    # Of the loss before tuning: what is left of it after (0.08) moves by a third from one seed to the next.
    assert int8.metrics["eval_loss"] == pytest.approx(
        bf16.metrics["eval_loss"], abs=0.005 * bf16.metrics["eval_loss_before"]
    )
    assert int8.after.main_score == pytest.approx(bf16.after.main_score, abs=0.02)
