"""The run folder: whole files, one writer, no secrets, nothing overwritten unasked."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuralbot.errors import NeuralbotError, RunFolderError
from neuralbot.training import provenance, records, run_folder
from neuralbot.training.run_folder import RunFolder

RECIPE = "model:\n  model_name_or_path: seedling\n"


def make(path: Path, **changes: Any) -> RunFolder:
    return run_folder.create(path, **{"recipe_text": RECIPE, "manifest": {"task": "chat", "seed": 42}, **changes})


@contextmanager
def another_process_holding(path: Path) -> Iterator[int]:
    program = (
        "import sys\nfrom pathlib import Path\nfrom neuralbot.training import run_folder\n"
        f"run_folder.create(Path({str(path)!r}), recipe_text='', manifest={{}})\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


def test_a_whole_run(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "alpaca"
    with make(path, manifest={"task": "chat", "notices": ("said",)}, serving={"top_k": 40}) as folder:
        started = json.loads((path / "manifest.json").read_text())
        folder.log({"step": 1, "loss": 2.5})
        folder.log({"step": 2, "loss": float("nan"), "grad_norm": math.inf, "learning_rate": np.float32(0.5)})
        written_at_once = records.read_jsonl(path / "metrics.jsonl")
        folder.write_results({"after": {"scores": {"exact_match": 1.0}}})
        folder.write_samples([{"prompt": "東京?", "expected": "a\nb"}])
        folder.update_manifest(trainable_parameters=7)
        folder.finish({"train": 1.5})
    assert (started["finished"], started["task"], started["notices"]) == (False, "chat", ["said"])
    assert started["started"].endswith("+00:00")
    assert set(started["versions"]) >= {"python", "torch", "transformers", "peft"}
    assert written_at_once == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": None, "grad_norm": None, "learning_rate": 0.5},
    ]
    manifest = records.read_json(path / "manifest.json")
    assert manifest["finished"] is True
    assert manifest["durations_s"] == {"train": 1.5}
    assert manifest["trainable_parameters"] == 7
    assert manifest["ended"] >= manifest["started"]
    assert "error" not in manifest
    assert records.read_jsonl(path / "samples.jsonl") == [{"prompt": "東京?", "expected": "a\nb"}]
    assert (path / "recipe.yaml").read_text() == RECIPE
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json", "metrics.jsonl", "recipe.yaml", "results.json", "samples.jsonl", "serving.json",
    ]  # fmt: skip


def test_a_failed_run_says_so_and_lets_go(tmp_path: Path) -> None:
    with pytest.raises(NeuralbotError), make(tmp_path / "run"):
        raise NeuralbotError("the loss became nan")
    manifest = records.read_json(tmp_path / "run" / "manifest.json")
    assert (manifest["finished"], manifest["error"]) == (False, "NeuralbotError: the loss became nan")
    make(tmp_path / "run", overwrite=True).close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "home"
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match=r"not empty.+--output-dir"):
        make(path, overwrite=overwrite)
    with pytest.raises(RunFolderError, match="not empty"):
        run_folder.check(path, overwrite=overwrite)
    assert [place.name for place in (*tmp_path.iterdir(), *path.iterdir())] == ["home", "thesis.txt"]


def test_an_old_run_is_refused_or_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "run"
    make(path, recipe_text="first").close()
    with pytest.raises(RunFolderError, match=r"manifest\.json.*overwrite_output_dir=true"):
        make(path)
    for text in ("second", "third"):
        folder = make(path, recipe_text=text, overwrite=True)
        folder.close()
    assert folder.notices == (f"{path} was there already: moved to {tmp_path / 'run.old-2'}",)
    assert records.read_json(path / "manifest.json")["notices"] == list(folder.notices)
    texts = {place.name: (place / "recipe.yaml").read_text() for place in tmp_path.iterdir()}
    assert texts == {"run": "third", "run.old-1": "first", "run.old-2": "second"}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    run_folder.check(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    make(tmp_path).close()
    assert (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_do_not_share_a_folder(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "run"
    with another_process_holding(path) as holder:
        with pytest.raises(RunFolderError, match=f"another run \\(process {holder}\\)"):
            make(path, overwrite=overwrite)
        assert sorted(place.name for place in tmp_path.iterdir()) == ["run"]
    make(path, overwrite=True).close()  # the lock of a killed run does not outlive it


def test_of_two_runs_that_start_together_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    lock = run_folder._take_lock(path)
    with pytest.raises(RunFolderError, match=f"process {os.getpid()}"):
        make(path)
    run_folder._unlock(lock, path)
    make(path).close()


@pytest.mark.parametrize("kind", ["a file", "under a file", "a name that is too long"])
def test_a_path_that_cannot_be_a_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    path = {
        "a file": tmp_path / "file",
        "under a file": tmp_path / "file" / "run",
        "a name that is too long": tmp_path / ("x" * 300),
    }[kind]
    with pytest.raises(RunFolderError, match="--output-dir"):
        make(path)


def test_a_full_disk_is_a_run_folder_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("old")
    (tmp_path / ".results.json.part").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"cannot write .*results\.json: No space left"):
        records.write_json(tmp_path / "results.json", {"a": 1})
    assert (tmp_path / "results.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_secrets_are_never_written(tmp_path: Path) -> None:
    secret, hub = "s3cr3t-value", "hf_" + "Abcd1234" * 4
    recipe = (
        f"model:\n  token: {secret}\n  use_auth_token: true\n  tokenizer_name: other\n"
        f"training:\n  hub_token: '{secret}'\n  run_name: {hub}\ndata:\n  special_tokens: [<a>]\n  note: {hub}x\n"
    )
    manifest = {
        "model": {"token": secret, "API_KEY": secret, "api-password": secret, "empty_token": ""},
        "list": [{"client_secret": [secret]}],
        "eos_token": "</s>", "max_new_tokens": 128, "tokens": {"train": 5}, "tokenizer_name": "other",
        "notices": (f"downloaded with {hub}",),
    }  # fmt: skip
    with make(tmp_path / "run", recipe_text=recipe, manifest=manifest, serving={"token": secret}) as folder:
        folder.log({"step": 1, "token": secret})
    for file in (tmp_path / "run").iterdir():
        assert secret not in file.read_text(), file
        assert hub not in file.read_text(), file
    kept = records.read_json(tmp_path / "run" / "manifest.json")
    assert kept["model"] == {"token": "***", "API_KEY": "***", "api-password": "***", "empty_token": ""}
    assert (kept["eos_token"], kept["max_new_tokens"], kept["tokenizer_name"]) == ("</s>", 128, "other")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert 'token: "***"' in text and "use_auth_token: true" in text and "tokenizer_name: other" in text


def test_a_value_without_a_form_in_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="hardware=<object"):
        records.write_json(tmp_path / "x.json", {"hardware": object()})


def test_reading_broken_files_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert records.read_jsonl(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"step": oops}\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:2 .*oops"):
        records.read_jsonl(path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(RunFolderError, match="holds a list"):
        records.read_json(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text('{\n"a": }')
    with pytest.raises(RunFolderError, match=r"manifest\.json:2 is not valid JSON"):
        records.read_json(tmp_path / "manifest.json")
    with pytest.raises(RunFolderError, match="No such file"):
        records.read_json(tmp_path / "none.json")


def test_weights_are_named_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    (tmp_path / "config.json").write_text("{}")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert provenance.weights_sha256(tmp_path) == {"model.safetensors": digest}
    assert provenance.weights_sha256(tmp_path / "meta-llama" / "on-the-hub") == {}


def test_the_commit_is_that_of_our_own_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        names = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", *names, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    module = tmp_path / "neuralbot" / "training" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance._commit() == (None, None)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit, dirty = provenance._commit()
    assert commit is not None and len(commit) == 40
    assert dirty is False
    module.write_text("2")
    assert provenance._commit() == (commit, True)
    deeper = tmp_path / "venv" / "site-packages" / "neuralbot" / "training" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(deeper))
    assert provenance._commit() == (None, None)
