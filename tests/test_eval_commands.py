"""`neuralbot eval` and `neuralbot eval compare`, with the embedded model and with files made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralbot import cli, eval_commands, hardware
from neuralbot.engines import export
from neuralbot.training.records import read_json, read_jsonl


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    content = [{"question": f"What is {number}?", "answer": ["even", "odd"][number % 2]} for number in range(6)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def evaluate(rows: Path, *more: str) -> int:
    return cli.main(["eval", "seedling", "--data", str(rows), "--task", "completion", "--max-new-tokens", "5", *more])


def test_the_answers_and_scores_are_kept(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(rows, "--show-samples", "1", "--max-samples", "4") == 0
    said = capsys.readouterr().out
    assert "6 rows, read as questions with their answers" in said
    assert "question  What is 0?\nanswer" in said and "expected  even" in said
    assert "4 questions" in said and "metric exact_match" in said
    results = read_json(Path("evaluations/seedling-rows/results.json"))
    assert (results["metric"], results["before"], results["after"]["n"]) == ("exact_match", None, 4)
    assert results["settings"]["max_new_tokens"] == 5
    assert len(results["data"][str(rows)]) == 64
    samples = read_jsonl(Path("evaluations/seedling-rows/samples.jsonl"))
    assert [row["prompt"] for row in samples] == [f"What is {number}?" for number in (0, 1, 3, 4)]
    assert all(set(row["after"]["scores"]) == {"exact_match"} for row in samples)
    assert evaluate(rows, "--metric", "loss", "--show-samples", "0") == 0
    assert "perplexity" in capsys.readouterr().out
    assert set(read_json(Path("evaluations/seedling-rows-2/results.json"))["after"]["scores"]) == {
        "loss", "perplexity", "token_accuracy",
    }  # fmt: skip


def test_labels_choose_their_metric_and_columns_are_mapped(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text(rows.read_text().replace("answer", "Antwort").replace("question", "Frage"))
    mapping = ("--columns", "question=Frage", "answer=Antwort")
    assert evaluate(rows, *mapping, "--labels", "even", "odd", "--output", "out") == 0
    assert "accuracy_norm" in capsys.readouterr().out
    assert read_json(Path("out/results.json"))["metric"] == "labels"
    assert {row["after"]["answer"] for row in read_jsonl(Path("out/samples.jsonl"))} <= {"even", "odd"}


def test_code_is_answered_several_times(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text(json.dumps({"question": "Write f.", "answer": "def f(): pass", "tests": "assert f() == 1"}) + "\n")
    options = ["--task", "code-generation", "--samples", "3", "--temperature", "1", "--max-new-tokens", "4"]
    assert cli.main(["eval", "seedling", "--data", str(rows), "--output", "out", *options]) == 0
    results = read_json(Path("out/results.json"))["after"]
    assert results["scores"] == {"pass_at_1": 0.0, "pass_at_3": 0.0}
    assert results["drawn"] == {"samples": 3, "temperature": 1.0, "top_p": 0.95, "seed": 0}
    (row,) = read_jsonl(Path("out/samples.jsonl"))
    assert len(row["after"]["attempts"]) == 3
    assert all(attempt["detail"].startswith("failed: ") for attempt in row["after"]["attempts"])


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--samples", "x"], 2, "--samples: expected a whole number, got the text 'x'"),
        (["--temperature", "0"], 2, "--temperature: 0 is out of range: must be above 0"),
        (["--labels", "a", "b", "--metric", "f1"], 2, "--labels belongs to --metric labels, but --metric is f1"),
        (["--num-beams", "2", "--samples", "3"], 2, "--num-beams searches for one answer, --samples draws several"),
        (["--columns", "question"], 2, "--columns question: expected FIELD=COLUMN"),
        (["--output", "."], 2, "--output .: is there already; expected a new or empty folder"),
        (["--metric", "unit_tests"], 3, "none of the 6 test rows has unit tests"),
        (["--data", "nowhere.json"], 3, "nowhere.json: does not exist"),
        (["--device", "cuda"], 4, "torch sees no CUDA device"),
        (["--engine", "openvino", "--metric", "loss"], 2, "--engine openvino does not go with --metric loss"),
        (["--engine", "openvino", "--num-beams", "2"], 2, "--engine openvino does not go with --num-beams"),
        (["--engine", "openvino", "--device", "cuda"], 4, "it is for processors, not for device='cuda'"),
    ],
)
def test_mistakes_are_told(
    rows: Path, capsys: pytest.CaptureFixture[str], more: list[str], status: int, message: str
) -> None:
    assert evaluate(rows, *more) == status
    assert message in capsys.readouterr().err
    assert not Path("evaluations").exists()


def test_the_fast_engine_answers_where_it_runs(
    rows: Path, tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if (name := export.missing()) is not None:
        pytest.skip(f"{name} is not installed")
    cache: Any = request.config.cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.mkdir("neuralbot")))
    monkeypatch.setenv("NEURALBOT_ENGINE", "auto")
    monkeypatch.setattr(hardware, "BF16_FLAGS", frozenset())  # in float32 both engines give the same
    tiny_model.save_pretrained("tiny")
    tiny_tokenizer.save_pretrained("tiny")
    asked = ["eval", "tiny", "--data", str(rows), "--task", "completion", "--max-new-tokens", "5"]
    drawn = ["--samples", "2", "--metric", "f1"]
    found = {}
    for place, more in {
        "fast": [],
        "slow": ["--engine", "torch"],
        "drawn": drawn,
        "loss": ["--metric", "loss"],
    }.items():
        assert cli.main([*asked, *more, "--output", place]) == 0
        found[place] = read_json(Path(place) / "results.json")
    assert {place: results["engine"]["name"] for place, results in found.items()} == {
        "fast": "openvino", "slow": "torch", "drawn": "openvino", "loss": "torch",
    }  # fmt: skip
    assert {results["engine"]["precision"] for results in found.values()} == {"float32"}
    fast, slow = (
        [row["after"]["answer"] for row in read_jsonl(Path(place) / "samples.jsonl")] for place in ("fast", "slow")
    )
    assert len(set(fast)) > 1
    assert fast == slow


def test_the_task_is_that_of_the_run(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("run")
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"task": "chat"}))
    assert eval_commands._task_of("run") == "chat"
    assert cli.main(["eval", "seedling", "--data", str(rows)]) == 2
    assert "seedling does not tell its task: give --task, one of completion, chat" in capsys.readouterr().err


# --- compare ---


def answers(values: list[float], metric: str = "exact_match") -> list[dict[str, Any]]:
    return [{"answer": f"said {value}\x1b[2J", "correct": value, "detail": "", "scores": {metric: value}}
            for value in values]  # fmt: skip


def samples(folder: str, after: list[dict[str, Any]], before: list[dict[str, Any]] | None = None) -> Path:
    path = Path(folder)
    path.mkdir()
    both = zip(before or [None] * len(after), after, strict=True)
    kept = [{"prompt": f"question {place}", "expected": "x", "row": place, "before": old, "after": new}
            for place, (old, new) in enumerate(both)]  # fmt: skip
    (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
def test_a_difference_of_five_points_is_told_with_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = [1.0] * 140 + [0.0] * 60, [0.0] * 2 + [1.0] * 150 + [0.0] * 48
    samples("a", answers(first))
    samples("b", answers(second))
    assert cli.main(["eval", "compare", "a", "b/samples.jsonl", "--output", "changes.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "exact_match 0.700  a\nexact_match 0.750  b/samples.jsonl\n" in said
    assert "difference +0.050 (95 % interval +0.0" in said
    assert "p = 0.0129 (paired permutation test, 200 questions): the second is better" in said
    assert "12 questions better, 2 worse, 186 with the same score" in said
    assert "worse: 1.000 -> 0.000  question 0\n  expected  x\n  first     said 1.0" in said
    assert "\x1b" not in said
    changes = read_jsonl(Path("changes.jsonl"))
    assert [change["change"] for change in changes] == ["better"] * 12 + ["worse"] * 2
    assert changes[0]["prompt"] == "question 140"


@pytest.mark.usefixtures("folder")
def test_one_run_is_compared_with_itself_before_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    samples("run", answers([1.0] * 20), answers([0.0] * 20))
    assert cli.main(["eval", "compare", "run"]) == 0
    said = capsys.readouterr().out
    assert "0.000  run before tuning" in said and "1.000  run after tuning" in said
    assert "the second is better" in said
    samples("other", answers([1.0] * 19 + [0.0]))
    assert cli.main(["eval", "compare", "run", "other"]) == 0
    assert "p = 1.0000 (paired permutation test, 20 questions): no difference is shown" in capsys.readouterr().out
    assert cli.main(["eval", "compare", "other"]) == 3
    assert "other/samples.jsonl holds no answers of the model before tuning" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "a"], "there is no file nowhere; expected a folder that neuralbot eval or finetune wrote"),
        (["a", "rouge"], "different metrics (exact_match and rougeL)"),
        (["a", "wrong"], "samples.jsonl is not what neuralbot writes (KeyError('after'))"),
        (["a", "a", "--score", "f1"], "there is no score 'f1' in both; expected one of exact_match"),
    ],
)
def test_what_cannot_be_compared_is_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    samples("a", answers([1.0]))
    samples("rouge", answers([1.0], "rougeL"))
    samples("wrong", answers([1.0]))
    Path("wrong/samples.jsonl").write_text('{"prompt": "x"}\n')
    assert cli.main(["eval", "compare", *arguments]) == 3
    assert message in capsys.readouterr().err
