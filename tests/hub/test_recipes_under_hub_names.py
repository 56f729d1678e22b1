"""The shipped llama2-7b recipes, run by the real command under their own names, against a hub on the loopback."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.hub.conftest import ROOT, TOKEN, Command, Ended
from tests.hub.repositories import CODE, LLAMA, NEWS
from tests.hub.server import Hub

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("llama2-7b-*.yaml"))
SMALL = (
    "training.max_steps=2", "training.log_level=warning", "data.max_eval_samples=4",
    "evaluation.max_samples=2", "evaluation.max_new_tokens=4",
)  # fmt: skip


def finetune(command: Command, run: Path, recipe: str, *overrides: str, **environment: Any) -> Ended:
    return command("neuralbot.finetune", recipe, *SMALL, *overrides, "--output-dir", str(run), **environment)


@pytest.fixture(scope="module")
def runs(command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ended]]:
    """Each recipe's run folder and how its command ended; the first fills the cache that the others share."""
    folder = tmp_path_factory.mktemp("runs")
    places = {recipe: folder / recipe for recipe in RECIPES}
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda recipe: finetune(command, places[recipe], recipe, "data.max_train_samples=12"), RECIPES)
        return {recipe: (places[recipe], how) for recipe, how in zip(RECIPES, ended, strict=True)}


def test_these_are_the_recipes() -> None:
    assert RECIPES == ["llama2-7b-alpaca", "llama2-7b-code", "llama2-7b-summarization"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_shipped_recipe_runs_under_its_hub_names(recipe: str, runs: dict[str, tuple[Path, Ended]], hub: Hub) -> None:
    run, ended = runs[recipe]
    assert ended.status == 0, ended.err
    assert "held-out loss" in ended.out
    manifest = json.loads((run / "manifest.json").read_text())
    commit = hub.commit("models", LLAMA, "main").sha
    assert manifest["finished"] is True
    assert (manifest["base_model"]["name"], manifest["base_model"]["commit"]) == (LLAMA, commit)
    adapter = json.loads((run / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (LLAMA, commit)
    sources = {
        "llama2-7b-alpaca": {"data/alpaca/train.json"},
        "llama2-7b-code": {f"{CODE}/train"},
        "llama2-7b-summarization": {f"{NEWS}/3.0.0/{split}" for split in ("train", "validation", "test")},
    }
    assert set(manifest["data"]["fingerprint"]) == sources[recipe]


def test_the_summaries_are_of_the_configuration_asked_for(runs: dict[str, tuple[Path, Ended]]) -> None:
    samples = (runs["llama2-7b-summarization"][0] / "samples.jsonl").read_text().splitlines()
    assert samples
    assert all("Today the town of" in json.loads(sample)["prompt"] for sample in samples)


def test_the_token_stays_with_the_hub(runs: dict[str, tuple[Path, Ended]], hub: Hub) -> None:
    for run, ended in runs.values():
        assert TOKEN not in ended.out + ended.err
        assert not [file for file in run.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    stored = [request for request in hub.log if request.host == "localhost"]
    assert stored
    assert not any(request.secret for request in stored)


def test_only_what_is_needed_is_asked_for(runs: dict[str, tuple[Path, Ended]], hub: Hub) -> None:
    assert not hub.asked(".bin") and not hub.asked(".bin", "HEAD")
    assert not hub.asked("/resolve/main/", "HEAD"), "all files of a run are of one commit"
    for file in hub.commit("models", LLAMA, "main").files:
        if file.endswith(".safetensors"):
            assert sum(request.sent for request in hub.asked(file)) > 0, file


def test_revisions_are_honoured_in_training_and_in_serving(command: Command, hub: Hub, tmp_path: Path) -> None:
    revisions = "model.model_revision=v1", "data.dataset_revision=v1"
    ended = finetune(command, tmp_path / "run", "llama2-7b-code", *revisions)
    assert ended.status == 0, ended.err
    assert f"{CODE}/train: 15 rows" in ended.out
    with safe_open(tmp_path / "run" / "adapter_model.safetensors", framework="pt") as adapter:
        assert {name.split(".layers.")[1].partition(".")[0] for name in adapter.keys()} == {"0"}  # noqa: SIM118
    commit = hub.commit("models", LLAMA, "v1").sha
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["revision"] == commit
    # Served from that commit: main has two layers, and this adapter would not fit it.
    asked = len(hub.log)
    chat = command("neuralbot", "chat", str(tmp_path / "run"), "--max-new-tokens", "4", text="What is 1 + 2?\n")
    assert chat.status == 0, chat.err
    assert chat.out.strip()
    assert not [request for request in hub.log[asked:] if "/models/" in request.path or "/resolve/" in request.path]


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_quantised_base_is_read_under_the_hub_name_and_without_the_hub(
    bits: int, runs: dict[str, tuple[Path, Ended]], command: Command, hub: Hub, tmp_path: Path
) -> None:
    asked, quantised = len(hub.log), ("finetuning.qlora=true", f"finetuning.bits={bits}")
    ended = finetune(
        command, tmp_path / "run", "llama2-7b-summarization", *quantised, HF_HUB_OFFLINE="1", HF_TOKEN=None
    )
    assert ended.status == 0, ended.err
    assert len(hub.log) == asked, "all is in the cache since the recipes ran"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    commit = hub.commit("models", LLAMA, "main").sha
    assert (manifest["base_bits"], manifest["base_model"]["commit"]) == (bits, commit)
    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (LLAMA, commit)


def test_chat_takes_a_hub_name(command: Command) -> None:
    chat = command("neuralbot", "chat", LLAMA, "--max-new-tokens", "4", "--seed", "1", text="What is 1 + 2?\n")
    assert (chat.status, bool(chat.out.strip())) == (0, True), chat.err


@pytest.mark.slow
def test_build_chatbot_says_what_a_gated_model_needs(command: Command, hub: Hub, tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(
        "from neuralbot import PipelineConfig, build_chatbot\n"
        "from neuralbot.errors import ModelError\n"
        "try:\n"
        f"    build_chatbot(PipelineConfig({LLAMA!r}))\n"
        "except ModelError as error:\n"
        "    print(error)\n"
        f"chatbot = build_chatbot(PipelineConfig({LLAMA!r}, hf_access_token={TOKEN!r}))\n"
        "print(len(chatbot.predict('What is 1 + 2?')) > 0)\n"
    )
    ended = command("talk", cwd=tmp_path, HF_TOKEN=None, HF_HOME=str(tmp_path / "home"))
    assert ended.out.splitlines() == [
        f"the model {LLAMA} is gated: accept its licence at {hub.url}/{LLAMA}, then log in with `hf auth login` or set "
        "HF_TOKEN",
        "True",
    ], ended.err
