"""`neuralbot migrate` prints a diff that patch takes, and the script then imports neuralbot only."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from neuralbot import cli
from neuralbot.errors import UsageError
from neuralbot.migrate import migrate

OLD = """\
# -*- coding: latin-1 -*-
# Gespräch mit intel_extension_for_transformers
import transformers, os
from transformers import (
    HfArgumentParser,
    TrainingArguments,
)
from intel_extension_for_transformers.neural_chat.config import (
    ModelArguments,  # the base
    DataArguments,
)
import intel_extension_for_transformers.neural_chat as chat, sys
import intel_extension_for_transformers.transformers
print("é", intel_extension_for_transformers.transformers.RtnConfig(bits=8), "intel_extension_for_transformers")
def late():
    from intel_extension_for_transformers.neural_chat import build_chatbot, PipelineConfig; x = 1
    from transformers.training_args import TrainingArguments as Arguments
    return x
"""
NEW = """\
# -*- coding: latin-1 -*-
# Gespräch mit intel_extension_for_transformers
import transformers, os
from transformers import HfArgumentParser
from neuralbot.transformers import TrainingArguments
from neuralbot.neural_chat.config import (
    ModelArguments,  # the base
    DataArguments,
)
import neuralbot.neural_chat as chat, sys
import neuralbot.transformers
print("é", neuralbot.transformers.RtnConfig(bits=8), "intel_extension_for_transformers")
def late():
    from neuralbot.neural_chat import build_chatbot, PipelineConfig; x = 1
    from neuralbot.transformers import TrainingArguments as Arguments
    return x
"""


def patched(script: Path) -> str:
    diff, _ = migrate(script)
    done = subprocess.run(
        ["patch", "-s", "-o", "-", str(script)], input=diff.encode("latin-1"), capture_output=True, check=True
    )
    return done.stdout.decode("latin-1")


def test_the_diff_makes_the_new_script(tmp_path: Path) -> None:
    script = tmp_path / "chat.py"
    script.write_bytes(OLD.encode("latin-1"))
    assert patched(script) == NEW
    assert script.read_bytes() == OLD.encode("latin-1")


def test_training_arguments_by_the_module_is_ours_too(tmp_path: Path) -> None:
    script = tmp_path / "tune.py"
    script.write_text(
        "if True:\n    import transformers, os\n    import intel_extension_for_transformers.neural_chat\n"
        "a = transformers.TrainingArguments(output_dir='x')"
    )
    assert patched(script) == (
        "if True:\n    import transformers, os\n    from neuralbot.transformers import TrainingArguments\n"
        "    import neuralbot.neural_chat\na = TrainingArguments(output_dir='x')"
    )


def test_a_script_without_itrex_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "other.py"
    script.write_text("from transformers import TrainingArguments\n")
    assert cli.main(["migrate", str(script)]) == 0
    assert capsys.readouterr() == ("", f"{script}: nothing to change\n")


def test_what_is_not_offered_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "chat.py"
    script.write_text(
        "from intel_extension_for_transformers.neural_chat import build_chatbot, chat_server\n"
        "from intel_extension_for_transformers.llm.quantization import x\n"
        "from intel_extension_for_transformers.neural_chat.utils import error_utils\n"
        "import intel_extension_for_transformers.neural_chat.pipeline.plugins\n"
    )
    assert cli.main(["migrate", str(script)]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"{script}:1: neuralbot offers no chat_server in neuralbot.neural_chat",
        f"{script}:2: neuralbot offers no intel_extension_for_transformers.llm.quantization",
        f"{script}:4: neuralbot offers no intel_extension_for_transformers.neural_chat.pipeline.plugins",
    ]
    assert "+from neuralbot.llm" not in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", b"import x\nx = (\n", r"a\.py:2: is not a Python script: '\(' was never closed"),
        ("a.py", b"\xff\xfe\x00", r"a\.py: is not a Python script: "),
        ("a.py", b"x = '\x00'", r"a\.py: is not a Python script: source code string cannot contain null bytes"),
        (
            "a.ipynb",
            b'{"cells": [], "n": null',
            r"a\.ipynb:1: is not a Python script: .*; `jupyter nbconvert --to script`",
        ),
        ("none.py", None, r"none\.py: cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_script_is_told(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        migrate(tmp_path / name)
