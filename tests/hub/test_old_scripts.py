"""Four published programs for ITREX, word for word, run through compat against a hub on the loopback."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.hub.conftest import ROOT, Command, Ended
from tests.hub.repositories import CODE, LLAMA
from tests.hub.server import Hub

CHATBOT = """\
from intel_extension_for_transformers.neural_chat import build_chatbot, PipelineConfig
from intel_extension_for_transformers.transformers import MixedPrecisionConfig
config = PipelineConfig(optimization_config=MixedPrecisionConfig())
chatbot = build_chatbot(config)
response = chatbot.predict(query="what is intel")
print(response)
"""

FINETUNING = """\
from transformers import TrainingArguments
from intel_extension_for_transformers.neural_chat.config import (
    ModelArguments,
    DataArguments,
    FinetuningArguments,
    TextGenerationFinetuningConfig,
)
from intel_extension_for_transformers.neural_chat.chatbot import finetune_model
model_args = ModelArguments(model_name_or_path="meta-llama/Llama-2-7b-chat-hf")
data_args = DataArguments({data})
training_args = TrainingArguments(
    output_dir='./tmp',
    do_train=True,
    do_eval=True,
    num_train_epochs=3,
    overwrite_output_dir=True,
    per_device_train_batch_size=4,
    per_device_eval_batch_size=4,
    gradient_accumulation_steps=2,
    save_strategy="no",
    log_level="info",
    save_total_limit=2,
    bf16=True{comma}
)
finetune_args = FinetuningArguments({tuning})
finetune_cfg = TextGenerationFinetuningConfig(
            model_args=model_args,
            data_args=data_args,
            training_args=training_args,
            finetune_args=finetune_args,
        )
finetune_model(finetune_cfg)
"""

PROGRAMS = {
    "alpaca": FINETUNING.format(
        data='train_file="alpaca_data.json", validation_split_percentage=1', tuning="", comma=","
    ),
    "summarization": FINETUNING.format(
        data='dataset_name="cnn_dailymail", dataset_config_name="3.0.0"', tuning="task='summarization'", comma=""
    ),
    "code": FINETUNING.format(
        data='dataset_name="theblackcat102/evol-codealpaca-v1"', tuning="task='code-generation'", comma=""
    ),
}  # fmt: skip


def run(command: Command, folder: Path, program: str, module: str = "neuralbot.compat") -> Ended:
    rows = json.loads((ROOT / "data" / "alpaca" / "train.json").read_text(encoding="utf-8"))[:32]
    (folder / "alpaca_data.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "program.py").write_text(program, encoding="utf-8")
    return command(module, "program.py", cwd=folder)


def check_run(ended: Ended, run: Path) -> None:
    assert ended.status == 0, ended.err
    manifest = json.loads((run / "manifest.json").read_text())
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert manifest["finished"] is True and manifest["base_model"]["name"] == LLAMA
    assert metrics["eval_loss"] < metrics["eval_loss_before"]
    assert (run / "adapter_model.safetensors").is_file()
    assert any("TrainingArguments: overwrite_output_dir: " in notice for notice in manifest["notices"])
    assert ended.err.count("TrainingArguments: overwrite_output_dir: ") == 1


def test_the_alpaca_program_runs_word_for_word(command: Command, hub: Hub, tmp_path: Path) -> None:
    check_run(run(command, tmp_path, PROGRAMS["alpaca"]), tmp_path / "tmp")
    assert not hub.asked("/agent-harnesses"), "nothing is told about who runs it, though transformers was first"


@pytest.mark.slow
def test_the_summarization_program_runs_word_for_word_and_is_scored_once(command: Command, tmp_path: Path) -> None:
    check_run(run(command, tmp_path, PROGRAMS["summarization"]), tmp_path / "tmp")
    results = json.loads((tmp_path / "tmp" / "results.json").read_text())
    assert results["main_score"] == "rougeL" and results["before"] is None and results["after"]["n"] == 4


@pytest.mark.slow
def test_the_code_program_runs_word_for_word_and_says_that_rows_are_held_back(command: Command, tmp_path: Path) -> None:
    ended = run(command, tmp_path, PROGRAMS["code"])
    check_run(ended, tmp_path / "tmp")
    notice = f"DataArguments: validation_split_percentage: 0, but {CODE} has no validation rows: 1 % of its training"
    assert notice in " ".join(ended.out.split())


def test_the_chatbot_program_answers_word_for_word(command: Command, tmp_path: Path) -> None:
    ended = run(command, tmp_path, CHATBOT)
    assert ended.status == 0, ended.err
    assert ended.out.strip()


@pytest.mark.slow
def test_a_migrated_program_runs_without_compat(command: Command, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAMS["alpaca"], encoding="utf-8")
    diff = command("neuralbot", "migrate", "program.py", cwd=tmp_path)
    subprocess.run(["patch", "-p0"], input=diff.out, text=True, cwd=tmp_path, check=True)
    migrated = (tmp_path / "program.py").read_text(encoding="utf-8")
    assert "intel_extension_for_transformers" not in migrated
    ended = run(command, tmp_path, migrated, module="program")
    assert ended.status == 0, ended.err
    assert (tmp_path / "tmp" / "adapter_model.safetensors").is_file()
