"""The command `neuralbot`: verbs, output, exit codes, and what an import costs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import neuralbot
from neuralbot import cli, recipe
from neuralbot.errors import DataError, NeuralbotError, RecipeError, TrainingDiverged

ROOT = Path(neuralbot.__file__).parents[1]


def python(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120
    )


def cost(*args: str) -> float:
    """Processor seconds of the cheapest of three runs: they do not depend on what else the machine does."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*args).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_import_is_light_and_quick() -> None:
    assert cost("-c", "import neuralbot") < 0.15
    code = (
        "import sys, neuralbot; "
        "print({'torch', 'transformers', 'datasets', 'pydantic', 'rich', 'yaml', 'numpy'} & set(sys.modules))"
    )
    assert python("-c", code).stdout == "set()\n"


def test_help_is_light_and_quick() -> None:
    assert cost("-m", "neuralbot", "--help") < 0.4
    code = (
        "import sys\nfrom neuralbot.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as done: assert done.code == 0\n"
        "assert not {'torch', 'transformers', 'rich', 'yaml'} & set(sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    for verb in ("finetune", "chat", "recipes"):
        assert verb in done.stdout


def test_version_is_that_of_the_package() -> None:
    done = python("-m", "neuralbot", "--version")
    assert done.stdout == f"neuralbot {neuralbot.__version__}\n"
    project = ROOT / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == neuralbot.__version__


def test_public_names_are_lazy_and_unknown_ones_are_an_error() -> None:
    assert dir(neuralbot) == sorted(neuralbot.__all__)
    assert set(neuralbot._HOME) == set(neuralbot.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'finetune_modle'"):
        _ = neuralbot.finetune_modle


@pytest.mark.parametrize("args", [[], ["recipes"]])
def test_without_a_verb_help_is_printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 0
    assert "verbs:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["finetun", "alpaca"], "did you mean finetune?"),
        (["recipe"], "did you mean recipes?"),
        (["recipes", "lst"], "did you mean list?"),
        (["recipes", "validate"], "the following arguments are required: FILE"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_command_line_is_status_2(args: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    assert hint in capsys.readouterr().err


def test_list_names_every_shipped_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "list"]) == 0
    out = capsys.readouterr().out
    names = [path.stem for path in recipe.shipped_recipes()]
    assert names and all(name in out for name in names)
    assert "Answers short questions" in out


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "show", "alpaca"]) == 0
    assert capsys.readouterr().out == (recipe.shipped_root() / "recipes" / "alpaca.yaml").read_text()


def test_show_of_an_unknown_recipe_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "show", "alpca"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: the recipe has 1 problem:\n  alpca: no such recipe: looked for /")
    assert "did you mean alpaca?" in said.err


def test_validate_reports_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("model:\n  model_name_or_pth: seedling\n")
    assert cli.main(["recipes", "validate", "alpaca", str(bad), "llama2-7b-code"]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "alpaca: ok"
    assert "llama2-7b-code: ok\n" in said.out and "training.overwrite_output_dir: " in said.out
    assert said.err.startswith(f"{bad}: the recipe has 2 problems:\n")
    assert "did you mean model_name_or_path?" in said.err
    assert cli.main(["recipes", "validate", "alpaca"]) == 0


def test_schema_goes_to_stdout_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe.json_schema()
    target = tmp_path / "schema.json"
    assert cli.main(["recipes", "schema", "-o", str(target)]) == 0
    assert json.loads(target.read_text()) == recipe.json_schema()
    assert cli.main(["recipes", "schema", "-o", str(tmp_path / "no" / "schema.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_verbs_of_other_modules_read_their_own_options() -> None:
    for verb, (module, _) in cli.FORWARDED.items():
        done = python("-c", f"import {module}")
        assert done.returncode == 0, done.stderr
        done = python("-m", "neuralbot", verb, "--help")
        assert done.returncode == 0, done.stderr
        assert "usage:" in done.stdout and "--debug" in done.stdout


def test_no_color_is_honoured() -> None:
    code = "import os; os.environ.update({}); from neuralbot.cli import main; main(['recipes', 'list'])"
    assert "\x1b[3" not in python("-c", code.format({"NO_COLOR": "1", "FORCE_COLOR": "1"})).stdout


# --- run ---


def fails_with(error: BaseException, debug: bool = False) -> int:
    def command() -> None:
        raise error

    return cli.run(command, debug)


@pytest.mark.parametrize(
    ("error", "status"),
    [(NeuralbotError("x"), 1), (RecipeError([]), 2), (DataError("x"), 3), (TrainingDiverged("x"), 5)],
)
def test_run_turns_errors_into_a_message_and_a_status(
    error: NeuralbotError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails_with(error) == status
    assert capsys.readouterr().err == f"error: {error}\n"
    with pytest.raises(type(error)):
        fails_with(error, debug=True)


def test_run_of_a_bug_says_how_to_get_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails_with(KeyError("x")) == 1
    assert capsys.readouterr().err == (
        "error: KeyError: 'x'\nthis was not expected; run again with --debug for the traceback\n"
    )
    with pytest.raises(KeyError):
        fails_with(KeyError("x"), debug=True)


def test_run_returns_the_status_of_the_command() -> None:
    assert cli.run(lambda: None, debug=False) == 0
    assert cli.run(lambda: 4, debug=False) == 4


def test_ctrl_c_is_130_without_a_traceback() -> None:
    code = (
        "import sys, time; from neuralbot.cli import run\n"
        "def command(): print('ready', flush=True); time.sleep(30)\n"
        "sys.exit(run(command, debug=False))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "import sys; from neuralbot.cli import main; sys.exit(main(['recipes', 'schema']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=20)
    assert said == ""
