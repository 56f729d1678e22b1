"""The genuine package as an engine: what it is given, what is told of its failures; itself, where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from neuralbot import cli, recipe
from neuralbot.conversation import Conversation, Turn
from neuralbot.data import splits
from neuralbot.errors import DataError, ModelError, ResourceError, UsageError
from neuralbot.itrex import checkpoint, engine, environment, job, process, rows

ROWS = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(20)]
installed = pytest.mark.skipif(not environment.is_ready(), reason="`neuralbot itrex setup` was not run here")


@pytest.fixture
def llama(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    folder = tmp_path / "base"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def write_recipe(folder: Path, model: Path, **training: Any) -> Path:
    for name, kept in (("rows", ROWS[:16]), ("test", ROWS[16:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    whole = {
        "model": {"model_name_or_path": str(model)},
        "data": {"train_file": str(folder / "rows.jsonl"), "test_file": str(folder / "test.jsonl"),
                 "validation_split_percentage": 20, "max_seq_length": 64},
        "finetuning": {"task": "completion"},
        "training": {"output_dir": str(folder / "run"), "max_steps": 2, "logging_steps": 1, "do_eval": True} | training,
        "evaluation": {"metric": "none", "show_samples": 1},
        "serving": {"max_new_tokens": 4, "do_sample": False},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole))
    return path


def test_a_checkpoint_of_today_in_the_form_of_2024(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    made = checkpoint.prepare(llama, tmp_path)
    assert made.name == "llama-base"
    old = json.loads((made / "config.json").read_text())
    assert old["rope_theta"] == config["rope_parameters"]["rope_theta"] and "rope_parameters" not in old
    assert old["torch_dtype"] == config["dtype"] and "dtype" not in old
    tokenizer = json.loads((made / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    merges = json.loads((made / "tokenizer.json").read_text())["model"]["merges"]
    assert merges and all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
    assert (made / "model.safetensors").resolve() == (llama / "model.safetensors").resolve()
    assert json.loads((llama / "config.json").read_text()) == config


def test_a_tied_embedding_gets_the_name_that_was_looked_for(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tensors = load_file(llama / "model.safetensors")
    embedding = tensors.pop("model.embed_tokens.weight")
    save_file(tensors | {"lm_head.weight": embedding}, llama / "model.safetensors")
    made = checkpoint.prepare(llama, tmp_path)
    found = load_file(made / "model.safetensors")
    assert found["model.embed_tokens.weight"].equal(embedding) and "lm_head.weight" not in found
    assert "lm_head.weight" in load_file(llama / "model.safetensors")


def test_rows_in_the_forms_that_the_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"

    def written(task: str, *turns: Turn) -> Any:
        rows.write([Conversation(turns, where="f:1")], task, path)
        return json.loads(path.read_text())[0]

    answer = Turn("assistant", "A")
    asked = Turn("user", "Sort.\n\nb a", "Sort.", "b a")
    assert written("completion", asked, answer) == {"instruction": "Sort.", "input": "b a", "output": "A"}
    assert written("code-generation", Turn("user", "Q"), answer) == {"instruction": "Q", "input": "", "output": "A"}
    article = Turn("user", "Long text\nSummarize", document="Long text")
    assert written("summarization", article, answer) == {"article": "Long text", "highlights": "A"}
    assert written("chat", Turn("system", "S"), Turn("user", "Q"), answer) == {
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    }
    with pytest.raises(DataError, match=r"f:1: the turns are user, assistant, user, assistant; for task completion"):
        written("completion", Turn("user", "Q"), answer, Turn("user", "R"), answer)


def test_arguments_under_their_names_of_2024(llama: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, llama, warmup_steps=0.1, train_sampling_strategy="group_by_length")
    made = job.finetune(recipe.load(path), llama, {"train": Path("a.json")}, ["q"], tmp_path / "run")
    training = made["training"]
    assert training["group_by_length"] is True and "train_sampling_strategy" not in training
    assert training["warmup_ratio"] == 0.1 and "warmup_steps" not in training
    assert training["report_to"] == [] and training["use_cpu"] and training["do_train"] and not training["do_eval"]
    assert made["finetuning"]["lora_rank"] == 8 and "kernels" not in made["finetuning"]
    assert made["generation"]["max_new_tokens"] == 4


@pytest.mark.parametrize(
    "key", ["data.prompt_style=plain", "data.streaming=true", "finetuning.device=cuda", "model.tokenizer_name=seedling"]
)
def test_what_the_package_cannot_do_is_refused(
    llama: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "python", lambda: Path(sys.executable))
    with pytest.raises(UsageError, match=rf"{key.partition('=')[0]} cannot be honoured by the engine itrex"):
        engine.finetune(recipe.load(write_recipe(tmp_path, llama), [key]), Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_rows_too_many_for_memory_are_refused(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "python", lambda: Path(sys.executable))
    monkeypatch.setattr(splits, "SHARE_OF_MEMORY", 10**10)
    with pytest.raises(DataError, match=r"they are streamed.*; the engine itrex cannot"):
        engine.finetune(recipe.load(write_recipe(tmp_path, llama)), Console(quiet=True))


def test_without_its_environment_the_engine_says_how_to_make_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_recipe(tmp_path, llama)
    for command in (["finetune", str(path)], ["chat", str(llama)]):
        assert cli.main([*command, "--engine", "itrex"]) == UsageError.exit_status
        assert "make it with `neuralbot itrex setup`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["itrex", "status"]) == 0
    assert "not made" in capsys.readouterr().out


def test_setup_wants_python_3_11(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.13\n")
    other.chmod(0o700)
    with pytest.raises(UsageError, match=r"is Python 3\.13; the package has wheels for 3\.11"):
        environment.setup(str(other), print)
    with pytest.raises(UsageError, match="does not run"):
        environment.setup(str(tmp_path / "none"), print)
    assert not environment.is_ready()


def test_a_setup_that_fails_says_which_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "_check_version", lambda interpreter: None)
    with pytest.raises(ResourceError, match=r"the step `-m venv .*` ended with status 1"):
        environment.setup("/bin/false", print)


# The worker's side, with packages of the same names in place of the genuine ones

FAKE = """
import logging
class ModelArguments:
    def __init__(self, **given): self.__dict__.update(given)
DataArguments = FinetuningArguments = TextGenerationFinetuningConfig = ModelArguments
def finetune_model(config):
    try:
        raise FileNotFoundError("no rows at all")
    except FileNotFoundError as error:
        logging.getLogger(__name__).error(f"Exception: {error}")
"""


def test_what_the_package_swallows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "intel_extension_for_transformers" / "neural_chat"
    package.mkdir(parents=True)
    first = "import neuralbot"  # hides a torchvision that breaks transformers; in the genuine environment there is none
    for name, text in (("../__init__.py", first), ("__init__.py", ""), ("config.py", FAKE), ("chatbot.py", FAKE)):
        (package / name).write_text(text)
    path = f"{tmp_path / 'site'}:{Path(__file__).parents[2]}"
    monkeypatch.setattr(environment, "python", lambda: Path(sys.executable))
    monkeypatch.setattr(process, "_variables", lambda: {"PYTHONPATH": path, "PATH": "/usr/bin"})
    made = {"do": "finetune", "model": {}, "data": {}, "training": {"output_dir": str(tmp_path)}, "finetuning": {}}
    log = tmp_path / "itrex.log"
    with pytest.raises(ModelError, match=r"without having trained; Exception: no rows at all; more is in .*itrex\.log"):
        process.run(made, log, print)
    assert 'raise FileNotFoundError("no rows at all")' in log.read_text()


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\necho a last word >&2\nkill -9 $$\n")
    killed.chmod(0o700)
    monkeypatch.setattr(environment, "python", lambda: killed)
    with pytest.raises(ModelError, match=r"ended with status -9 without a word; .*a last word"):
        process.run({"do": "finetune"}, tmp_path / "itrex.log", print)


# The genuine package


@installed
@pytest.mark.slow
def test_the_genuine_package_trains_saves_and_answers(llama: Path, tmp_path: Path) -> None:
    loaded = recipe.load(write_recipe(tmp_path, llama))
    run = engine.finetune(loaded, Console(quiet=True))
    results = json.loads((run / "results.json").read_text())
    assert results["engine"] == "itrex" and results["metrics"]["steps"] == 2
    assert results["metrics"]["eval_loss"] > 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["finished"] and "intel_extension_for_pytorch==2.8.0" in manifest["engine_versions"]
    assert json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"] == str(llama)
    command = [sys.executable, "-m", "neuralbot", "chat", str(run), "--engine", "itrex"]
    said = subprocess.run(command, input="Say 3.\nSay 4.\n", capture_output=True, text=True, check=False, timeout=300)
    assert said.returncode == 0, said.stderr
    assert "archived" in said.stderr


@installed
@pytest.mark.slow
def test_a_mistake_in_the_genuine_package_is_an_error(llama: Path, tmp_path: Path) -> None:
    loaded = recipe.load(write_recipe(tmp_path, llama, average_tokens_across_devices=False))
    with pytest.raises(
        ModelError, match=r"the engine itrex failed.*unexpected keyword argument 'average_tokens_across_devices'"
    ):
        engine.finetune(loaded, Console(quiet=True))
