"""The model card says what the run's files say, in a form that Markdown and YAML readers understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuralbot.errors import RunFolderError
from neuralbot.report.model_card import model_card, write_model_card
from neuralbot.training import run_folder

MANIFEST: dict[str, Any] = {
    "name": "alpaca",
    "task": "completion",
    "method": "lora",
    "base_model": {"name": "seedling", "license": "apache-2.0", "parameters": 2_100_000,
                   "weights_sha256": {"model.safetensors": "ab" * 32}},
    "trainable_parameters": 123_456,
    "prompt_style": "alpaca",
    "data": {"fingerprint": {"data/alpaca/train.json": "cd" * 32}, "rows": {"train": 17_000, "test": 300},
             "tokens": {"train": 400_000, "targets": 90_000}},
    "hardware": {"cpu": "AMD EPYC", "isa": "avx512_bf16", "usable_cpus": 2, "memory_bytes": 16 * 2**30},
    "plan": {"dtype": "bfloat16", "threads": 2, "device": "cpu"},
    "seed": 42,
    "notices": ["overwrite_cache is not needed | and was ignored", "<b>x</b>"],
}  # fmt: skip
RESULTS = {
    "task": "completion", "metric": "exact_match", "main_score": "exact_match",
    "before": {"scores": {"exact_match": 0.01}, "interval": [0.0, 0.023], "n": 300, "seconds": 9.0, "notices": []},
    "after": {"scores": {"exact_match": 0.871}, "interval": [0.832, 0.905], "n": 300, "seconds": 9.0,
              "notices": ["1 question could not be answered"]},
}  # fmt: skip


def a_sample(number: int) -> dict[str, Any]:
    return {
        "prompt": f"Question {number}?\n```python\n| a | b |",
        "expected": f"expected {number}",
        "before": {"answer": "", "correct": 0.0, "detail": ""},
        "after": {"answer": f"answer {number} ````", "correct": 1.0, "detail": ""},
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "alpaca"
    with run_folder.create(path, recipe_text="training:\n  learning_rate: 0.002\n", manifest=MANIFEST) as folder:
        for step in (1, 2):
            folder.log({"step": step, "loss": 3.0 / step})
        folder.log({"step": 2, "eval_loss": 0.25})
        folder.write_results(RESULTS)
        folder.write_samples([a_sample(number) for number in range(30)])
        folder.finish({"prepare": 4.2, "train": 100.0})
    (path / "adapter_config.json").write_text("{}")
    (path / "loss.png").write_bytes(b"")
    return path


def front_matter(card: str) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return facts


def test_the_front_matter_is_what_the_hub_reads(run_dir: Path) -> None:
    path = write_model_card(run_dir)
    assert path == run_dir / "README.md"
    card = path.read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert front_matter(card) == {
        "library_name": "peft",
        "base_model": "seedling",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["neuralbot", "text-generation", "lora", "completion"],
    }


def test_the_front_matter_loads_with_the_hub_s_own_reader(run_dir: Path) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard.load(write_model_card(run_dir)).data
    assert data.library_name == "peft"
    assert data.base_model == "seedling"


def test_the_card_holds_the_facts_of_the_files(run_dir: Path) -> None:
    card = model_card(run_dir)
    for fact in (
        "| exact_match | 0.010 (0.000 to 0.023) | 0.871 (0.832 to 0.905) |",
        "300 questions",
        "- 1 question could not be answered",
        "| rows | train 17,000, test 300 |",
        "| training tokens | train 400,000, targets 90,000 |",
        "| trainable parameters | 123,456 |",
        "| final losses | training 1.500, held out 0.250 |",
        "| time | prepare 4 s, train 100 s |",
        "| machine | AMD EPYC, avx512_bf16, 2 CPUs, 16 GiB |",
        "| computed in | dtype bfloat16, threads 2, device cpu |",
        "| data/alpaca/train.json | `cdcdcdcdcdcdcdcd` |",
        "| SHA-256 of base model.safetensors | `" + "ab" * 32,
        "![Loss over the steps](loss.png)",
        f"neuralbot chat {run_dir.as_posix()}",
        f"AutoPeftModelForCausalLM.from_pretrained({json.dumps(str(run_dir))})",
        "learning_rate: 0.002",
        "`seedling` is a small demonstration model",
        "- &lt;b&gt;x&lt;/b&gt;",
        "torch ",
    ):
        assert fact in card, fact


def test_samples_are_spread_and_cannot_leave_their_block(run_dir: Path) -> None:
    card = model_card(run_dir)
    assert [number for number in range(30) if f"Question {number}?" in card] == [0, 10, 20]
    assert "Answer before tuning (scored 0.00)" in card
    assert "`````text\nanswer 10 ````\n`````" in card
    assert "````text\nQuestion 10?\n```python\n| a | b |\n````" in card


def test_a_run_without_scores_and_plot_has_a_card_too(tmp_path: Path) -> None:
    with run_folder.create(tmp_path, recipe_text="", manifest={"base_model": {"name": "/home/me/models/llama: 7b"}}):
        pass
    card = model_card(tmp_path)
    assert front_matter(card)["base_model"] == "llama: 7b"
    assert front_matter(card)["library_name"] == "transformers"
    assert "This run did not finish" in card
    assert "Scores" not in card and "loss.png" not in card and "/home/me" not in card
    assert "from transformers import AutoModelForCausalLM" in card


@pytest.mark.parametrize(
    ("name", "shown"),
    [("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"), ("../models/tiny", "tiny"), ("a/b/c", "c")],
)
def test_a_path_is_cut_to_its_name_and_a_hub_name_is_kept(tmp_path: Path, name: str, shown: str) -> None:
    with run_folder.create(tmp_path, recipe_text="", manifest={"base_model": {"name": name}}):
        pass
    assert front_matter(model_card(tmp_path))["base_model"] == shown


def test_the_other_scores_follow_the_main_one_without_an_interval(run_dir: Path) -> None:
    scores = {"rouge1": 0.5, "rouge2": 0.4, "rougeL": 0.45}
    after = {"scores": scores, "interval": [0.4, 0.5], "n": 20, "seconds": 1.0, "notices": []}
    results = {"task": "summarization", "metric": "rouge", "main_score": "rougeL", "before": None, "after": after}
    (run_dir / "results.json").write_text(json.dumps(results))
    card = model_card(run_dir)
    table = [line for line in card.splitlines() if line.startswith("| rouge")]
    assert table == [
        "| rougeL | not measured | 0.450 (0.400 to 0.500) |",
        "| rouge1 | not measured | 0.500 |",
        "| rouge2 | not measured | 0.400 |",
    ]


def test_a_broken_manifest_is_named(run_dir: Path) -> None:
    (run_dir / "manifest.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        write_model_card(run_dir)
