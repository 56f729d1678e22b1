"""Runs over streams, mixed sources and files with bad rows, on a random model of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralbot import finetune, recipe
from neuralbot.data import splits
from neuralbot.errors import DataError


def rows(folder: Path, name: str, count: int) -> Path:
    path = folder / name
    lines = [{"instruction": f"What is {name} {n}?", "output": f"It is number {n % 7}."} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(folder: Path, base: Path, *, data: dict[str, Any], **sections: dict[str, Any]) -> finetune.FinetuneResult:
    training = {
        "output_dir": str(folder / "run"), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "logging_steps": 1, "learning_rate": 0.01,
    } | sections.pop("training", {})  # fmt: skip
    whole = {"model": {"model_name_or_path": str(base)}, "data": data, "training": training} | sections
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return finetune.run(recipe.load(path))


def manifest_of(result: finetune.FinetuneResult) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def losses(result: finetune.FinetuneResult) -> list[float]:
    lines = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def test_a_stream_trains_with_both_kernels_on_the_same_rows(base: Path, tmp_path: Path) -> None:
    data = {
        "train_file": str(rows(tmp_path, "a.jsonl", 300)), "streaming": True, "validation_split_percentage": 10,
        "max_eval_samples": 12,
    }  # fmt: skip
    found = {}
    for kernels in ("fast", "reference"):
        (tmp_path / kernels).mkdir()
        result = run(
            tmp_path / kernels, base, data=data, training={"max_steps": 12, "eval_strategy": "steps", "eval_steps": 6},
            finetuning={"kernels": kernels, "lora_all_linear": True, "lora_dropout": 0.0},
        )  # fmt: skip
        assert manifest_of(result)["kernels"] == kernels
        assert manifest_of(result)["data"]["streamed"] is True
        assert manifest_of(result)["data"]["rows"] == {"validation": 12, "test": 0}
        assert result.metrics["eval_loss"] < result.metrics["eval_loss_before"]
        found[kernels] = losses(result)
    assert len(found["fast"]) == 12
    assert found["fast"] == pytest.approx(found["reference"], rel=0.02)


def test_epochs_over_a_stream_are_counted_and_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(
        tmp_path, base,
        data={"train_file": str(rows(tmp_path, "a.jsonl", 60)), "streaming": True, "validation_split_percentage": 20},
        training={"num_train_epochs": 2, "eval_strategy": "epoch"},
    )  # fmt: skip
    manifest = manifest_of(result)
    count = manifest["data"]["rows"]["train"]
    steps = -(-count // 8)
    assert 40 <= count <= 55 and count + manifest["data"]["rows"]["validation"] == 60
    assert result.metrics["steps"] == 2 * steps
    taken = f"an epoch of {count} rows takes {steps} steps, max_steps={2 * steps}, eval_steps={steps}"
    said = f"the rows are streamed: {taken}"
    assert said in manifest["notices"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "counting the streamed rows" in printed and said in printed
    during = [line for line in (result.run_dir / "metrics.jsonl").read_text().splitlines() if "eval_loss" in line]
    assert len(during) == 4  # before, after each epoch, after the run


def test_mixed_sources_are_counted_in_the_manifest(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = rows(tmp_path, "a.jsonl", 40), rows(tmp_path, "b.jsonl", 10)
    data = {"sources": [{"path": str(first), "weight": 2}, {"path": str(second), "weight": 1}]}
    result = run(tmp_path, base, data=data, training={"max_steps": 2})
    manifest = manifest_of(result)
    assert manifest["data"]["sources"] == {str(first): 40, str(second): 20}
    assert set(manifest["data"]["fingerprint"]) == {str(first), str(second)}
    assert f"{second}: 20 of the 60 rows of an epoch (33%, weight 1); each of its 10 rows 2.0 times" in " ".join(
        capsys.readouterr().out.split()
    )
    again = recipe.load(result.run_dir / "recipe.yaml")
    assert again.data.sources == data["sources"]


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_in_the_run_folder(base: Path, tmp_path: Path, streaming: bool) -> None:
    path = rows(tmp_path, "a.jsonl", 30)
    path.write_text(path.read_text() + "no json\n" + '{"instruction": 5, "output": "x"}\n')
    data = {"train_file": str(path), "on_bad_row": "skip", "streaming": streaming}
    result = run(tmp_path, base, data=data, training={"max_steps": 5})
    rejects = [json.loads(line) for line in (result.run_dir / "rejects.jsonl").read_text().splitlines()]
    assert [row["row"].strip() for row in rejects] == ["no json", '{"instruction": 5, "output": "x"}']
    assert rejects[0]["problem"].startswith(f"{path}:31:1: invalid JSON")
    manifest = manifest_of(result)
    assert manifest["data"]["skipped_rows"] == 2
    assert sum("2 bad rows were skipped" in notice for notice in manifest["notices"]) == 1


def test_without_bad_rows_there_is_no_file_of_them(base: Path, tmp_path: Path) -> None:
    data = {"train_file": str(rows(tmp_path, "a.jsonl", 30)), "on_bad_row": "skip"}
    result = run(tmp_path, base, data=data, training={"max_steps": 1})
    assert not (result.run_dir / "rejects.jsonl").exists()


def test_a_bad_row_that_training_comes_to_ends_it_with_its_place(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SAMPLE_ROWS", 20)
    path = rows(tmp_path, "a.jsonl", 1100)
    path.write_text(path.read_text() + "no json\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1101:1: invalid JSON"):
        run(tmp_path, base, data={"train_file": str(path), "streaming": True}, training={"max_steps": 5})
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["finished"] is False and "a.jsonl:1101" in manifest["error"]


def test_a_folder_of_files_trains_as_one(base: Path, tmp_path: Path) -> None:
    (tmp_path / "rows" / "more").mkdir(parents=True)
    rows(tmp_path / "rows", "a.jsonl", 20)
    (tmp_path / "rows" / "more" / "b.csv").write_text("question,answer\n" + "Which is it?,The other.\n" * 10)
    result = run(tmp_path, base, data={"train_file": str(tmp_path / "rows")}, training={"max_steps": 1})
    assert manifest_of(result)["data"]["rows"]["train"] == 30
