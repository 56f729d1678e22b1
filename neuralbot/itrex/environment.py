"""The environment of the genuine package: a virtual environment of its own, apart from ours.

It stands in XDG_CACHE_HOME/neuralbot/itrex-1.4.2; `neuralbot itrex setup` makes it from requirements.txt, here.

Does not: run anything in it but a check that it imports (`process` does).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from neuralbot.errors import ResourceError, UsageError

VERSION = "1.4.2"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
WARNING = (
    "intel-extension-for-transformers and intel-extension-for-pytorch are archived, and what they need is of 2024: "
    "known security holes stay open. Use them to reproduce old results, with models and data that you trust."
)
_NEEDED_BYTES = 10 * 2**30
_CHECK = "import intel_extension_for_transformers.neural_chat.chatbot, intel_extension_for_pytorch"
_READY = "ready"  # a file with the digest of the requirements that were installed


def folder() -> Path:
    """Where the environment is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache) / "neuralbot" / f"itrex-{VERSION}"


def python() -> Path:
    """The interpreter of the environment. Raises UsageError if it is not ready."""
    if not is_ready():
        raise UsageError(f"{folder()} holds no environment for the engine itrex; make it with `neuralbot itrex setup`")
    return _interpreter()


def is_ready() -> bool:
    """Whether setup has come to its end with the requirements of today."""
    ready = folder() / _READY
    return ready.is_file() and ready.read_text(encoding="utf-8") == _digest()


def setup(interpreter: str | None, say: Callable[[str], None]) -> None:
    """Make the environment, or finish one that was begun. Raises UsageError and ResourceError.

    interpreter: a Python 3.11; None: the one that runs, or `python3.11`.
    """
    if is_ready():
        say(f"{folder()} is ready")
        return
    found = interpreter or _python_3_11()
    _check_version(found)
    folder().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(folder().parent).free
    if free < _NEEDED_BYTES and not _interpreter().exists():
        raise ResourceError(
            f"{folder().parent} has {free / 2**30:.1f} GiB left; the environment takes 7, and 3 to install"
        )
    say(f"installing {len(requirements())} packages, about 8 GB, into {folder()}")
    _run([found, "-m", "venv", str(folder())])
    _run([str(_interpreter()), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)])
    say("importing them for the first time")
    _run([str(_interpreter()), "-c", _CHECK])
    (folder() / _READY).write_text(_digest(), encoding="utf-8")
    say(f"{folder()} is ready")


def requirements() -> list[str]:
    """What is installed, as `name==version`."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _interpreter() -> Path:
    return folder() / "bin" / "python"


def _digest() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def _python_3_11() -> str:
    found = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if not found:
        raise UsageError("the package needs Python 3.11, which is not here; install it, or name it with --python FILE")
    return found


def _check_version(interpreter: str) -> None:
    command = [interpreter, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    try:
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{interpreter} does not run: {error}; name a Python 3.11 with --python FILE") from error
    if version != "3.11":
        raise UsageError(
            f"{interpreter} is Python {version}; the package has wheels for 3.11: name one with --python FILE"
        )


def _run(command: Sequence[str]) -> None:
    """Run a step of the setup; its output is the user's to see."""
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        step = " ".join(command[1:4])
        raise ResourceError(
            f"the step `{step}` ended with status {error.returncode}; mend what it says above and run `neuralbot itrex "
            "setup` again: it goes on from there"
        ) from error
