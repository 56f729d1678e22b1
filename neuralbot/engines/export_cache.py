"""Exported models on the disk: whole or not there, and checked before they are used.

An entry is a folder in XDG_CACHE_HOME/neuralbot/exports, named by a digest of all that it was made from, with a file
entry.json that has a digest of each other file. It is made beside its place and renamed, under a lock.

Does not: know how a model is exported (export).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from neuralbot.errors import ResourceError

MANIFEST = "entry.json"
_WAIT_S = 3600
_CHUNK = 2**22

Facts = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One exported model. facts: what its maker noted; size_bytes: of all its files."""

    folder: Path
    facts: Facts
    size_bytes: int


def cache_folder() -> Path:
    """Where entries are; made if it is not there. Raises ResourceError."""
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(root) / "neuralbot" / "exports"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ResourceError(f"the cache {folder} cannot be made: {error.strerror}; set XDG_CACHE_HOME") from error
    return folder


def recall(key: str) -> Entry | None:
    """The entry of that name if all its files are as they were written; reads all of them."""
    return intact(cache_folder() / key)


def intact(folder: Path) -> Entry | None:
    """The entry in that folder, which may be a copy elsewhere, if all its files are as they were written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        if all(digest(folder / name) == known for name, known in files.items()):
            return Entry(folder, manifest["facts"], sum((folder / name).stat().st_size for name in files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def recall_or_make(key: str, make: Callable[[Path], Facts], say: Callable[[str], None]) -> Entry:
    """The entry of that name; `make` fills an empty folder and returns the facts where there is none, or a damaged one.

    Raises ResourceError, and what `make` raises; then nothing is left behind.
    """
    place = cache_folder() / key
    with _locked(place.with_suffix(".lock"), say):
        if (entry := recall(key)) is not None:
            return entry
        if place.exists():
            say(f"the exported model {place} is damaged: it is made anew")
            shutil.rmtree(place)
        for left in place.parent.glob(f"{key}.part-*"):  # of a process that was killed; its lock is free
            shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{key}.part-", dir=place.parent))
        try:
            _seal(part, make(part))
            part.rename(place)
        except OSError as error:
            raise ResourceError(f"the exported model cannot be written to {place.parent}: {error.strerror}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    entry = recall(key)
    if entry is None:
        raise ResourceError(f"the exported model {place} does not hold what was written: check the disk")
    return entry


def entries() -> list[Entry]:
    """All entries that can be read, the one used last first; their files are not checked."""
    found = []
    for path in cache_folder().glob(f"*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(path.read_text(encoding="utf-8"))["facts"]
            found.append(Entry(path.parent, facts, sum(file.stat().st_size for file in path.parent.iterdir())))
    return sorted(found, key=lambda entry: (entry.folder / MANIFEST).stat().st_mtime, reverse=True)


def remove(entry: Entry) -> None:
    """Raises ResourceError where it cannot be removed, or is being made."""
    with _locked(entry.folder.with_suffix(".lock"), lambda _: None, wait_s=0):
        try:
            shutil.rmtree(entry.folder)
        except OSError as error:
            raise ResourceError(f"{entry.folder} cannot be removed: {error.strerror}") from error


def leftovers() -> list[Path]:
    """Folders of exports that were killed; those of an export that runs are not among them."""
    found = []
    for part in cache_folder().glob("*.part-*"):
        lock = FileLock(part.parent / f"{part.name.partition('.part-')[0]}.lock")
        with contextlib.suppress(Timeout), lock.acquire(timeout=0):
            found.append(part)
    return found


def digest(path: Path) -> str:
    """Of a file's content: for damage, not against malice."""
    import xxhash

    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _seal(folder: Path, facts: Facts) -> None:
    files = {path.name: digest(path) for path in sorted(folder.iterdir())}
    for name in files:  # the name must not be there before the content is
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    (folder / MANIFEST).write_text(json.dumps({"facts": facts, "files": files}, indent=2), encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None], wait_s: float = _WAIT_S) -> Iterator[None]:
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait_s:
                say(f"another process exports the same model: waiting for it, at most {wait_s / 60:.0f} minutes")
            lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise ResourceError(f"another process holds {path}; wait until it has ended") from error
    except OSError as error:
        raise ResourceError(f"the cache {path.parent} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
