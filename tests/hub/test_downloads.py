"""Downloads that break, and work without the hub: what was downloaded once is not downloaded again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hub.conftest import Command
from tests.hub.repositories import CODE, LLAMA, NEWS, WIDE
from tests.hub.server import Hub

MEGABYTE = 10**6
SMALL = (
    "training.max_steps=1", "training.do_eval=false", "data.validation_split_percentage=0",
    "data.max_train_samples=4", "training.log_level=warning", "evaluation.metric=none",
)  # fmt: skip


def test_a_broken_download_goes_on_where_it_broke(command: Command, hub: Hub, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [12 * MEGABYTE]
    chat = command("neuralbot", "chat", WIDE, "--max-new-tokens", "2", text="Hello\n", HF_HOME=str(tmp_path / "home"))
    assert chat.status == 0, chat.err
    first, second = hub.asked(f"{WIDE}/main/model.safetensors")[-2:]
    assert (first.range, first.sent) == (None, 12 * MEGABYTE)
    assert second.range == f"bytes={10 * 2**20}-", "whole reads are kept"


@pytest.mark.slow
def test_a_download_given_up_is_finished_by_the_next_run(command: Command, hub: Hub, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [12 * MEGABYTE, *[0] * 6]
    wide = "llama2-7b-code", *SMALL, f"model.model_name_or_path={WIDE}", "--output-dir", str(tmp_path / "run")
    broken = command("neuralbot.finetune", *wide, HF_HOME=str(tmp_path / "home"))
    assert broken.status == 4
    assert broken.message.startswith(f"error: the download of the model {WIDE} broke off (")
    assert broken.message.endswith("): run it again, complete files are kept")
    asked = len(hub.log)
    finished = command("neuralbot.finetune", *wide, HF_HOME=str(tmp_path / "home"))
    assert finished.status == 0, finished.err
    sent = {request.path.rpartition("/")[2] for request in hub.log[asked:] if request.sent and WIDE in request.path}
    assert "model.safetensors" in sent
    assert not sent & {"config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def downloaded(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF_HOME with what the summarization recipe needs, and the code data set at v1 and then at main."""
    home, runs = tmp_path_factory.mktemp("downloaded"), tmp_path_factory.mktemp("runs")
    for number, arguments in enumerate(
        (
            ("llama2-7b-summarization", *SMALL[:2], *SMALL[3:]),
            ("llama2-7b-code", "data.dataset_revision=v1", *SMALL),
            ("llama2-7b-code", *SMALL),
        )
    ):
        ended = command("neuralbot.finetune", *arguments, "--output-dir", str(runs / str(number)), HF_HOME=str(home))
        assert ended.status == 0, ended.err
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "source"), [("summarization", f"{NEWS}/3.0.0/train"), ("code", f"{CODE}/train")])
def test_offline_works_from_the_cache(
    recipe: str, source: str, command: Command, hub: Hub, downloaded: Path, tmp_path: Path
) -> None:
    asked = len(hub.log)
    small = [key for key in SMALL if recipe == "code" or "percentage" not in key]
    arguments = f"llama2-7b-{recipe}", *small, "--output-dir", str(tmp_path / "run")
    ended = command("neuralbot.finetune", *arguments, HF_HOME=str(downloaded), HF_HUB_OFFLINE="1", HF_TOKEN=None)
    assert ended.status == 0, ended.err
    assert source in json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["fingerprint"]
    assert len(hub.log) == asked


@pytest.mark.slow
def test_offline_another_revision_is_not_taken_for_the_one_asked_for(
    command: Command, downloaded: Path, tmp_path: Path
) -> None:
    arguments = "llama2-7b-code", *SMALL, "data.dataset_revision=v1", "--output-dir", str(tmp_path / "run")
    ended = command("neuralbot.finetune", *arguments, HF_HOME=str(downloaded), HF_HUB_OFFLINE="1")
    assert ended.status == 3
    assert ended.message == (
        f"error: the data set {CODE} is in the cache at another revision than 'v1': unset HF_HUB_OFFLINE to download "
        "this one"
    )


@pytest.mark.slow
def test_a_hub_that_is_down_says_how_to_go_on_without_it(command: Command, downloaded: Path, tmp_path: Path) -> None:
    arguments = "llama2-7b-code", *SMALL, "--output-dir", str(tmp_path / "run")
    ended = command("neuralbot.finetune", *arguments, HF_HOME=str(downloaded), HF_ENDPOINT="http://127.0.0.1:9")
    assert ended.status == 4
    assert ended.message.endswith("set HF_HUB_OFFLINE=1 to work with what was downloaded before")


@pytest.mark.slow
def test_a_model_in_the_cache_needs_no_token(command: Command, downloaded: Path, tmp_path: Path) -> None:
    arguments = "llama2-7b-code", *SMALL, "--output-dir", str(tmp_path / "run")
    ended = command("neuralbot.finetune", *arguments, HF_HOME=str(downloaded), HF_TOKEN=None)
    assert ended.status == 0, ended.err
    assert LLAMA in json.loads((tmp_path / "run" / "manifest.json").read_text())["base_model"]["name"]
