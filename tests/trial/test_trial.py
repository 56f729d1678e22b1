"""`neuralbot test`: it passes a recipe that is right, says what is wrong with one that is not, and leaves nothing."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from neuralbot import cli, finetune, recipe
from neuralbot.errors import DataError, TrialFailed
from neuralbot.training.trainer import Trainer
from neuralbot.trial import command, learning, serving

DATA = Path(__file__).parents[2] / "data"
ROOT = DATA.parent


@pytest.fixture(scope="module")
def base(tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an output layer large enough for certainty: without it no adapter learns by heart."""
    folder = tmp_path_factory.mktemp("base")
    model = copy.deepcopy(tiny_model)
    model.lm_head.weight.data *= 20
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, to see that nothing stays."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def write_recipe(folder: Path, base: Path, **sections: dict[str, Any]) -> Path:
    whole: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": str(base)},
        "data": {"train_file": str(DATA / "alpaca/train.json"), "max_train_samples": 64},
        "finetuning": {"lora_all_linear": True, "lora_dropout": 0.0, "lora_rank": 32, "lora_alpha": 64},
        "training": {
            "output_dir": str(folder / "run"), "per_device_train_batch_size": 16, "learning_rate": 0.005,
            "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "bf16": False,
        },
        "evaluation": {"metric": "none"},
    }  # fmt: skip
    for section, keys in sections.items():
        whole[section] = whole.get(section, {}) | keys
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def try_out(path: Path) -> tuple[dict[str, tuple[str, str]], str, TrialFailed | None]:
    """name -> (verdict, text) of each check, all that was printed, and what it ended with."""
    console = Console(soft_wrap=True, record=True, width=400)
    failure = None
    try:
        command.trial(recipe.load(path), console)
    except TrialFailed as error:
        failure = error
    text = console.export_text()
    lines = re.findall(r"(?m)^(ok|FAILED) +[\d.]+ s  (\w+) +(.*)$", text)
    return {name: (verdict, said) for verdict, name, said in lines}, text, failure


def test_a_good_recipe_passes_and_nothing_stays(
    base: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURALBOT_ENGINE", "openvino")  # which tells no losses, and would keep an export
    path = write_recipe(tmp_path, base)
    checks, text, failure = try_out(path)
    assert failure is None, text
    assert {verdict for verdict, _ in checks.values()} == {"ok"}
    assert list(checks) == ["folder", "base", "training", "memory", "reload", "answers", "prompts", "request", "disk"]
    assert checks["answers"][1] == "8 of 8 greedy answers the same, token by token"
    assert checks["prompts"][1] == "8 questions are served with the ids that were trained"
    assert "not known by heart" not in checks["request"][1]
    assert "\n  12 steps in about" in text  # 64 rows in batches of 16, three times
    assert not list(temporary.iterdir())
    assert {entry.name for entry in tmp_path.iterdir()} == {"recipe.yaml", "temporary"}


@pytest.mark.parametrize(
    "finetuning",
    [
        {"full_finetune": True, "lora_all_linear": False},
        {"qlora": True, "bits": 4},
        pytest.param({"peft": "prompt"}, marks=pytest.mark.slow),
        pytest.param({"qlora": True, "bits": 8}, marks=pytest.mark.slow),
        pytest.param({"peft": "ptun", "ptun_hidden_size": 32}, marks=pytest.mark.slow),
        pytest.param({"peft": "prefix"}, marks=pytest.mark.slow),
        pytest.param({"peft": "llama_adapter"}, marks=pytest.mark.slow),
        pytest.param({"kernels": "reference"}, marks=pytest.mark.slow),
        pytest.param({"train_on_inputs": True}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_tuning_passes(base: Path, tmp_path: Path, finetuning: dict[str, Any]) -> None:
    rate = 0.3 if "peft" in finetuning else 0.005
    path = write_recipe(tmp_path, base, finetuning=finetuning, training={"learning_rate": rate})
    checks, text, failure = try_out(path)
    assert failure is None, text
    assert checks["training"][0] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpaca", "summarization", "chat", "code"])
def test_shipped_recipes_pass(name: str) -> None:
    checks, text, _ = try_out(ROOT / "recipes" / f"{name}.yaml")
    failed = {check for check, (verdict, _) in checks.items() if verdict != "ok"}
    assert failed <= {"folder"}, text  # someone may have run it here
    assert ("sandbox" in checks) == (name == "code")


def test_streamed_rows_and_plain_text(base: Path, tmp_path: Path) -> None:
    lines = [f"The {place}th line tells of {'pears and ' * (place % 7)}apples." for place in range(40)]
    (tmp_path / "rows.txt").write_text("\n".join(lines), encoding="utf-8")
    path = write_recipe(tmp_path, base, data={"train_file": str(tmp_path / "rows.txt"), "streaming": True})
    checks, text, failure = try_out(path)
    assert failure is None, text
    assert checks["prompts"][1].startswith("not compared")
    assert "for each 1,000 of the streamed rows" in text


# What is wrong is found.


def test_a_loss_that_does_not_fall(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_STEPS", 20)
    checks, _, failure = try_out(write_recipe(tmp_path, base, training={"learning_rate": 1e-12, "max_steps": 5}))
    assert failure is not None
    assert failure.exit_status == 6
    assert "1 of 9 checks failed (training)" in str(failure)
    verdict, said = checks["training"]
    assert verdict == "FAILED"
    assert re.search(r"loss (\d+\.\d+) -> \1 in 20 steps .*\.learning_rate=1e-12 is too small", said)


def damage(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]) -> None:
    """Let every save of the trainer be followed by `harm` to its folder."""
    whole = Trainer._save

    def save(self: Trainer, output_dir: str | None = None, state_dict: Any = None) -> None:
        whole(self, output_dir, state_dict)
        harm(Path(output_dir or self.args.output_dir))

    monkeypatch.setattr(Trainer, "_save", save)


def change_adapter(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

    return harm


def test_a_save_that_loses_a_tensor(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, change_adapter(lambda tensors: tensors.popitem() and None))
    checks, _, failure = try_out(write_recipe(tmp_path, base))
    assert failure is not None
    assert checks["reload"][0] == "FAILED"
    assert "1 tensors differ" in checks["reload"][1]
    assert "request" not in checks


def test_a_save_that_empties_a_tensor(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(tensors: dict[str, torch.Tensor]) -> None:
        tensors[next(name for name in tensors if "lora_B" in name and "v_proj" in name)].zero_()

    damage(monkeypatch, change_adapter(empty))
    checks, _, failure = try_out(write_recipe(tmp_path, base))
    assert failure is not None
    assert checks["reload"][0] == "FAILED"
    assert "what is read back is not what was trained" in checks["reload"][1]


def test_a_template_that_is_served_otherwise(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rewrite(folder: Path) -> None:
        file = folder / "chat_template.jinja"
        file.write_text(file.read_text().replace("|>\n' ", "|> ' "))

    damage(monkeypatch, rewrite)
    checks, text, failure = try_out(write_recipe(tmp_path, base))
    assert failure is not None, text
    assert checks["prompts"][0] == "FAILED"
    assert re.search(r"differs from the trained one at token \d+: trained \".*\", served \"", checks["prompts"][1])


def test_a_system_message_that_rows_have_not(base: Path, tmp_path: Path) -> None:
    checks, _, failure = try_out(write_recipe(tmp_path, base, serving={"system_prompt": "You answer in one word."}))
    assert failure is not None
    assert checks["prompts"][0] == "FAILED"
    assert "at token 1:" in checks["prompts"][1]
    assert "serving.system_prompt" in checks["prompts"][1]


def test_a_folder_that_is_taken_fails_and_the_rest_is_tried(base: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    checks, _, failure = try_out(write_recipe(tmp_path, base))
    assert "1 of 9 checks failed (folder)" in str(failure)
    assert "is not empty" in checks["folder"][1]
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_rows_that_cannot_be_used_end_it_as_they_end_a_run(base: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match=r"bad\.json"):
        try_out(write_recipe(tmp_path, base, data={"train_file": str(tmp_path / "bad.json")}))


@pytest.mark.parametrize(
    ("answer", "tests", "said"),
    [
        ("def one():\n    return 2", "assert one() == 1", "does not pass its own tests"),
        ("def one():\n    return 1", "assert True", "pass without an answer"),
        ("def one():\n    return 1", "assert one() == 1", None),
    ],
)
def test_the_sandbox_is_tried_with_an_expected_answer(
    base: Path, tmp_path: Path, answer: str, tests: str, said: str | None
) -> None:
    row = {"prompt": "one", "completion": answer, "tests": tests}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    loaded = recipe.load(
        write_recipe(
            tmp_path,
            base,
            data={"train_file": str(DATA / "code/train.jsonl"), "test_file": str(tmp_path / "test.jsonl")},
            finetuning={"task": "code-generation"},
            evaluation={"metric": "unit_tests", "sandbox": "filter"},
        )
    )
    prepared = finetune.prepare(loaded, Console(quiet=True))
    if said is None:
        assert "passes its tests" in command._sandbox(loaded, prepared.data.splits.test)
    else:
        with pytest.raises(TrialFailed, match=said):
            command._sandbox(loaded, prepared.data.splits.test)


# It ends early, and as a command.


def test_ctrl_c_leaves_nothing(base: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        assert (next(temporary.iterdir()) / "run" / "adapter_model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "ask", stop)
    with pytest.raises(KeyboardInterrupt):
        try_out(write_recipe(tmp_path, base))
    assert not list(temporary.iterdir())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing(base: Path, tmp_path: Path, temporary: Path, how: signal.Signals) -> None:
    path = write_recipe(tmp_path, base, training={"learning_rate": 1e-9})
    process = subprocess.Popen(
        [sys.executable, "-m", "neuralbot", "test", str(path)], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line.startswith("training ") for line in process.stdout)
    assert [entry.name for entry in temporary.iterdir() if entry.name.startswith("neuralbot-test-")]
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not [entry.name for entry in temporary.iterdir() if entry.name.startswith("neuralbot-test-")]


def test_the_command_ends_with_the_status_of_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise TrialFailed("2 of 9 checks failed (reload, disk)")

    monkeypatch.setattr(command, "trial", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert cli.main(["test", "alpaca", "training.seed=3"]) == 6
    assert capsys.readouterr().err == "error: 2 of 9 checks failed (reload, disk)\n"
