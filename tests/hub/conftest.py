"""A hub on the loopback with the names of the shipped recipes, and commands of neuralbot that know no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hub import repositories
from tests.hub.server import Hub, serving

ROOT = Path(__file__).parents[2]
TOKEN = "hf_ThisTokenMayRead"
STRANGER = "hf_ThisTokenMayNotRead"


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def message(self) -> str:
        """What it ended with."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    repositories.build(root, tiny_tokenizer)
    gated = frozenset({f"models/{repositories.LLAMA}", f"datasets/{repositories.GATED_ROWS}"})
    tokens = {TOKEN: gated, STRANGER: frozenset[str]()}
    moved = {f"datasets/{repositories.NEWS}": f"abisee/{repositories.NEWS}"}
    with serving(Hub(root, gated, tokens, moved)) as hub:
        yield hub


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HF_HOME that tests share unless they say otherwise: what one has downloaded, the next finds."""
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(scope="session")
def command(hub: Hub, home: Path) -> Command:
    """Runs `python -m MODULE ARGUMENTS` against the hub; keywords are environment variables, and None unsets one."""

    def run(module: str, *arguments: str, text: str = "", cwd: Path = ROOT, **environment: str | None) -> Ended:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "*", "HF_ENDPOINT": hub.url}
        own |= {"HF_HOME": str(home), "HF_TOKEN": TOKEN}
        env = {name: value for name, value in (kept | own | environment).items() if value is not None}
        line, start = [sys.executable, "-m", module, *arguments], time.monotonic()
        ended = subprocess.run(line, input=text, cwd=cwd, env=env, capture_output=True, encoding="utf-8", timeout=600)
        return Ended(ended.returncode, ended.stdout, ended.stderr, time.monotonic() - start)

    return run
