"""lm-evaluation-harness in process, on a task file over local rows; no hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuralbot import cli, recipe
from neuralbot.conversation import Encoded
from neuralbot.errors import DataError, RecipeError, ResourceError, UsageError
from neuralbot.evaluation import lm_harness
from neuralbot.evaluation.likelihood import likelihoods
from neuralbot.training.records import read_json, read_jsonl

COLOURS = [" red", " dark blue", " green and yellow"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Item {number}: its colour is", "label": number % 3} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "colours.yaml"
    path.write_text(
        "task: colours\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ntarget_delimiter: ""\n'
        f"doc_to_choice: {json.dumps(COLOURS)}\n"
        'doc_to_target: "{{label}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return path


def test_its_accuracy_is_that_of_our_own_likelihoods(
    task: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    tasks = lm_harness.find([str(task)])
    assert tasks.names == ("colours",)
    found = lm_harness.run(tiny_model, tiny_tokenizer, tasks, batch_size=4)
    right = []
    for number in range(12):
        prompt = tiny_tokenizer(f"Item {number}: its colour is")["input_ids"]
        rows = []
        for colour in COLOURS:
            answer = tiny_tokenizer(colour)["input_ids"]
            rows.append(Encoded([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)))
        sums = [one.log_probability for one in likelihoods(tiny_model, rows, 3)]
        kept = [one[0] for one in found.samples[number]["filtered_resps"]]
        assert kept == pytest.approx(sums, abs=1e-3)
        right.append(int(torch.tensor(sums).argmax()) == number % 3)
    assert found.scores["colours"]["acc"] == pytest.approx(sum(right) / 12)
    assert found.scores["colours"]["acc_stderr"] > 0
    assert found.describe()[0].startswith(f"colours: acc {sum(right) / 12:.3f} (standard error 0.")


def test_the_command_writes_scores_and_samples(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "seedling", "--lm-eval", str(task), "--max-samples", "5"]) == 0
    assert "colours: acc 0." in capsys.readouterr().out
    results = read_json(Path("evaluations/seedling-lm-eval/results.json"))
    assert 0 <= results["lm_eval"]["colours"]["acc"] <= 1
    samples = read_jsonl(Path("evaluations/seedling-lm-eval/samples.jsonl"))
    assert [row["doc"]["label"] for row in samples] == [0, 1, 2, 0, 1]


@pytest.mark.slow
def test_names_are_those_of_the_harness_old_ones_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lm_harness.find(["truthfulqa_mc", "lambada_openai"])
    assert found.names == ("truthfulqa_mc1", "truthfulqa_mc2", "lambada_openai")
    assert found.notices == ("the task truthfulqa_mc is called truthfulqa_mc1 and truthfulqa_mc2 today: these are run",)
    with pytest.raises(UsageError, match=r"no task 'hellaswagg'; did you mean hellaswag"):
        lm_harness.find(["hellaswagg"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("task: [", "cannot be read"), ("output_type: multiple_choice\n", "has no name"), (None, "cannot be read")],
)
def test_a_task_file_that_cannot_be_used_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "task.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        lm_harness.find([str(path)])


def test_rows_that_are_missing_are_told(
    task: Path, tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    (task.parent / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="the rows of colours cannot be had: "):
        lm_harness.run(tiny_model, tiny_tokenizer, lm_harness.find([str(task)]), batch_size=4)


def test_a_recipe_runs_it_before_and_after(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from neuralbot import finetune

    rows = [{"instruction": f"say {number}", "output": f"{number}"} for number in range(8)]
    Path("train.json").write_text(json.dumps(rows))
    text = (
        "model: {model_name_or_path: seedling}\ndata: {train_file: train.json}\n"
        f"finetuning: {{task: completion, do_lm_eval: true, lm_eval_tasks: [{task}]}}\n"
        "training: {max_steps: 1, output_dir: run}\n"
    )
    Path("recipe.yaml").write_text(text)
    finetune.run(recipe.load("recipe.yaml"))
    said = capsys.readouterr().out
    assert "before tuning: colours: acc" in said and "after tuning: colours: acc" in said
    found = read_json(Path("run/results.json"))["lm_eval"]
    assert found["before"]["colours"].keys() == found["after"]["colours"].keys() >= {"acc", "acc_stderr"}


def test_without_the_harness_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find_spec(name))
    with pytest.raises(ResourceError, match=r"not installed: pip install 'neuralbot\[eval\]'"):
        lm_harness.find(["hellaswag"])
    with pytest.raises(RecipeError, match=r"do_lm_eval: needs lm-evaluation-harness: pip install 'neuralbot\[eval\]'"):
        recipe.load("alpaca", ["finetuning.do_lm_eval=true", f"training.output_dir={tmp_path / 'run'}"])
    with pytest.raises(RecipeError, match="is empty, but do_lm_eval is true"):
        recipe.load("alpaca", ["finetuning.do_lm_eval=true", "finetuning.lm_eval_tasks=[]"])
