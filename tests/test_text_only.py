"""A torchvision that would break transformers is hidden, and no other."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SHOWN = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stdout)
import neuralbot
from importlib.util import find_spec
print(find_spec("torchvision") is None, "torch" in sys.modules)
"""


def shown(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("vision", "wants", "torch", "why"),
    [
        ("0.28.0", "2.13.0", "2.13.0+cpu", "torchvision 0.28.0 is not for torch 2.13.0+cpu"),
        ("0.27.0+cpu", "2.12.0", "2.13.0+cpu", "torchvision 0.27.0+cpu is for torch 2.12.0, not for 2.13.0+cpu"),
        ("0.28.0+cpu", "2.13.0", "2.13.0+cpu", None),
        ("0.28.0", "2.13.0", "2.13.0", None),
        ("0.28.0", "2.13.0", "2.13.0+cu130", None),
    ],
)
def test_one_that_was_not_built_for_this_torch(
    tmp_path: Path, vision: str, wants: str, torch: str, why: str | None
) -> None:
    for name, number in {"torchvision": vision, "torch": torch}.items():
        info = tmp_path / f"{name}-{number}.dist-info"
        info.mkdir()
        requires = f"Requires-Dist: torch=={wants}\n" if name == "torchvision" else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{requires}")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    told = [f"torchvision is hidden from this process, where it would break transformers: {why}"] if why else []
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SHOWN}"
    assert shown(program) == [*told, f"{why is not None} False"]


@pytest.mark.skipif(not find_spec("torchvision") and "torchvision" not in sys.modules, reason="no torchvision")
@pytest.mark.parametrize("first", ["neuralbot", "neuralbot.transformers", "neuralbot.training.build"])
def test_the_trainer_can_be_imported_beside_the_one_that_is_installed(first: str) -> None:
    assert shown(f"import {first}\nfrom transformers import Trainer\nprint(Trainer.__name__)") == ["Trainer"]
