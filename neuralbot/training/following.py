"""A run looked at from another process while it goes on: its stage, and what metrics.jsonl says so far.

Only reads. Whether the run's process is still there is known from its lock on the folder, not from a process id: that
holds from another container or machine too. Runs of older versions have no stage, no tokens and no memory: those are
left out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from neuralbot.errors import RunFolderError, UsageError
from neuralbot.progress import Pace, Speed
from neuralbot.training.records import read_json
from neuralbot.training.run_folder import MANIFEST, METRICS, TRAINING, is_held

FINISHED, FAILED, STOPPED, GONE = "finished", "failed", "stopped by the user", "gone"
ENDED = (FINISHED, FAILED, STOPPED, GONE)
_SHOWN = ("loss", "eval_loss", "learning_rate", "tokens_per_s", "memory_gb")


class Curve:
    """Points of a curve, thinned by means where there are too many to draw."""

    def __init__(self, most: int = 4096) -> None:
        self.points: list[tuple[float, float]] = []
        self._most, self._each = most, 1
        self._waiting: list[tuple[float, float]] = []

    def add(self, x: float, y: float) -> None:
        self._waiting.append((x, y))
        if len(self._waiting) < self._each:
            return
        self.points.append(_mean(self._waiting))
        self._waiting = []
        if len(self.points) == self._most:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points, self._each = [_mean(pair) for pair in pairs], 2 * self._each


def _mean(points: Any) -> tuple[float, float]:
    xs, ys = zip(*points, strict=True)
    return sum(xs) / len(xs), sum(ys) / len(ys)


class Metrics:
    """What metrics.jsonl says up to its last whole line.

    latest: the newest of each value; tokens_per_s is that of the last half minute of steps, evaluation left out.
    unread: lines that are not what a run writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest: dict[str, float] = {}
        self.losses = Curve()
        self.step = self.unread = 0
        self.changed = 0.0  # when the file was written last, in the time of its machine
        self._place = 0
        self._pace, self._speed = Pace(), TrainingSpeed()

    def read(self) -> None:
        """Takes in what was added; a half-written last line waits for its end."""
        for line in self._new_lines():
            try:
                record = json.loads(line)
                self._add({name: value for name, value in record.items() if type(value) in (int, float)})
            except (ValueError, AttributeError):
                self.unread += 1

    def left(self, total: int) -> float | None:
        """Seconds of training left at the last value that was logged."""
        return self._pace.left(total)

    def _new_lines(self) -> Iterator[bytes]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            self.changed = os.fstat(file.fileno()).st_mtime
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                yield line

    def _add(self, record: dict[str, float]) -> None:
        self.step = int(record.get("step", self.step))
        self.latest |= {name: record[name] for name in _SHOWN if name in record}
        speed = self._speed.add(record)
        if "loss" not in record:
            return
        self.losses.add(self.step, record["loss"])
        if "time_s" in record:
            self._pace.add(self.step, record["time_s"])
        if speed is not None:
            self.latest["tokens_per_s"] = speed


class TrainingSpeed:
    """Tokens a second of the last half minute of steps, from the records of metrics.jsonl; evaluation is left out."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._told = (0.0, 0.0)  # tokens and seconds at the last loss
        self._evaluating = 0.0  # seconds since then

    def add(self, record: Mapping[str, float]) -> float | None:
        """The speed at one more record; None if it tells none."""
        if record.get("step"):  # an evaluation before the first step is before the clock starts
            self._evaluating += record.get("eval_runtime", 0.0)
        if not {"loss", "time_s", "tokens"} <= record.keys():
            return None
        tokens, seconds = record["tokens"] - self._told[0], record["time_s"] - self._told[1]
        self._told, evaluating = (record["tokens"], record["time_s"]), self._evaluating
        self._evaluating = 0.0
        return self._speed.add(int(tokens), max(seconds - evaluating, 0.0))


@dataclass(frozen=True)
class State:
    """A run at one moment. stage: one of ENDED, or what the run does now."""

    manifest: dict[str, Any]
    stage: str
    metrics: Metrics

    @property
    def steps(self) -> int | None:
        return self.manifest.get("steps")

    @property
    def ended(self) -> bool:
        return self.stage in ENDED

    @property
    def seconds(self) -> float:
        """Since the run began; of a run that is gone, until its last value."""
        end = self.manifest.get("ended")
        last = datetime.fromisoformat(end).timestamp() if end else time.time()
        if self.stage == GONE:
            last = self.metrics.changed
        return max(0.0, last - datetime.fromisoformat(self.manifest["started"]).timestamp())

    @property
    def left(self) -> float | None:
        """Seconds of training left, as far as they are known."""
        left = self.metrics.left(self.steps) if self.stage == TRAINING and self.steps else None
        return max(0.0, left - max(0.0, time.time() - self.metrics.changed)) if left is not None else None


class Following:
    """Looks at a run folder again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = ""
        self._metrics = Metrics(path / METRICS)

    def look(self) -> State | None:
        """How the run is now; None if there is none yet. Raises UsageError for what is no run folder."""
        held = is_held(self.path)  # before the manifest: a run that ends in between has said so there
        manifest = self._manifest(held)
        if manifest is None:
            return None
        if manifest["started"] != self._started:  # the folder was given to another run
            self._started, self._metrics = manifest["started"], Metrics(self.path / METRICS)
        self._metrics.read()
        return State(manifest, _stage(manifest, held), self._metrics)

    def _manifest(self, held: bool | None) -> dict[str, Any] | None:
        file, found = self.path / MANIFEST, {}
        try:
            found = read_json(file)
        except RunFolderError:
            if file.exists():
                raise
            if not self.path.exists() or (self.path.is_dir() and (held or not any(self.path.iterdir()))):
                return None  # not begun, or just beginning
        if "started" not in found:
            raise UsageError(f"{self.path} is no run folder; expected one that neuralbot finetune makes")
        return found


def _stage(manifest: dict[str, Any], held: bool | None) -> str:
    if manifest.get("finished"):
        return FINISHED
    if "error" in manifest:
        return STOPPED if manifest["error"].startswith("KeyboardInterrupt") else FAILED
    if held is False:
        return GONE
    return str(manifest.get("stage", "running"))
