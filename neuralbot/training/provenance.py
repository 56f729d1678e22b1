"""What a result depends on beside the recipe: versions, the commit, the exact base weights."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from neuralbot import __version__

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """The versions that a result depends on, and the commit if neuralbot runs from its own checkout."""
    commit, dirty = _commit()
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}
    return {"neuralbot": __version__, "commit": commit, "commit_dirty": dirty, "versions": versions}


def weights_sha256(path: Path) -> dict[str, str]:
    """File name -> SHA-256 of each weight file of a local model folder; empty for anything else."""
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")]) if path.is_dir() else []
    digests = {}
    for file in files:
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that neuralbot itself lies in, and whether tracked files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's repository
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return (commit, bool(changes)) if commit and changes is not None else (commit or None, None)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
