"""The report: it says what the run's files say, nothing in it can act, and every half-finished run has one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from neuralbot import cli, finetune
from neuralbot.errors import RunFolderError, UsageError
from neuralbot.evaluation.compare import compare
from neuralbot.evaluation.results import side
from neuralbot.report import plot, words
from neuralbot.report.files import write, write_all
from neuralbot.training import run_folder

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</pre><script>alert(1)</script> \"><img src=x onerror='x'> {{ 7 * 7 }} &amp; \x1b[2J a | b"
RECIPE = """\
# The resolved recipe of a run, read from /home/jane/secret project/alpaca.yaml.
model: {model_name_or_path: /home/jane/models/tiny}
data: {train_file: /home/jane/rows/train.jsonl, test_file: /home/jane/rows/test.jsonl, max_seq_length: 256}
finetuning: {lora_rank: 32, lora_target_modules: [q_proj, v_proj]}
training: {output_dir: OUTPUT, learning_rate: 2.0e-3}
"""
MANIFEST: dict[str, Any] = {
    "name": "alpaca",
    "task": "completion",
    "method": "lora",
    "base_model": {"name": "/home/jane/models/tiny", "parameters": 2_100_000, "weights_sha256": {"m.st": "ab" * 32}},
    "trainable_parameters": 123_456,
    "prompt_style": "alpaca",
    "data": {
        "fingerprint": {"/home/jane/rows/train.jsonl": "cd" * 32, "/home/jane/rows/test.jsonl": "ef" * 32},
        "rows": {"validation": 17, "test": 60, "train": 17_000},
        "tokens": {"train": 400_000, "targets": 90_000},
        "lengths": {"minimum": 5, "median": 7, "p95": 9, "maximum": 10, "edges": [5, 8, 11], "counts": [12_345, 4_655]},
        "skipped_rows": 7,
    },
    "hardware": {"cpu": "AMD EPYC", "isa": "avx512_bf16", "physical_cores": 2, "memory_bytes": 16 * 2**30},
    "plan": {"dtype": "bfloat16", "threads": 2, "device": "cpu"},
    "energy": {"joules": 7_200.0, "counters": ["package-0"]},
    "peak_memory_bytes": 3 * 2**30,
    "seed": 42,
    "notices": [HOSTILE, "/home/jane/rows/train.jsonl:3: an empty answer"],
}


def answer(text: str, correct: float) -> dict[str, Any]:
    return {"answer": text, "correct": correct, "detail": "", "scores": {"exact_match": correct}}


SAMPLES = [
    {"prompt": f"Question {number}? {HOSTILE}", "expected": f"fact {number}", "row": number,
     "before": answer("", float(number >= 55)), "after": answer(f"{HOSTILE} {number}", float(number < 50))}
    for number in range(60)
]  # fmt: skip


def measured(value: float, low: float, high: float) -> dict[str, Any]:
    scores, intervals = {"exact_match": value}, {"exact_match": [low, high]}
    more = {"interval": [low, high], "intervals": intervals, "n": 60, "seconds": 9.0, "notices": [], "drawn": None}
    return {"scores": scores} | more


RESULTS: dict[str, Any] = {
    "task": "completion", "metric": "exact_match", "main_score": "exact_match",
    "before": measured(5 / 60, 0.0213, 0.1567), "after": measured(50 / 60, 0.7301, 0.9123),
    "metrics": {"eval_loss_before": 3.14159, "eval_loss": 0.25, "steps": 300, "tokens": 812_345},
    "lm_eval": {
        "before": {"colours": {"acc": 0.25, "acc_stderr": 0.043}}, "after": {"colours": {"acc": 0.75}}, "versions": {},
    },
}  # fmt: skip
METRICS = [
    {"step": 0, "time_s": 0.5, "eval_loss": 3.14159},
    *(
        {"step": step, "time_s": 0.1 * step, "loss": 3.0 / step, "learning_rate": 1e-3 / step, "grad_norm": 1.0,
         "tokens": 120 * step, "tokens_per_s": 1000.0 + step, "memory_gb": 1.5}
        for step in range(1, 301)
    ),
    {"step": 300, "time_s": 31.0, "eval_loss": 0.25},
]  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "alpaca"
    text = RECIPE.replace("OUTPUT", str(path))
    with run_folder.create(path, recipe_text=text, manifest=MANIFEST) as folder:
        for record in METRICS:
            folder.log(record)
        folder.write_rejects({"problem": f"/home/jane/rows/train.jsonl:{n}: {HOSTILE}", "row": ""} for n in range(7))
        folder.write_results(RESULTS)
        folder.write_samples(SAMPLES)
        folder.finish({"prepare": 4.21, "train": 100.4, "evaluate_after": 7384.0})
    return path


class Page(HTMLParser):
    """Checks while it reads that nothing can act or load, and that elements are closed in their order."""

    VOID = ("meta", "br", "img", "link", "input", "hr")
    FORBIDDEN = ("script", "link", "img", "iframe", "object", "embed", "form", "input", "base", "audio", "video", "a",
                 "foreignobject", "image", "animate", "set")  # fmt: skip

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in self.FORBIDDEN
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("src", "srcset", "action", "background"), (tag, name)
            assert not name.endswith("href") or str(value).startswith("#"), (tag, name, value)
            assert "url(" not in str(value) or re.fullmatch(r"url\(#\w+\)", str(value)), (tag, name, value)
        if tag == "meta":
            self.metas.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            assert not re.search(r"url\(|@import|@font-face|expression", data)
        elif "svg" not in self.open and data.strip():
            self.texts.append(" ".join(data.split()))


def page(run_dir: Path) -> Page:
    write(run_dir)
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


def test_nothing_in_the_page_acts_or_loads(run_dir: Path) -> None:
    metas = page(run_dir).metas
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert any(meta.get("name") == "viewport" for meta in metas)


def test_hostile_texts_are_shown_as_they_are(run_dir: Path) -> None:
    shown = page(run_dir)
    said = " ".join(HOSTILE.replace("\x1b", "\ufffd").split())
    texts = [text for text in shown.texts if said in text]
    # a notice, five rows that were skipped, and the questions and answers of nine samples
    assert len(texts) >= 1 + 5 + 2 * 9
    whole = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in whole and "<script" not in whole and "&amp;amp;" in whole
    assert "<script" not in (run_dir / "report.md").read_text(encoding="utf-8")


def test_folders_above_the_files_are_not_told(run_dir: Path) -> None:
    page(run_dir)
    for name in ("report.html", "report.md"):
        text = (run_dir / name).read_text(encoding="utf-8")
        assert "/home" not in text and "jane" not in text and str(run_dir.parent) not in text
        assert "train.jsonl:3: an empty answer" in text
        assert "neuralbot chat alpaca" in text


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_figures_are_those_of_the_files(run_dir: Path, name: str) -> None:
    texts = page(run_dir).texts
    whole = " ".join(texts) if name.endswith("html") else (run_dir / name).read_text(encoding="utf-8")
    whole = whole.replace("|", " ").replace("\\", "")
    whole = " ".join(whole.split())
    for fact in (
        "8.3 % (2.1 % to 15.7 %)", "83.3 % (73.0 % to 91.2 %)", "held-out loss 3.142 0.250",
        "colours acc 0.250 ± 0.043 0.750", "training rows 17,000", "peak memory 3.00 GiB", "energy in training 2.00 Wh",
        "tokens/s in training 1,300", "base model tiny", "trained parameters 123,456 (5.6 %)",
        "rows train 17,000, validation 17, test 60", "of them trained on 90,000 (22.5 %)", "steps 300",
        "tokens in all steps 812,345", "train.jsonl training 17,000", "test.jsonl scores 60",
        "5 to 7 12,345", "8 to 10 4,655", "lora_target_modules q_proj, v_proj", "learning_rate 0.002",
        "rows and model loaded 4.2 s", "trained 100 s", "scored after tuning 2 h 3 min", "time in all 2 h 4 min",
        "7,200 J; all that ran on package-0", "processor AMD EPYC", "and 2 more, in rejects.jsonl", "ab" * 32,
    ):  # fmt: skip
        assert fact in whole, fact


def test_the_paired_test_is_that_of_eval_compare(run_dir: Path) -> None:
    found = compare(side(SAMPLES, "before"), side(SAMPLES, "after"))
    low, high = (100 * end for end in found.interval)
    said = f"{100 * found.difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}), p = {found.p:.4f}"
    texts = page(run_dir).texts
    assert any(said in text and "the tuned model is better" in text for text in texts)
    assert any("50 answers got better, 5 worse, 5 score the same." in text for text in texts)


def test_answers_that_changed_are_shown_of_both_kinds(run_dir: Path) -> None:
    texts = page(run_dir).texts
    assert {"Better: 3 of 50 answers", "Worse: 3 of 5 answers", "No better: 3 of 5 answers"} <= set(texts)
    questions = [text.split("?")[0] for text in texts if text.startswith("Question ") and "?" in text]
    assert questions == [f"Question {number}" for number in (0, 16, 33, 55, 56, 58, 50, 51, 53)]


def test_the_same_files_give_the_same_bytes_in_any_process(run_dir: Path, tmp_path: Path) -> None:
    write(run_dir)
    first = [(run_dir / name).read_bytes() for name in ("report.html", "report.md")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "neuralbot", "report", str(run_dir)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=60)
    assert [(run_dir / name).read_bytes() for name in ("report.html", "report.md")] == first


def without_results(run: Path) -> None:
    (run / "results.json").write_text(json.dumps(RESULTS | {"before": None, "after": None, "main_score": None}))
    (run / "samples.jsonl").unlink()


def without_before(run: Path) -> None:
    (run / "results.json").write_text(json.dumps(RESULTS | {"before": None}))
    rows = [json.dumps(sample | {"before": None}) + "\n" for sample in SAMPLES]
    (run / "samples.jsonl").write_text("".join(rows))


def without_validation(run: Path) -> None:
    records = [json.dumps(record) + "\n" for record in METRICS if "eval_loss" not in record]
    (run / "metrics.jsonl").write_text("".join(records))
    (run / "results.json").write_text(json.dumps(RESULTS | {"metrics": {"steps": 300}}))


def stopped(run: Path) -> None:
    for name in ("results.json", "samples.jsonl"):
        (run / name).unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["durations_s"], manifest["energy"], manifest["peak_memory_bytes"]
    error = "TrainingDiverged: the loss became nan at step 7; look into /home/jane/rows/train.jsonl"
    (run / "manifest.json").write_text(json.dumps(manifest | {"finished": False, "error": error}))


def killed(run: Path) -> None:
    stopped(run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "error"}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')


def barely_begun(run: Path) -> None:
    killed(run)
    for name in ("metrics.jsonl", "recipe.yaml", "rejects.jsonl"):
        (run / name).unlink()
    (run / "manifest.json").write_text("{}")


def infinite(run: Path) -> None:
    """Perplexities that overflow are null in the files."""
    worst = {
        "scores": {"loss": 900.0, "perplexity": 700.5, "spare": None},
        "interval": [1, 999],
        "n": 60,
        "notices": [],
        "drawn": None,
    }
    worst |= {"intervals": {"loss": [1, 999], "perplexity": [2.0, None]}}
    results = {"metric": "loss", "main_score": "loss", "before": worst, "after": worst, "metrics": {"perplexity": None}}
    (run / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_results, "held-out loss"), (without_before, "At even distances: 3 of 60 answers"),
        (without_validation, "Answers"), (stopped, "the loss became nan at step 7; look into train.jsonl"),
        (killed, "It is still running, or was ended from outside."), (barely_begun, "Nothing was scored"),
        (infinite, "900.000"),
    ],
)  # fmt: skip
def test_half_a_run_has_a_report_too(run_dir: Path, change: Any, said: str) -> None:
    change(run_dir)
    assert said in " ".join(page(run_dir).texts)
    assert (run_dir / "report.md").read_text(encoding="utf-8").startswith("# ")


def test_a_long_run_keeps_its_page_small(run_dir: Path) -> None:
    records = (
        {"step": n, "time_s": n, "loss": 3 / n, "learning_rate": 1 / n, "tokens_per_s": n} for n in range(1, 50_000)
    )
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page(run_dir)
    assert (run_dir / "report.html").stat().st_size < 300_000


def test_the_speed_drawn_is_that_of_the_steps_not_of_evaluations_between() -> None:
    paused = [record | ({"time_s": record["time_s"] + 50} if record["step"] > 150 else {}) for record in METRICS]
    paused.insert(151, {"step": 150, "time_s": 65.0, "eval_loss": 0.5, "eval_runtime": 50.0})
    found = [record["speed"] for record in plot._with_speed(paused) if "loss" in record]
    assert found == pytest.approx([1200.0] * 300)


def test_charts_leave_their_colours_and_letters_to_the_page() -> None:
    for drawn in (plot.loss_svg(METRICS), plot.use_svg(METRICS)):
        assert drawn.startswith("<svg") and drawn.endswith("</svg>")
        assert {"var(--soft)", "var(--grid)", "var(--train)"} <= set(re.findall(r"var\([\w-]+\)", drawn))
        assert not re.search(r"#[0-9a-f]{6}\b|font-family|<style|<metadata|20\d\d-", drawn)
    assert "held out 0.250" in plot.loss_svg(METRICS)
    assert plot.loss_svg(METRICS[:1]) == plot.use_svg(METRICS[:1]) == ""


def test_the_shipped_page_is_small_closed_and_tells_of_no_machine_but_its_kind() -> None:
    path = ROOT / "docs" / "alpaca-report.html"
    shown = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 300_000
    assert {"exact match", "How it learned", "Answers", "Time and machine"} <= set(shown.texts)
    assert [text for text in shown.texts if words.without_folders(text) != text] == []
    assert not any("uncommitted" in text or "did not finish" in text for text in shown.texts)


# --- the command ---


def test_the_command_writes_both_or_the_one_asked_for(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["report", str(run_dir)]) == 0
    assert capsys.readouterr().out == f"wrote {run_dir}/report.html\nwrote {run_dir}/report.md\n"
    other = tmp_path / "other.html"
    assert cli.main(["report", str(run_dir), "--output", str(other)]) == 0
    assert other.read_bytes() == (run_dir / "report.html").read_bytes()


def test_it_loads_no_model_library() -> None:
    program = "import sys, neuralbot.report.commands\nassert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_what_is_no_run_is_refused_kindly(run_dir: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["report", str(tmp_path)]) == RunFolderError.exit_status
    assert "is no run folder: it has no manifest.json" in capsys.readouterr().err
    assert cli.main(["report", str(run_dir), "--output", "x.pdf"]) == UsageError.exit_status
    assert "--output x.pdf: expected a name that ends in .html or .md" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", '{"step": 1\n'), ("results.json", "[]"), ("results.json", '{"after": 1}'),
        ("samples.jsonl", '{"prompt": 1}\n'), ("recipe.yaml", "a: [\n"), ("manifest.json", '{"data": 5}'),
    ],
)  # fmt: skip
def test_files_that_no_run_wrote_are_refused_in_one_line(run_dir: Path, name: str, text: str, capsys: Any) -> None:
    (run_dir / name).write_text(text)
    assert cli.main(["report", str(run_dir)]) == RunFolderError.exit_status
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said


def test_what_cannot_be_written_is_said_and_the_rest_is_written(run_dir: Path) -> None:
    (run_dir / "report.html").mkdir()
    (problem,) = write_all(run_dir)
    assert problem.startswith("the report could not be made: cannot write") and "later: neuralbot report" in problem
    assert (run_dir / "README.md").is_file() and (run_dir / "loss.png").is_file()


def test_a_report_that_cannot_be_written_loses_no_run(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "run"
    with run_folder.create(path, recipe_text=RECIPE, manifest=MANIFEST) as folder:
        folder.log(METRICS[1])
        (path / "report.html").mkdir()
        watch = finetune.Stopwatch()
        watch.lap("train")
        finetune._finish(folder, watch, Console(soft_wrap=True))
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    said = manifest["notices"][-1]
    assert said.startswith("the report could not be made: cannot write")
    assert manifest["finished"] is True and set(manifest["durations_s"]) == {"train", "report"}
    assert capsys.readouterr().out == f"note: {said}\n"
    assert (path / "README.md").is_file()


def test_the_model_card_points_at_the_page(run_dir: Path) -> None:
    assert write_all(run_dir) == []
    assert "[report.html](report.html)" in (run_dir / "README.md").read_text(encoding="utf-8")


# --- words ---


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/tmp/w/a b/c.json:3: x", "a b/c.json:3: x"), ("read ~/rows/train.jsonl", "read train.jsonl"),
        ("and/or, 1/2 of rows/a.json", "and/or, 1/2 of rows/a.json"), ("https://host/a/b", "https://host/a/b"),
        ("in '/home/jane/x.txt', or /home/jane/y", "in 'x.txt', or y"),
    ],
)  # fmt: skip
def test_sentences_lose_the_folders_of_their_paths(text: str, kept: str) -> None:
    assert words.without_folders(text) == kept


def test_files_of_one_name_keep_the_folder_that_tells_them_apart() -> None:
    assert words.file_names(["/a/b/x.json", "/a/c/x.json", "/a/y.json", "data/z.json", "squad"]) == [
        "b/x.json", "c/x.json", "y.json", "data/z.json", "squad",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (179, "179 s"), (185, "3 min 5 s"), (7384, "2 h 3 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said
