"""Scripts of ITREX find our modules under the old names, in the process of compat only."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from neuralbot import compat
from neuralbot.old_imports import OLD, todays_module

SCRIPT = """\
import json, sys
from pathlib import Path
import intel_extension_for_transformers.neural_chat.config as old
import intel_extension_for_transformers
import neuralbot.neural_chat.config as new
import neuralbot.neural_chat
from intel_extension_for_transformers.neural_chat.utils.error_utils import get_latest_error
from intel_extension_for_transformers.neural_chat.errorcode import ErrorCodes
from intel_extension_for_transformers.neural_chat.plugins import register_plugin
from intel_extension_for_transformers.neural_chat.prompts import PromptTemplate
from intel_extension_for_transformers.transformers import WeightOnlyQuantConfig, AMPConfig, RtnConfig
from neuralbot.transformers import TrainingArguments as ours
from transformers import TrainingArguments
from transformers.training_args import TrainingArguments as again
assert old is new and intel_extension_for_transformers.neural_chat is neuralbot.neural_chat
assert new.__spec__.name == new.__name__ == "neuralbot.neural_chat.config"
assert WeightOnlyQuantConfig is RtnConfig and get_latest_error() is None
assert TrainingArguments is again is ours
assert __name__ == "__main__" and Path(__file__).name == "script.py"
import beside
for name in ("langchain", "neural_chat.pipeline"):
    try:
        __import__("intel_extension_for_transformers." + name)
    except ModuleNotFoundError as error:
        print(error)
print(json.dumps(sys.argv))
"""


ROOT = Path(__file__).parents[1]


def test_a_script_finds_our_modules_under_the_old_names(tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    (tmp_path / "at" / "script.py").write_text(SCRIPT)
    (tmp_path / "at" / "beside.py").write_text("")
    line = [sys.executable, "-m", "neuralbot.compat", "at/script.py", "--device", "cpu", "-x"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *(
            f"neuralbot offers no {OLD}.{name}; what it offers stands in docs/neural_chat.md"
            for name in ("langchain", "neural_chat.pipeline")
        ),
        '["at/script.py", "--device", "cpu", "-x"]',
    ]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose scripts run in this process, which keeps its own names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(compat, "install", lambda: None)
    return tmp_path


def test_an_error_of_neuralbot_is_one_message_with_the_line_of_the_script(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "script.py").write_text(
        "from neuralbot import build_chatbot, PipelineConfig\n\nbuild_chatbot(PipelineConfig('/no/model'))\n"
    )
    assert compat.main(["script.py"]) == 4
    said = capsys.readouterr().err
    assert said.startswith("error: script.py:3: there is no folder /no/model") and "Traceback" not in said


def test_an_error_of_the_script_keeps_its_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "script.py").write_text("import sys\n\n1 / 0\n")
    assert compat.main(["script.py"]) == 1
    said = capsys.readouterr().err
    assert 'File "script.py", line 3' in said and "ZeroDivisionError" in said


def test_the_exit_status_of_the_script_is_kept(here: Path) -> None:
    (here / "script.py").write_text("raise SystemExit(7)\n")
    with pytest.raises(SystemExit) as ended:
        compat.main(["script.py"])
    assert ended.value.code == 7


def test_a_script_that_is_not_there_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compat.main(["none.py"]) == 2
    assert capsys.readouterr().err == "error: none.py: no such script\n"


def test_the_old_names_are_there_in_compat_only() -> None:
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{OLD}'"):
        import_module(OLD)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OLD, "neuralbot"),
        (f"{OLD}.neural_chat.chatbot", "neuralbot.neural_chat.chatbot"),
        (f"{OLD}.transformers", "neuralbot.transformers"),
        (f"{OLD}.cli", None),
        (f"{OLD}.neural_chat.config.x", None),
        (f"{OLD}.neural_chat.server.neuralchat_server", "neuralbot.neural_chat.server.neuralchat_server"),
    ],
)
def test_the_module_of_an_old_name(old: str, new: str | None) -> None:
    assert todays_module(old) == new
