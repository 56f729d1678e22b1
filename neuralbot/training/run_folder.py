"""The run folder: made when a run begins, held by a lock while it lasts, complete enough to repeat the run.

    recipe.yaml     the resolved recipe              metrics.jsonl  one record a line, as training logs them
    manifest.json   see below                        results.json   scores before and after
    serving.json    how the result answers           samples.jsonl  test questions with both answers
    rejects.jsonl   rows that were skipped, if any, with what is wrong with them

manifest.json: `neuralbot`, `commit`, `commit_dirty`, `versions`, `started`, `stage` (the last one entered), `ended`,
`finished`, `error` and `durations_s` are written here. The caller adds what it knows; reports and the benchmark table
read `name`, `task`, `method` ("full", or what finetuning.peft says), `base_bits`, `base_model` {name, license,
parameters, weights_sha256}, `trainable_parameters`, `prompt_style`, `data` {fingerprint, rows {train, validation,
test}, tokens {train, targets}, lengths, skipped_rows, sources, streamed}, `hardware`, `plan` {dtype, threads, device},
`kernels`, `kernels_reason`, `energy` {joules, counters, why}, `peak_memory_bytes`, `seed`, `notices`; who watches a run
reads `steps` and `logging_steps`. A key that is missing is left out there.

Not done here: the model's own files, what is told of a run (`report`); how files are written safely (`records`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from neuralbot.errors import RunFolderError
from neuralbot.training.provenance import environment
from neuralbot.training.records import cannot_write, hide_secrets, json_line, write_json, write_text

RECIPE, MANIFEST, METRICS = "recipe.yaml", "manifest.json", "metrics.jsonl"
RESULTS, SAMPLES, SERVING, REJECTS = "results.json", "samples.jsonl", "serving.json", "rejects.jsonl"

PREPARING, TRAINING = "preparing", "training"  # the stages that are more than a title

_LOCK = ".lock"


class RunFolder:
    """A run folder that this process writes; the lock is held until `close`. Made by `create`.

    `notices` says what had to be moved to make room.
    """

    def __init__(self, path: Path, lock: int, manifest: dict[str, Any], notices: tuple[str, ...]) -> None:
        self.path = path
        self.notices = notices
        self._lock = lock
        self._manifest = manifest
        self._metrics: TextIO | None = None

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one record to metrics.jsonl; it is on its way to the disk when this returns."""
        try:
            if self._metrics is None:
                self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
            self._metrics.write(json_line(record))
            self._metrics.flush()
        except OSError as error:
            raise cannot_write(self.path / METRICS, error) from error

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.path / RESULTS, results)

    def write_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_text(self.path / SAMPLES, "".join(json_line(row) for row in rows))

    def write_rejects(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the rows that were skipped; without any there is no file."""
        if text := "".join(json_line(row) for row in rows):
            write_text(self.path / REJECTS, text)

    def add_notice(self, notice: str) -> None:
        self.update_manifest(notices=(*self._manifest["notices"], notice))

    def update_manifest(self, **facts: Any) -> None:
        """Sets or replaces keys of the manifest."""
        self._manifest |= facts
        write_json(self.path / MANIFEST, self._manifest)

    def enter(self, stage: str, **facts: Any) -> None:
        """Notes which stage begins, for whoever looks on, with other keys of the manifest that are known by then."""
        self.update_manifest(stage=stage, **facts)

    def finish(self, durations_s: Mapping[str, float]) -> None:
        """Marks the run as finished, with the seconds of each of its stages."""
        self.update_manifest(finished=True, ended=_now(), durations_s=dict(durations_s))

    def close(self) -> None:
        """Gives the folder free; nothing may be written afterwards."""
        if self._metrics is not None:
            self._metrics.close()
        if self._lock >= 0:
            _unlock(self._lock, self.path)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is not None and not self._manifest["finished"]:
                self._note_failure(error)
        finally:
            self.close()

    def _note_failure(self, error: BaseException) -> None:
        try:
            self.update_manifest(ended=_now(), error=f"{type(error).__name__}: {error}")
        except RunFolderError as second:  # a full disk, most likely: the first error is the one to see
            error.add_note(str(second))


def create(
    path: Path,
    *,
    recipe_text: str,
    manifest: Mapping[str, Any],
    serving: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> RunFolder:
    """Makes and locks the folder and writes recipe.yaml, manifest.json and serving.json.

    A folder that is not empty is refused; with `overwrite`, an old run folder is moved to `<name>.old-N`.
    Raises RunFolderError, also when another run holds the folder (its process id is named).
    """
    try:
        lock, aside = _claim(path, overwrite)
    except OSError as error:
        raise cannot_write(path, error) from error
    notices = (f"{path} was there already: moved to {aside}",) if aside else ()
    said = tuple(manifest.get("notices", ())) + notices
    content = {**environment(), **manifest, "notices": said, "started": _now(), "stage": PREPARING, "finished": False}
    folder = RunFolder(path, lock, content, notices)
    try:
        write_text(path / RECIPE, hide_secrets(recipe_text))
        folder.update_manifest()
        if serving is not None:
            write_json(path / SERVING, serving)
    except BaseException:
        folder.close()
        raise
    return folder


def check(path: Path, *, overwrite: bool = False) -> None:
    """Raises RunFolderError if `create` would refuse the folder; writes nothing. For before the long preparations."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file; expected a folder for the run: choose another with --output-dir")
    if not _entries(path):
        return
    _refuse_if_held(path)
    if not overwrite:
        raise RunFolderError(_not_empty(path))
    if not (path / MANIFEST).is_file():
        raise RunFolderError(
            f"{path} is not empty and is no run folder (it has no {MANIFEST}), so it is not moved aside; "
            "choose another folder with --output-dir"
        )


def _claim(path: Path, overwrite: bool) -> tuple[int, Path | None]:
    """The lock on an empty folder at `path`, and where the old folder went."""
    check(path, overwrite=overwrite)
    path.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    if not _entries(path):
        return lock, None
    if not overwrite:  # another run was quicker
        _unlock(lock, path)
        raise RunFolderError(_not_empty(path))
    aside = _free_name(path)
    path.rename(aside)
    path.mkdir()
    fresh = _take_lock(path)
    _unlock(lock, aside)
    return fresh, aside


def _entries(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name != _LOCK) if path.is_dir() else []


def _not_empty(path: Path) -> str:
    names = _entries(path)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"the run folder {path} is not empty (it holds {', '.join(names[:3])}{more}); expected a new or empty folder: "
        "choose another with --output-dir, or move the old run aside with training.overwrite_output_dir=true"
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return aside


def _take_lock(path: Path) -> int:
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _flock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _flock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held(descriptor, path) from None
    if not _is_at(descriptor, path / _LOCK):  # between opening and locking, another run moved or finished the folder
        raise RunFolderError(f"the run folder {path} was changed by another run at the same moment; start again")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _refuse_if_held(path: Path) -> None:
    try:
        descriptor = os.open(path / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _held(descriptor, path) from None
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool | None:
    """Whether a process is writing the run folder, wherever it runs; None where locks cannot be asked."""
    try:
        _refuse_if_held(path)
    except RunFolderError:
        return True
    except OSError:
        return None
    return False


def _held(descriptor: int, path: Path) -> RunFolderError:
    holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
    return RunFolderError(
        f"the run folder {path} is being written by another run (process {holder}); "
        "wait until it has ended, or choose another folder with --output-dir"
    )


def _unlock(descriptor: int, path: Path) -> None:
    (path / _LOCK).unlink(missing_ok=True)  # while it is still locked, so that nobody holds a removed lock
    os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
