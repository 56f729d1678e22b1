"""The main job from recipe to run folder, on a random model of a few thousand weights: wiring, not learning."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot, finetune, recipe, watch
from neuralbot.modeling import load_for_chat
from neuralbot.report import files as report

DATA = Path(__file__).parents[1] / "data"


def write_recipe(folder: Path, base: Path, **sections: dict[str, Any]) -> Path:
    """A small recipe as JSON, which is YAML too."""
    whole: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": str(base)},
        "data": {
            "train_file": str(DATA / "alpaca/train.json"), "validation_file": str(DATA / "alpaca/validation.json"),
            "test_file": str(DATA / "alpaca/test.json"), "max_train_samples": 64, "max_eval_samples": 16,
        },
        "finetuning": {"lora_all_linear": True},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 30, "per_device_train_batch_size": 8, "logging_steps": 5,
            "learning_rate": 0.02, "eval_strategy": "steps", "eval_steps": 15,
        },
        "evaluation": {"max_samples": 6, "max_new_tokens": 4},
    }  # fmt: skip
    for section, keys in sections.items():
        whole[section] = whole.get(section, {}) | keys
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lora_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.FinetuneResult:
    folder = tmp_path_factory.mktemp("lora")
    return finetune.run(recipe.load(write_recipe(folder, base)))


def test_run_folder_is_complete(lora_run: finetune.FinetuneResult) -> None:
    names = {path.name for path in lora_run.run_dir.iterdir()}
    expected = {
        "recipe.yaml", "manifest.json", "metrics.jsonl", "results.json", "samples.jsonl", "serving.json", "loss.png",
        "README.md", "report.html", "report.md",
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip
    assert expected <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_held_out_loss_falls_and_is_recorded(lora_run: finetune.FinetuneResult) -> None:
    assert lora_run.metrics["eval_loss"] < lora_run.metrics["eval_loss_before"]
    lines = (lora_run.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    held_out = [record["eval_loss"] for record in records if "eval_loss" in record]
    assert held_out[0] == lora_run.metrics["eval_loss_before"]
    assert held_out[-1] == lora_run.metrics["eval_loss"]
    assert len([record for record in records if "loss" in record]) == 6
    assert [record["tokens"] for record in records] == sorted(record["tokens"] for record in records)
    assert (records[0]["tokens"], records[-1]["tokens"]) == (0, lora_run.metrics["tokens"])
    assert all(0.1 < record["memory_gb"] < 100 for record in records)


def test_the_run_can_be_watched(lora_run: finetune.FinetuneResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch.main([str(lora_run.run_dir)]) == 0
    assert "finished: step 30 of 30, loss " in capsys.readouterr().out
    assert (manifest_of(lora_run)["steps"], manifest_of(lora_run)["logging_steps"]) == (30, 5)
    assert manifest_of(lora_run)["stage"] == "evaluating after tuning"


def test_manifest_says_what_was_trained_on_what(lora_run: finetune.FinetuneResult, base: Path) -> None:
    manifest = json.loads((lora_run.run_dir / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["finished"] is True
    assert manifest["base_model"]["name"] == str(base)
    assert manifest["data"]["rows"] == {"train": 64, "validation": 16, "test": 480}
    assert manifest["data"]["tokens"]["targets"] < manifest["data"]["tokens"]["train"]
    assert set(manifest["versions"]) >= {"torch", "transformers", "peft"}
    assert manifest["hardware"]["physical_cores"] >= 1


def test_the_run_folder_holds_its_report_and_what_it_is_made_of(lora_run: finetune.FinetuneResult) -> None:
    manifest, page = manifest_of(lora_run), lora_run.run_dir / "report.html"
    assert sum(manifest["data"]["lengths"]["counts"]) == 64
    assert manifest["peak_memory_bytes"] > 2**27
    assert {"joules"} <= set(manifest["energy"]) and "report" in manifest["durations_s"]
    first = [page.read_bytes(), page.with_suffix(".md").read_bytes()]
    assert str(lora_run.run_dir.parent).encode() not in b"".join(first)
    report.write(lora_run.run_dir)
    assert [page.read_bytes(), page.with_suffix(".md").read_bytes()] == first


def test_plain_peft_loads_the_adapter(lora_run: finetune.FinetuneResult, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora_run.run_dir
    ).eval()
    served = load_for_chat(str(lora_run.run_dir), torch.float32).model
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        untuned = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(ids).logits
        torch.testing.assert_close(served(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-4)
        assert (served(ids).logits - untuned).abs().max() > 0.05


def manifest_of(result: finetune.FinetuneResult) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def test_nothing_is_padded(lora_run: finetune.FinetuneResult) -> None:
    assert manifest_of(lora_run)["kernels"] == "fast"
    assert lora_run.metrics["target_tokens"] < lora_run.metrics["computed_tokens"] <= lora_run.metrics["tokens"]


def test_the_plain_way_gives_the_same_losses(lora_run: finetune.FinetuneResult, base: Path, tmp_path: Path) -> None:
    settings = {"lora_all_linear": True, "lora_dropout": 0.0}
    losses = {}
    for kernels in ("fast", "reference"):
        (tmp_path / kernels).mkdir()
        path = write_recipe(tmp_path / kernels, base, finetuning=settings | {"kernels": kernels})
        result = finetune.run(recipe.load(path))
        assert manifest_of(result)["kernels"] == kernels
        losses[kernels] = result.metrics["eval_loss"]
    assert losses["fast"] == pytest.approx(losses["reference"], rel=5e-3)


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.02), (4, 0.05)])
def test_an_adapter_trained_on_a_quantised_base_serves_on_the_whole_one(
    lora_run: finetune.FinetuneResult, base: Path, tmp_path: Path, bits: int, bound: float
) -> None:
    path = write_recipe(tmp_path, base, finetuning={"lora_all_linear": True, "qlora": True, "bits": bits})
    result = finetune.run(recipe.load(path))
    assert manifest_of(result)["base_bits"] == bits
    assert result.metrics["eval_loss"] == pytest.approx(lora_run.metrics["eval_loss"], rel=bound)
    assert result.after is not None
    served = load_for_chat(str(result.run_dir), torch.float32).model
    assert {parameter.dtype for parameter in served.parameters()} == {torch.float32}


def test_what_the_fast_kernels_cannot_train_goes_the_plain_way_and_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, base, finetuning={"full_finetune": True, "lora_all_linear": False})
    result = finetune.run(recipe.load(path))
    assert manifest_of(result)["kernels"] == "reference"
    assert "trains LoRA adapters" in manifest_of(result)["kernels_reason"]
    assert "the fast kernels are not used: it trains LoRA adapters" in capsys.readouterr().out


def test_the_saved_recipe_repeats_the_run(lora_run: finetune.FinetuneResult, tmp_path: Path) -> None:
    again = recipe.load(lora_run.run_dir / "recipe.yaml", output_dir=str(tmp_path / "again"))
    repeated = finetune.run(again)
    assert repeated.metrics["eval_loss"] == lora_run.metrics["eval_loss"]


def test_the_run_answers(lora_run: finetune.FinetuneResult) -> None:
    chatbot = build_chatbot(
        PipelineConfig(model_name_or_path=str(lora_run.run_dir), optimization_config=MixedPrecisionConfig())
    )
    assert isinstance(chatbot.predict(query="Find the odd one out.\n\ncat, dog, hat, pig"), str)


def test_full_finetuning_keeps_the_best_weights(base: Path, tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path, base,
        finetuning={"full_finetune": True, "lora_all_linear": False},
        training={"save_strategy": "steps", "save_steps": 15, "load_best_model_at_end": True, "save_total_limit": 1},
        evaluation={"metric": "none"},
    )  # fmt: skip
    result = finetune.run(recipe.load(path))
    assert (result.run_dir / "model.safetensors").is_file()
    assert not (result.run_dir / "adapter_config.json").exists()
    assert result.metrics["eval_loss"] < result.metrics["eval_loss_before"]
    assert result.after is None
    assert load_for_chat(str(result.run_dir), torch.float32).model.num_parameters() > 0


def test_a_worse_end_is_undone_by_keeping_the_best(base: Path, tmp_path: Path) -> None:
    """Steps far too large after the first evaluations: the loss kept must be the best one logged."""
    path = write_recipe(
        tmp_path, base,
        training={
            "learning_rate": 0.2, "lr_scheduler_type": "constant", "max_steps": 24, "eval_steps": 4,
            "save_strategy": "steps", "save_steps": 4, "load_best_model_at_end": True, "save_total_limit": 1,
        },
        evaluation={"metric": "none"},
    )  # fmt: skip
    result = finetune.run(recipe.load(path))
    lines = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    during = [json.loads(line)["eval_loss"] for line in lines if "eval_loss" in line][1:-1]
    assert max(during) > min(during) + 0.01
    assert result.metrics["eval_loss"] == pytest.approx(min(during), abs=1e-3)


@pytest.mark.parametrize("tuning", [{}, {"qlora": True, "bits": 8}, {"full_finetune": True, "lora_all_linear": False}])
def test_a_config_from_elsewhere_is_trained_and_served_with(base: Path, tmp_path: Path, tuning: dict[str, Any]) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {"max_position_embeddings": 300, "rms_norm_eps": 0.5}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = write_recipe(
        tmp_path, base, model={"config_name": str(tmp_path / "other")}, finetuning=tuning, evaluation={"metric": "none"}
    )
    served = load_for_chat(str(finetune.run(recipe.load(path)).run_dir), torch.float32).model
    assert served.config.max_position_embeddings == 300
    assert served.config.rms_norm_eps == 0.5


@pytest.mark.parametrize("wanted", [True, False])
def test_perplexities_stand_beside_held_out_losses(
    base: Path, tmp_path: Path, wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(
        tmp_path, base, finetuning={"eval_ppl": wanted}, training={"max_steps": 2}, evaluation={"metric": "none"}
    )
    result = finetune.run(recipe.load(path))
    lines = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    held_out = [record for line in lines if "eval_loss" in (record := json.loads(line))]
    assert ("perplexity 6" in capsys.readouterr().out) == wanted
    if wanted:
        assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["eval_loss"]))
        assert result.metrics["perplexity_before"] == pytest.approx(math.exp(result.metrics["eval_loss_before"]))
        assert [record["eval_ppl"] for record in held_out] == [math.exp(record["eval_loss"]) for record in held_out]
    else:
        assert not {"perplexity", "perplexity_before"} & result.metrics.keys()
        assert not any("eval_ppl" in record for record in held_out)


def test_early_stopping_ends_the_run(base: Path, tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path, base,
        training={
            "learning_rate": 0.3, "lr_scheduler_type": "constant", "max_steps": 200, "eval_steps": 2,
            "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1,
            "early_stopping_patience": 2,
        },
        evaluation={"metric": "none"},
    )  # fmt: skip
    assert finetune.run(recipe.load(path)).metrics["steps"] < 200


def command(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neuralbot.finetune", *arguments], cwd=cwd, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(DATA.parent)} | environment, timeout=200,
    )  # fmt: skip


def test_the_command_ends_with_answers_and_the_next_command(base: Path, tmp_path: Path) -> None:
    done = command([str(write_recipe(tmp_path, base)), "training.max_steps=2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("question") >= 3
    assert "left" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.endswith(f"chat {tmp_path / 'run'}")
    told = last.partition(": ")[2].split()
    answered = subprocess.run(
        told, cwd=tmp_path, input="hello\n/quit\n", capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(DATA.parent)},
    )  # fmt: skip
    assert answered.returncode == 0, answered.stderr


def test_dry_run_prints_recipe_and_plan_and_writes_nothing(base: Path, tmp_path: Path) -> None:
    done = command([str(write_recipe(tmp_path, base)), "training.learning_rate=1e-5", "--dry-run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "learning_rate: 1.0e-05" in done.stdout
    assert "# plan:" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "status"),
    [('[{"instruction": "a", "output": ""}]', 3), ('[{"question": 1}', 3), ("[]", 3)],
)
def test_bad_rows_leave_nothing_behind(base: Path, tmp_path: Path, rows: str, status: int) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(rows, encoding="utf-8")
    done = command([str(write_recipe(tmp_path, base)), f"data.train_file={bad}"], tmp_path)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "bad.json" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over_unless_asked(base: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, base, training={"max_steps": 1, "eval_strategy": "no"}, evaluation={"metric": "none"})
    finetune.run(recipe.load(path))
    done = command([str(path)], tmp_path)
    assert done.returncode == 4
    assert "overwrite_output_dir" in done.stderr
    finetune.run(recipe.load(path, ["training.overwrite_output_dir=true"]))
    assert (tmp_path / "run.old-1" / "manifest.json").is_file()


def test_ctrl_c_during_training_leaves_a_folder_that_says_so(base: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, base, training={"max_steps": 100_000, "eval_strategy": "no"})
    process = subprocess.Popen(
        [sys.executable, "-m", "neuralbot.finetune", str(path)], cwd=DATA.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line.startswith("training: ") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["finished"] is False
