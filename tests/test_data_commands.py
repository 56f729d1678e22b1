"""`neuralbot data preview` and `data check` as a user types them, on a model folder that holds no weights at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from neuralbot import cli, finetune
from neuralbot.data import splits

ROOT = Path(__file__).parents[1]
Rows = list[tuple[str, str]]

CUT: Rows = [("a", "b c d e f"), ("g", "h i j k l m")]  # 10 and 11 tokens
FATAL: dict[str, tuple[Rows, str]] = {
    "every answer is cut": (
        CUT,
        "the end token '<end>' is trained in none of 2 rows, because every answer is cut at 9",
    ),
    "no answer is left": ([("a b c d e f g", "h")] * 2, "training rows: 0 usable of 2 rows: 2 have no answer within"),
    "one token everywhere": ([("a", "x"), ("b", "x")], "everything that is trained on is one token, 'x', in all of 2"),
}


@pytest.fixture
def model(tmp_path: Path, word_tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path / "model"
    word_tokenizer.save_pretrained(folder)
    config = {"model_type": "llama", "max_position_embeddings": 64, "vocab_size": 30}
    (folder / "config.json").write_text(json.dumps(config))
    assert not list(folder.glob("*.safetensors"))
    return folder


def write_rows(path: Path, rows: Rows) -> str:
    lines = [json.dumps({"instruction": question, "output": answer}) for question, answer in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def write_recipe(folder: Path, model: Path, rows: Rows, **data: Any) -> Path:
    path = folder / "recipe.yaml"
    train = write_rows(folder / "train.jsonl", rows)
    recipe = {
        "model": {"model_name_or_path": str(model)},
        "data": {"train_file": train, "max_seq_length": 9} | data,
        "training": {"output_dir": str(folder / "run")},
    }
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def command(*args: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "neuralbot", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=250)


def cells(out: str, label: str) -> list[str]:
    """What stands behind a label at the beginning of a line of a table."""
    (line,) = [line for line in out.splitlines() if line.startswith(label + "  ")]
    return line.removeprefix(label).split()


def test_figures_by_hand(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [("a", "b c"), ("a b", "c d e"), ("f g h", "i"), ("a", "b c")]  # 7, 9, 8, 7 tokens
    validation = write_rows(tmp_path / "validation.jsonl", [("a", "x"), ("z", "y")])
    test = write_rows(tmp_path / "test.jsonl", [("a b c d e f", "g")])
    recipe = write_recipe(tmp_path, model, train, validation_file=validation, test_file=test)
    assert (
        cli.main(["data", "preview", str(recipe), "training.do_eval=true", "--rows", "1", "data.max_seq_length=8"]) == 0
    )
    out = capsys.readouterr().out
    assert "train.jsonl: 4 rows, read as Alpaca rows, an instruction with its answer, because of the columns" in out
    assert "prompt style: tokenizer" in out
    assert cells(out, "rows") == ["4", "2", "1"]
    assert cells(out, "shortest") == ["7", "6", "11"]
    assert cells(out, "median") == ["7", "6", "11"]
    assert cells(out, "95 % are up to") == ["9", "6", "11"]
    assert cells(out, "longest") == ["9", "6", "11"]
    # "b c <end>" twice, "c d e" without its end, "i <end>": 11 of 7 + 8 + 8 + 7 tokens
    assert cells(out, "tokens trained on") == ["11", "of", "30", "(36.7%)", "4", "of", "12", "(33.3%)", "-"]
    assert cells(out, "end in the end token") == ["3", "2", "-"]
    assert cells(out, "answer cut") == ["1", "0", "-"]
    histogram = out[out.index("training rows by length (at most 8 tokens") : out.index("rows that repeat")]
    assert [line.split()[:2] for line in histogram.splitlines()[2:5]] == [["7", "2"], ["8", "1"], ["9", "1"]]
    assert [line.count("█") for line in histogram.splitlines()[2:5]] == [40, 20, 20]
    assert cells(out, "train") == ["1", "1"]
    assert cells(out, "validation in train") == ["1", "0"]
    place = tmp_path / "train.jsonl"
    assert f"train: {place}:4 is the same as {place}:1" in out
    assert f"validation in train: {validation}:1 asks the same as {place}:1" in out
    assert f"{place}:1: 7 tokens, 3 trained on\n<u> a <end> <a> b c <end>\n" in out
    assert f"{place}:2: row 2:" not in out
    assert "\nwarning: 25% of the training rows lose the end of their answer" in out
    assert "\nnote: 1 of 2 validation rows ask what the train rows ask too: their scores may flatter" in out


def test_good_rows_have_no_findings(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, model, [("a", "b"), ("c", "d")], max_seq_length=100)
    assert cli.main(["data", "preview", str(recipe), "--rows", "0"]) == 0
    out = capsys.readouterr().out
    assert "no question stands twice" in out
    assert "first training rows" not in out
    # the model reads 64 tokens
    assert "training rows by length (at most 64 tokens" in out
    assert out.endswith("findings\nnote: data.max_seq_length=100, but the model reads only 64 tokens\n")


def test_of_a_stream_the_first_rows_are_shown(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SAMPLE_ROWS", 2)
    rows = [("a", "b"), ("c", "d"), ("e", "f")]
    recipe = write_recipe(tmp_path, model, rows, streaming=True)
    assert cli.main(["data", "preview", str(recipe)]) == 0
    out = capsys.readouterr().out
    assert cells(out, "rows")[0] == "2"
    assert out.endswith("note: the training rows are streamed: the figures are those of the first 2\n")


@pytest.mark.parametrize("name", FATAL)
def test_a_fatal_finding_stops_the_preview_and_the_run(
    tmp_path: Path, model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, text = FATAL[name]
    recipe = write_recipe(tmp_path, model, rows)
    done = command("data", "preview", recipe)
    assert done.returncode == 3
    assert f"\nfatal: {text}" in done.stdout
    assert done.stderr.startswith(f"error: these rows cannot be trained on: {text}")
    assert done.stderr.count("\n") == 1
    # The folder has no weights: the run stops before it looks for them, and writes nothing.
    assert finetune.main([str(recipe)]) == 3
    said = capsys.readouterr()
    assert text in said.err and "Traceback" not in said.err
    assert not (tmp_path / "run").exists()


def test_a_fatal_finding_stops_the_command_finetune(tmp_path: Path, model: Path) -> None:
    done = command("finetune", write_recipe(tmp_path, model, CUT))
    assert done.returncode == 3
    assert done.stderr.startswith("error: these rows cannot be trained on: the end token '<end>'")
    assert done.stderr.count("\n") == 1
    good = command("finetune", write_recipe(tmp_path, model, [("a", "b"), ("c", "d")]))
    assert (good.returncode, "has no *.safetensors" in good.stderr) == (4, True)


class Page(HTMLParser):
    """The tags of a page, its text, and the class that each piece of text stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.pieces: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self._open.append(str(dict(attrs).get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.pieces.append((data, self._open[-1] if self._open else ""))

    @property
    def text(self) -> str:
        return "".join(data for data, _ in self.pieces)


EVIL = "[bold]x[/bold] <script>alert(1)</script> &amp; </pre> :smile: {code} \x1b]0;title\x07 <|end|>"


@pytest.fixture
def page(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]) -> Page:
    model = tmp_path / "model"
    tiny_tokenizer.save_pretrained(model)
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    folder = tmp_path / "[red]<i>folder"
    folder.mkdir()
    recipe = write_recipe(folder, model, [(EVIL, f"{EVIL} yes"), ("b", "c")], max_seq_length=512)
    target = tmp_path / "page.html"
    assert cli.main(["data", "preview", str(recipe), "--html", str(target)]) == 0
    out = capsys.readouterr().out
    assert f"wrote {target}" in out and "\x1b]0;" not in out and "\x07" not in out
    found = Page(target.read_text(encoding="utf-8"))
    assert out.startswith(found.text[found.text.index(str(folder)) :][:1000])
    return found


def test_texts_of_rows_and_names_are_text_in_the_page(page: Page) -> None:
    assert set(page.tags) == {"html", "head", "meta", "title", "style", "body", "pre", "code", "span"}
    assert page.attributes == {"lang", "charset", "class"}
    shown = EVIL.replace("\x1b", "\ufffd").replace("\x07", "\ufffd")
    assert page.text.count(shown) == 2
    assert "[red]<i>folder" in page.text


def test_the_page_shows_what_is_trained_and_what_is_a_special_token(page: Page) -> None:
    styles = "".join(data for data, _ in page.pieces if ".r1 {" in data)
    looks = {
        name: rule.split("{")[1] for rule in styles.split("}") for name in [rule.split("{")[0].strip()] if "{" in rule
    }
    learnt = [data for data, name in page.pieces if "underline" in looks.get(f".{name}", "")]
    special = [
        data for data, name in page.pieces if "background-color" in looks.get(f".{name}", "") and "█" not in data
    ]
    shown = EVIL.replace("\x1b", "\ufffd").replace("\x07", "\ufffd")
    assert learnt == ["trained on", "special token trained on", f"{shown} yes", "<|end|>", "c", "<|end|>"]
    legend = ["special token", "special token trained on"]
    row = ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
    assert [data for data in special if data.strip()] == [*legend, *row, *row]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["preview", "alpaca", "--html", "page.txt"], 2, "expected a name that ends in .html"),
        (["preview", "alpaca", "data.max_seq=3"], 2, "unknown key in section data"),
        (["preview", "alpca"], 2, "did you mean alpaca?"),
        (["check", "none.jsonl"], 3, "does not exist"),
        (["check", "recipe.csv"], 3, "expected JSON lines"),
    ],
)
def test_mistakes(args: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", *args]) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("args", [["preview", "alpaca", "--rows", "-1"], ["preview"], ["check"], ["chek", "x"]])
def test_a_wrong_command_line_is_status_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", *args])
    assert stopped.value.code == 2
    assert "usage: neuralbot data" in capsys.readouterr().err


def test_without_a_verb_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data"]) == 0
    out = capsys.readouterr().out
    assert "preview" in out and "check" in out


@pytest.mark.parametrize("args", [["--help"], ["preview", "--help"], ["check", "--help"]])
def test_help_is_light(args: list[str]) -> None:
    code = (
        "import sys\nfrom neuralbot.cli import main\n"
        f"try: main(['data', *{args!r}])\nexcept SystemExit as done: assert done.code == 0\n"
        "assert not {'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: neuralbot data" in done.stdout


# --- check ---

GOOD = '{"prompt": "a ->", "completion": " b\\n"}\n'


def test_check_says_each_problem_and_repairs_into_a_new_file(tmp_path: Path) -> None:
    path, target = tmp_path / "t.jsonl", tmp_path / "new.jsonl"
    path.write_text(f'{GOOD}{{"prompt": "c ->", "completion": "d\\n"}}\nnothing\n{GOOD}')
    before = path.read_bytes()
    done = command("data", "check", path)
    lines = done.stdout.splitlines()
    assert done.returncode == 3 and done.stderr == ""
    assert lines[0].startswith(f"{path}:3:1: invalid JSON: ")
    assert lines[1:3] == [
        f"{path}:2: the completion does not begin with a space: 'd\\n'", f"{path}:4: the same as line 1",
    ]  # fmt: skip
    assert lines[3] == f"{path}: 4 rows, prompts with completions"
    assert cells(done.stdout, "not a JSON object") == ["1", "by", "hand"]
    assert cells(done.stdout, "row stands twice") == ["1", "row", "left", "out"]
    assert lines[-1] == "problems that --repair OUT.jsonl repairs: 2; left to a person: 1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl"]
    done = command("data", "check", path, "--repair", target)
    assert done.returncode == 3  # the line that is no JSON is left to a person
    assert done.stdout.splitlines()[-1] == (
        f"wrote {target}: 2 of 4 rows, 1 repaired, 2 left out; problems left to a person: 1"
    )
    assert target.read_text() == GOOD + '{"prompt": "c ->", "completion": " d\\n"}\n'
    assert path.read_bytes() == before
    done = command("data", "check", target)
    assert done.returncode == 0
    assert f"{target}: 2 rows, prompts with completions; no problems" in done.stdout


def test_a_file_with_nothing_left_to_a_person_is_status_0_when_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "t.jsonl", tmp_path / "new.jsonl"
    path.write_text(GOOD + GOOD + '{"prompt": "c ->", "completion": " d\\n"}\n')
    assert cli.main(["data", "check", str(path)]) == 3
    assert cli.main(["data", "check", str(path), "--repair", str(target)]) == 0
    assert cli.main(["data", "check", str(path), "--repair", str(target)]) == 2
    assert "exists already: name a new file" in capsys.readouterr().err
    assert cli.main(["data", "check", str(target), "--repair", str(tmp_path / "third.jsonl")]) == 0
    assert f"nothing to repair: {tmp_path / 'third.jsonl'} is not written" in capsys.readouterr().out
    assert not (tmp_path / "third.jsonl").exists()
    assert cli.main(["data", "check", str(target), "--format", "chat"]) == 3


def test_problems_of_one_kind_are_listed_up_to_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{x} ->", "completion": f"{x}\n"}) + "\n" for x in range(13)))
    assert cli.main(["data", "check", str(path)]) == 3
    out = capsys.readouterr().out
    assert out.count("does not begin with a space") == 10
    assert "... and 3 more: completion without a space before it\n" in out


def test_a_terminal_that_knows_no_unicode_gets_question_marks(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "a ->", "completion": "größer\\n"}\n' + GOOD, encoding="utf-8")
    line = [sys.executable, "-m", "neuralbot", "data", "check", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=250)
    assert (done.returncode, done.stderr) == (3, "")
    assert "'gr??er\\n'" in done.stdout


def test_texts_of_rows_are_text_in_the_terminal_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "[bold]a \\u001b[31m ->", "completion": "[bold]b\\n"}\n' + GOOD)
    assert cli.main(["data", "check", str(path)]) == 3
    out = capsys.readouterr().out
    assert "with a space: '[bold]b\\n'" in out and "\x1b[31m" not in out
