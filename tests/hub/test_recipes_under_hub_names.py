"""The shipped llama2-7b recipes, run by the real command under their own names, against a hub on the loopback."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
FEW = ("data.max_train_samples=12",)
NEWS_SPLITS = {f"{NEWS}/3.0.0/{split}" for split in ("train", "validation", "test")}
REVISIONS = "model.model_revision=v1", "data.dataset_revision=v1"


def finetune(command: Command, run: Path, recipe: str, *overrides: str, **environment: str | None) -> Ended:
    return command("neuralbot.finetune", recipe, *SMALL, *overrides, "--output-dir", str(run), **environment)


@pytest.fixture(scope="module")
def runs(command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ended]]:
    """The run folders of two recipes, one of them at other revisions, and how their commands ended."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = {"summarization": FEW, "code": REVISIONS}

    def run(name: str) -> tuple[Path, Ended]:
        return folder / name, finetune(command, folder / name, f"llama2-7b-{name}", *overrides[name])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(overrides, pool.map(run, overrides), strict=True))


def check_run(run: Path, ended: Ended, hub: Hub, sources: set[str], revision: str = "main") -> None:
    assert ended.status == 0, ended.err
    assert "held-out loss" in ended.out
    manifest = json.loads((run / "manifest.json").read_text())
    commit = hub.commit("models", LLAMA, revision).sha
    assert manifest["finished"] is True
    assert (manifest["base_model"]["name"], manifest["base_model"]["commit"]) == (LLAMA, commit)
    adapter = json.loads((run / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (LLAMA, commit)
    assert set(manifest["data"]["fingerprint"]) == sources


def test_these_are_the_recipes() -> None:
    assert RECIPES == ["llama2-7b-8bit", "llama2-7b-alpaca", "llama2-7b-code", "llama2-7b-summarization"]


def test_the_summarization_recipe_runs_under_its_hub_names(runs: dict[str, tuple[Path, Ended]], hub: Hub) -> None:
    check_run(*runs["summarization"], hub, NEWS_SPLITS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "source"),
    [("8bit", "data/alpaca/train.json"), ("alpaca", "data/alpaca/train.json"), ("code", f"{CODE}/train")],
)
def test_a_recipe_runs_under_its_hub_names_and_chats(
    name: str, source: str, command: Command, hub: Hub, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    check_run(run, finetune(command, run, f"llama2-7b-{name}", *FEW), hub, {source})
    answers(command, str(run))


def test_the_summaries_are_of_the_configuration_asked_for(runs: dict[str, tuple[Path, Ended]]) -> None:
    samples = (runs["summarization"][0] / "samples.jsonl").read_text().splitlines()
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
    assert not hub.asked("/agent-harnesses"), "nothing is told about who runs it"
    for file in hub.commit("models", LLAMA, "main").files:
        if file.endswith(".safetensors"):
            assert sum(request.sent for request in hub.asked(file)) > 0, file


def answers(command: Command, model: str, **environment: str | None) -> None:
    arguments = model, "--max-new-tokens", "4", "--temperature", "0"
    chat = command("neuralbot", "chat", *arguments, text="What is 1 + 2?\n", **environment)
    assert (chat.status, bool(chat.out.strip())) == (0, True), chat.err


def test_revisions_are_honoured_in_training_and_in_chat(
    runs: dict[str, tuple[Path, Ended]], command: Command, hub: Hub
) -> None:
    run, ended = runs["code"]
    check_run(run, ended, hub, {f"{CODE}/train"}, revision="v1")
    assert f"{CODE}/train: 15 rows" in ended.out
    with safe_open(run / "adapter_model.safetensors", framework="pt") as adapter:
        assert {name.split(".layers.")[1].partition(".")[0] for name in adapter.keys()} == {"0"}  # noqa: SIM118
    # The chat's base is of that commit: main has two layers, and this adapter would not fit it.
    asked = len(hub.log)
    answers(command, str(run), HF_TOKEN=None)
    files = [request for request in hub.log[asked:] if "/resolve/" in request.path and request.method == "GET"]
    assert not files, "the files of a commit that is in the cache are not asked for again"


def test_the_preview_of_a_recipe_that_has_run_needs_no_hub(
    runs: dict[str, tuple[Path, Ended]], command: Command, hub: Hub
) -> None:
    run, asked = runs["summarization"][0], len(hub.log)
    shown = command("neuralbot", "data", "preview", "llama2-7b-summarization", HF_HUB_OFFLINE="1", HF_TOKEN=None)
    assert shown.status == 0, shown.err
    for source in json.loads((run / "manifest.json").read_text())["data"]["fingerprint"]:
        assert re.search(rf"^{source}: \d+ rows, ", shown.out, re.MULTILINE), source
    assert "Bergen opened a library" in shown.out
    assert len(hub.log) == asked


PREVIEWS = {"alpaca": "data/alpaca/train.json: 12,000 rows, ", "code": f"{CODE}/train: 40 rows, ",
            "summarization": f"{NEWS}/3.0.0/train: 32 rows, "}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PREVIEWS)
def test_a_preview_downloads_no_weights(name: str, command: Command, hub: Hub, tmp_path: Path) -> None:
    asked = len(hub.log)
    shown = command("neuralbot", "data", "preview", f"llama2-7b-{name}", HF_HOME=str(tmp_path))
    assert shown.status == 0, shown.err
    assert PREVIEWS[name] in shown.out
    assert not [request for request in hub.log[asked:] if request.path.endswith(".safetensors")]


@pytest.mark.slow
@pytest.mark.parametrize(("revision", "count"), [("main", 40), ("v1", 15)])
def test_sources_of_a_mixture_have_revisions_of_their_own(revision: str, count: int, command: Command) -> None:
    mixture = "data.dataset_name=", f"data.sources=[{{name: {CODE}, revision: {revision}}}]"
    shown = command("neuralbot", "data", "preview", "llama2-7b-code", *mixture)
    assert shown.status == 0, shown.err
    assert f"{CODE}/train: {count} rows, " in shown.out


@pytest.mark.slow
def test_rows_are_streamed_from_the_hub(command: Command, hub: Hub, tmp_path: Path) -> None:
    streamed = "data.streaming=true", "data.dataset_revision=v1"
    check_run(tmp_path, finetune(command, tmp_path, "llama2-7b-summarization", *streamed), hub, NEWS_SPLITS)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_read_under_the_hub_name_and_without_the_hub(
    bits: int, runs: dict[str, tuple[Path, Ended]], command: Command, hub: Hub, tmp_path: Path
) -> None:
    asked, quantised = len(hub.log), ("finetuning.qlora=true", f"finetuning.bits={bits}")
    offline: dict[str, str | None] = {"HF_HUB_OFFLINE": "1", "HF_TOKEN": None}
    ended = finetune(command, tmp_path / "run", "llama2-7b-summarization", *quantised, **offline)
    check_run(tmp_path / "run", ended, hub, NEWS_SPLITS)
    assert len(hub.log) == asked, "all is in the cache since the recipe ran"
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["base_bits"] == bits


@pytest.mark.slow
def test_chat_takes_a_hub_name(command: Command) -> None:
    answers(command, LLAMA)


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
