"""Exports: what their names depend on, and the process that makes them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from neuralbot import cli
from neuralbot.engines import export, export_cache
from neuralbot.errors import ModelError, ResourceError

pytestmark = pytest.mark.skipif(export.missing() is not None, reason=f"{export.missing()} is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "neuralbot" / "exports"


def silent(_: str) -> None:
    pass


def test_the_name_depends_on_the_content_and_the_settings(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    own = export.key(export.Spec(str(tiny_folder), "int4"))
    for name in ("serving.json", "results.json"):  # how it answers, and how well: the weights are the same
        (copy / name).write_text("{}")
    assert export.key(export.Spec(str(copy), "int4", token="secret")) == own
    others = {
        export.key(export.Spec(str(tiny_folder), "int8")),
        export.key(export.Spec(str(tiny_folder), "int4", group_size=32)),
        export.key(export.Spec(str(tiny_folder), "int4", symmetric=True)),
    }
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    others.add(export.key(export.Spec(str(copy), "int4")))
    assert len(others | {own}) == 5
    assert export.key(export.Spec(str(tiny_folder), "int8", group_size=32)) in others


def test_no_room_is_told_before_the_work(tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ResourceError, match=r"needs about 0\.0 GB in .* where 0\.0 GB are free"):
        export.exported(export.Spec(str(tiny_folder)), silent)
    assert not [path for path in cache.iterdir() if path.is_dir()]


# Another program fills the disk while the export runs, but for so many kilobytes.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=8m none "$2" || exit 99
export XDG_CACHE_HOME=$2
{ "$3" -m neuralbot export "$4" --precision fp32; echo "status $?"; } 2>&1 | while read line; do
    echo "$line"
    case $line in exporting*)
        free=$(df --output=avail -k "$2" | tail -1)
        head -c $((free - $1))k /dev/zero > "$2/other"
    esac
done
find "$2" -name '*.part-*' -o -name entry.json
"""


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [0, 300, 700])
def test_a_disk_that_gets_full_is_told_and_nothing_is_left(tiny_folder: Path, tmp_path: Path, kilobytes: int) -> None:
    words = ["unshare", "-Urm", "sh", "-c", ON_A_SMALL_DISK, "sh", str(kilobytes), str(tmp_path)]
    done = subprocess.run([*words, sys.executable, str(tiny_folder)], capture_output=True, text=True)
    if "reading" not in done.stdout:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")
    told = f"the disk of {tmp_path}/neuralbot/exports is full: see `neuralbot cache prune`, or set XDG_CACHE_HOME"
    assert done.stdout.splitlines()[-2:] == [f"error: {told}", "status 4"], done.stdout


@pytest.mark.slow
def test_what_cannot_be_loaded_is_told_by_the_process(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="has no tokenizer"):
        export.exported(export.Spec(str(tmp_path / "model")), silent)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_a_model_that_openvino_does_not_run_is_remembered(tiny_tokenizer: Any, tmp_path: Path, cache: Path) -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    model = CTRLLMHeadModel(CTRLConfig(vocab_size=len(tiny_tokenizer), n_embd=16, dff=16, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "ctrl")
    tiny_tokenizer.save_pretrained(tmp_path / "ctrl")
    spec = export.Spec(str(tmp_path / "ctrl"))
    with pytest.raises(export.Unsupported, match=r"\(ctrl\) cannot be exported for OpenVINO"):
        export.exported(spec, silent)
    began = time.monotonic()
    with pytest.raises(export.Unsupported):
        export.exported(spec, silent)
    assert time.monotonic() - began < 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_killed_leaves_no_entry(tiny_folder: Path, cache: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "neuralbot", "export", str(tiny_folder)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "reading" in process.stderr.readline()
    process.send_signal(number)
    assert process.wait(30) == (130 if number == signal.SIGINT else -9)
    assert export_cache.entries() == []
    parts = list(cache.glob("*.part-*"))
    assert len(parts) == (0 if number == signal.SIGINT else 1)
    export.exported(export.Spec(str(tiny_folder)), silent)
    assert len(export_cache.entries()) == 1 and not list(cache.glob("*.part-*"))


@pytest.mark.slow
def test_the_command_fills_the_cache_or_a_folder(
    tiny_folder: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(tiny_folder), "--precision", "int4", "--group-size", "32"]) == 0
    told = capsys.readouterr()
    assert "chatbots of" in told.out and "keeping the weights in int4" in told.err
    out = tmp_path / "out"
    assert cli.main(["export", str(tiny_folder), "--precision", "int4", "--group-size", "32", "-o", str(out)]) == 0
    assert (out / "openvino_model.bin").is_file()
    assert cli.main(["export", str(tiny_folder), "-o", str(out)]) == 2


def test_safetensors_are_the_merged_model(tiny_folder: Path, tiny_model: Any, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    from neuralbot.modeling import load_for_chat

    with torch.random.fork_rng():
        torch.manual_seed(1)
        base = type(tiny_model).from_pretrained(tiny_folder)
        run: PeftModel = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    run.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "serving.json").write_text('{"max_new_tokens": 7}')
    out = tmp_path / "merged"
    assert (
        cli.main(["export", str(tmp_path / "run"), "--to", "safetensors", "--precision", "fp32", "-o", str(out)]) == 0
    )
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        merged = load_for_chat(str(out), torch.float32)
        assert torch.allclose(merged.model(ids).logits, run.eval()(ids).logits, atol=1e-4)
        assert not torch.allclose(merged.model(ids).logits, tiny_model(ids).logits, atol=1e-2)
    assert merged.serving == {"max_new_tokens": 7}


def test_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--to", "safetensors"], "add --output"),
        (["--to", "safetensors", "-o", "/tmp/nowhere/x", "--precision", "int8"], "expected fp32 or bf16"),
        (["--group-size", "33"], "power of two"),
    ):
        assert cli.main(["export", "seedling", *words]) == 2
        assert told in capsys.readouterr().err
