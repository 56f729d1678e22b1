"""The README's tables: made from result files, checked against them, the rest of the README untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme_table
from neuralbot.training import run_folder

SPEED = "<!-- speed:begin -->\n<!-- speed:end -->\n"
ENGINES = {
    "engines": {
        name: {"seconds": {"train": 30}, "metrics": {"eval_loss": 5.25}, "losses": [[20, 5.9], [40, 5.3]]}
        for name in ("neuralbot", "itrex")
    }
}
ANSWERING = "<!-- answering:begin -->\n<!-- answering:end -->\n"
OPENVINO = "".join(
    f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("generate", "paired", "groups", "lookup")
)
GROUPS = {"rows": 480, "losses": {"int8": {"0": 0.1124, "32": 0.1138, "128": 0.11231}}}
LOOKUP = {
    "settings": {"questions": 60, "rounds": 3},
    "hardware": {"cpu": "AMD EPYC", "isa": "avx512_bf16"},
    "tasks": {"summarization": {"tokens": 1055, "speedup": 1.2}},
}
RATIO = {"ratio": 0.981, "interval": [0.972, 0.994]}
PAIRED = {
    "shape": {"name": "llama-1.1b"}, "hardware": {"cpu": "AMD EPYC", "isa": "avx512_bf16"}, "threads": 2,
    "settings": {"loads": 6, "pairs": 3, "many_pairs": 1, "prompt_tokens": 512},
    "precisions": {"int8": {"prefill": RATIO, "decode": RATIO, "many": RATIO}},
}  # fmt: skip
LARGE = "<!-- large:begin -->\n<!-- large:end -->\n"
RESULTS = "<!-- results:begin -->\n<!-- results:end -->\n"
README = f"# neuralbot\n\ntext above\n\n{RESULTS}\n{SPEED}{ANSWERING}{LARGE}text below é\n"


def speeds() -> dict[str, Any]:
    def figures(rate: float, memory: float, **against: float) -> dict[str, Any]:
        return {"tokens_per_s": {"median": rate}, "peak_bytes": {"median": memory * 2**30}, **against}

    return {
        "shape": {"name": "llama-162m"}, "data": {"rows": 256, "tokens": 32545},
        "settings": {"batch": 4, "accumulation": 2, "lora_rank": 8, "lora_modules": ["q_proj", "v_proj"], "repeats": 3},
        "hardware": {"cpu": "AMD EPYC"}, "threads": 2, "onednn": {"bf16_product": "brg_matmul:avx512_core_bf16"},
        "versions": {"torch": "2.13.0", "transformers": "5.5.4", "peft": "0.21.2"},
        "methods": {
            "hf": figures(356.4, 3.31, speedup=1.0, loss_difference=0.0),
            "neuralbot": figures(1341.2, 1.8, speedup=3.763, loss_difference=-0.0001),
            "trl": {"error": "out of memory"},
        },
    }  # fmt: skip


def answering() -> dict[str, Any]:
    def figures(prefill: float, decode: float, many: float) -> dict[str, Any]:
        rates = {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode, "many_tokens_per_s": many}
        times = {"cold_first_token_s": 4.0, "warm_first_token_s": 0.5}
        found = {key: {"median": value} for key, value in (rates | times).items()}
        return {**found, "share_of_bandwidth": 0.613, "versions": {"torch": "2.13.0"}}

    return {
        "shape": {"name": "llama-1.1b"}, "hardware": {"cpu": "AMD EPYC", "isa": "avx512_bf16"}, "threads": 2,
        "settings": {"rounds": 3, "prompt_tokens": 512, "system_tokens": 1000, "streams": 8, "new_tokens": 64},
        "onednn": {"torch": {"bf16_product": "brg"}, "openvino-int8": {"isa": "AVX-512", "linear_layers": ["vnni"]}},
        "bandwidth_gb_per_s": [{"read": 30.0, "copy": 41.2}], "not_measured": {"itrex": "no environment"},
        "methods": {
            "neuralbot-int8": figures(440.4, 31.44, 177.3), "transformers": figures(320.0, 11.0, 60.0),
            "llama.cpp-int4": {"versions": {}, "samples": [{"error": "killed"}]},
        },
    }  # fmt: skip


def finished_run(path: Path, name: str, main: str, before: float | None, after: float) -> Path:
    def result(value: float) -> dict[str, Any]:
        return {"scores": {main: value, "other": 0.1}, "interval": [value - 0.01, value + 0.01], "n": 1200}

    manifest = {
        "name": name, "task": "completion", "base_model": {"name": "seedling"}, "data": {"rows": {"train": 17000}},
        "hardware": {"cpu": "AMD EPYC", "isa": "avx512_bf16"}, "plan": {"dtype": "bfloat16", "threads": 2},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }  # fmt: skip
    with run_folder.create(path / name, recipe_text="", manifest=manifest) as folder:
        first = None if before is None else result(before)
        folder.write_results({"metric": "m", "main_score": main, "before": first, "after": result(after)})
        folder.finish({"prepare": 3.4, "train": 101.2})
    return path / name


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "finetune-llama-162m.json").write_text(json.dumps(speeds()))
    large = {"rows": 1000, "bytes": 2 * 10**9, "steps": 3, "runs": [{"peak_bytes": 4e8}, {"peak_bytes": 12e8}]}
    (tmp_path / "results" / "large-data.json").write_text(json.dumps(large))
    (tmp_path / "results" / "engines.json").write_text(json.dumps(ENGINES))
    (tmp_path / "results" / "generate.json").write_text(json.dumps(answering()))
    (tmp_path / "docs").mkdir()
    (tmp_path / "results" / "prompt-lookup.json").write_text(json.dumps(LOOKUP))
    (tmp_path / "results" / "activation-groups.json").write_text(json.dumps(GROUPS))
    (tmp_path / "results" / "paired.json").write_text(json.dumps(PAIRED))
    (tmp_path / "docs" / "openvino.md").write_text(OPENVINO)
    (tmp_path / "docs" / "itrex.md").write_text("<!-- engines:begin -->\n<!-- engines:end -->\n")
    return tmp_path


def command(place: Path, *arguments: object) -> int:
    options = ["--root", place, "--results", place / "results"]
    return readme_table.main([str(part) for part in (*options, *arguments)])


def test_export_update_check(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        finished_run(place / "runs", "summarization", "rougeL", None, 0.65),
        finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871),
    ]
    assert command(place, "export", *runs) == 0
    assert sorted(path.name for path in (place / "results").glob("recipe-*")) == [
        "recipe-alpaca.json", "recipe-summarization.json",
    ]  # fmt: skip
    assert command(place, "check") == 1
    assert "readme_table update" in capsys.readouterr().err
    assert command(place, "update") == 0
    assert command(place, "check") == 0
    text = (place / "README.md").read_text()
    assert text.startswith("# neuralbot\n\ntext above\n\n<!-- results:begin -->\n\n| recipe |")
    assert text.endswith("<!-- large:end -->\ntext below é\n")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `alpaca` | 1,200 | exact match | 2.0 % | **87.1 %** (86.1 % to 88.1 %) | 17,000 | 101 s | 105 s |",
        "| `summarization` | 1,200 | ROUGE-L | not measured | **0.650** (0.640 to 0.660) | 17,000 | 101 s | 105 s |",
    ]
    assert text.count("Measured on AMD EPYC (avx512_bf16), 2 threads, bfloat16, python 3.11.7, torch 2.13.0") == 1
    assert command(place, "update") == 0
    assert (place / "README.md").read_text() == text


def test_speeds_stand_beside_what_they_are_compared_with(place: Path) -> None:
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    assert command(place, "update") == 0
    text = (place / "README.md").read_text()
    assert (
        "| llama-162m, 256 rows, 32,545 tokens | HF Trainer + PEFT, bf16 | 356 | 1.00x | 3.31 GiB | +0.00 % |" in text
    )
    assert "|  | **neuralbot**, bf16 base | 1,341 | 3.76x | 1.80 GiB | -0.01 % |" in text
    assert "|  | TRL SFTTrainer, bf16 | failed | failed | failed | failed |" in text
    assert "AMD EPYC, 2 threads, oneDNN brg_matmul:avx512_core_bf16, torch 2.13.0" in text


def test_memory_of_many_rows(place: Path) -> None:
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    assert command(place, "update") == 0
    assert "1,000 rows (2.0 GB) took 0.40 GB of memory to preview, and 1.20 GB to train the first 3 steps" in (
        place / "README.md"
    ).read_text(encoding="utf-8")


def test_engines_beside_each_other(place: Path) -> None:
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    assert command(place, "update") == 0
    assert "| itrex | 30 s | 5.900 | 5.300 | 5.250 |" in (place / "docs" / "itrex.md").read_text()


def test_answering_beside_other_ways(place: Path) -> None:
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    assert command(place, "update") == 0
    page = (place / "docs" / "openvino.md").read_text()
    assert "| **neuralbot** | int8 | 440 | 31.4 | 61 % | 177 | 4.00 s, 0.50 s |" in page
    assert "| llama.cpp | int4 | failed |" in page
    assert "of the 41 GB/s" in page
    assert "openvino-int8 vnni; torch 2.13.0." in page
    assert "Not measured: itrex (no environment)." in page
    assert "0.1138 in OpenVINO's groups of 32, 0.1123 in neuralbot's of 128" in page
    assert "| int8 | 0.98 (0.97 to 0.99) | 0.98 (0.97 to 0.99) | 0.98 (0.97 to 0.99) |" in page
    assert "| summarization | 1055 | 1.20 times as fast |" in page
    readme = (place / "README.md").read_text()
    assert "llama-1.1b in int8 reads 440 and writes 31.4 tokens a second, 177 for 8 chats at once" in readme
    assert "transformers in bf16 reads 320 and writes 11.0, 60 as a batch" in readme


def test_check_sees_an_edited_number(place: Path) -> None:
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    assert command(place, "update") == 0
    readme = place / "README.md"
    readme.write_text(readme.read_text().replace("87.1", "97.1"))
    assert command(place, "check") == 1


def test_a_run_that_did_not_finish_or_has_no_scores_is_not_exported(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)
    results, manifest = (json.loads((run / name).read_text()) for name in ("results.json", "manifest.json"))
    (run / "results.json").write_text(json.dumps({**results, "after": None}))
    assert command(place, "export", run) == 4
    assert "no scores after tuning" in capsys.readouterr().err
    (run / "manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    assert command(place, "export", run) == 4
    assert "did not finish" in capsys.readouterr().err
    assert not list((place / "results").glob("recipe-*"))


@pytest.mark.parametrize("text", ["no markers", "<!-- results:begin -->\n", README + README])
def test_a_readme_without_its_markers_is_refused(place: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    (place / "README.md").write_text(text)
    assert command(place, "update") == 2
    assert "results:begin" in capsys.readouterr().err
    assert (place / "README.md").read_text() == text


def test_without_result_files_nothing_is_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(place, "update") == 2
    assert "holds no recipe-*.json" in capsys.readouterr().err
    assert command(place, "export", finished_run(place / "runs", "alpaca", "exact_match", 0.02, 0.871)) == 0
    (place / "results" / "finetune-llama-162m.json").unlink()
    assert command(place, "update") == 2
    assert "holds no finetune-*.json" in capsys.readouterr().err
    assert (place / "README.md").read_text() == README
