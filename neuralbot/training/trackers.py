"""Sends what a run logs to the trackers of training.report_to, through the integrations of transformers.

What a tracker keeps on this machine goes into the run folder (RUN/tensorboard, RUN/mlflow, RUN/trackio, RUN/wandb),
unless its own variable names another place: TENSORBOARD_LOGGING_DIR, MLFLOW_TRACKING_URI, TRACKIO_DIR, WANDB_DIR. The
command line, which may hold a token, and the console are not sent. A tracker that fails is told once and left out (but
for MLflow, whose values travel beside the training and may get through again): no training ends because of it.

The integrations are not left to themselves: they end with the training, though the held-out loss is measured once more
after it, and open with the first value, which is before the training, and wherever the process happens to stand.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from transformers import TrainerCallback

from neuralbot.errors import ResourceError
from neuralbot.recipe.rules import TRACKERS, tracker_is_installed
from neuralbot.training.trainer import Trainer

FINISH_S = 60  # how long a run waits for values that are still on their way
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class _Opened:
    """close: ends the tracking; gets whether the run failed."""

    callback: TrainerCallback
    place: str
    close: Callable[[bool], None]


class Trackers(TrainerCallback):  # type: ignore[misc]
    """Within the block, what `trainer` logs goes to the trackers that `report_to` names; they raise nothing.

    say: where values go. note: what failed.
    """

    def __init__(
        self,
        report_to: str | list[str] | None,
        trainer: Trainer,
        folder: Path,
        *,
        say: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.names = names(report_to)
        self._trainer, self._folder, self._say, self._note = trainer, folder.resolve(), say, note
        self._opened: dict[str, _Opened] = {}

    def __enter__(self) -> Self:
        args = self._trainer.args
        args.run_name = args.run_name or f"{self._folder.name}-{datetime.now():%Y%m%d-%H%M%S}"
        for name in self.names:
            try:
                self._opened[name] = _OPEN[name](self._trainer, self._folder / name)
            except Exception as error:
                self._lost(name, error)
            else:
                self._say(f"{name}: {_without_login(self._opened[name].place)}")
        self._trainer.add_callback(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._trainer.remove_callback(self)
        for name, opened in self._opened.items():
            try:
                opened.close(kind is not None)
            except Exception as second:
                self._lost(name, second)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._send("on_train_begin", *args, **kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self._send("on_log", *args, **kwargs)

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self._send("on_save", *args, **kwargs)

    def _send(self, event: str, *args: Any, **kwargs: Any) -> None:
        for name, opened in list(self._opened.items()):
            try:
                getattr(opened.callback, event)(*args, **kwargs)
            except Exception as error:
                del self._opened[name]
                self._lost(name, error)

    def _lost(self, name: str, error: Exception) -> None:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        self._note(
            f"training.report_to: {name} does not get all values: {_without_login(said)}; metrics.jsonl has them"
        )


def names(report_to: str | list[str] | None) -> list[str]:
    """The trackers that a recipe asks for; "all": those that are installed."""
    asked = [report_to] if isinstance(report_to, str) else report_to or []
    if "all" in asked:
        return [name for name in TRACKERS if tracker_is_installed(name)]
    return [name for name in asked if name != "none"]


def _without_login(text: str) -> str:
    return _LOGIN.sub("***@", text)


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Variables of the environment for the block, where they are not set."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _tensorboard(trainer: Trainer, folder: Path) -> _Opened:
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or str(folder)
    end = trainer.args, trainer.state, trainer.control
    return _Opened(callback, callback.logging_dir, lambda failed: callback.on_train_end(*end))


def _mlflow(trainer: Trainer, folder: Path) -> _Opened:
    # No word to its makers; and a server that is away is waited for some seconds, not four minutes.
    for name, value in (("DISABLE_TELEMETRY", "true"), ("HTTP_REQUEST_MAX_RETRIES", "3"), ("LOGGING_LEVEL", "WARNING")):
        os.environ.setdefault(f"MLFLOW_{name}", value)
    import mlflow
    from transformers.integrations import MLflowCallback

    own_place, own_run = not mlflow.is_tracking_uri_set(), mlflow.active_run() is None
    if own_place:
        folder.mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    callback = MLflowCallback()
    sending, unheard = logging.getLogger("mlflow.utils.async_logging.async_logging_queue"), _Counted()
    sending.addFilter(unheard)

    def close(failed: bool) -> None:
        try:
            if own_run:
                mlflow.end_run("FAILED" if failed else "FINISHED")
            if unheard.count:
                raise ResourceError(f"{unheard.count} of its messages did not get through")
        finally:
            sending.removeFilter(unheard)
            if own_place:  # or the next run of this process would go there
                mlflow.set_tracking_uri(None)

    place = mlflow.get_tracking_uri()
    try:
        callback.setup(trainer.args, trainer.state, trainer.model)
    except Exception:
        close(True)
        raise
    return _Opened(callback, place, close)


class _Counted(logging.Filter):
    """Counts what is logged instead of a line for each."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.count += 1
        return False


def _trackio(trainer: Trainer, folder: Path) -> _Opened:
    with _variables(TRACKIO_DIR=str(folder)):  # read once, when it is imported
        import trackio
    from transformers.integrations import TrackioCallback

    callback = TrackioCallback()
    callback.setup(trainer.args, trainer.state, trainer.model)
    return _Opened(callback, str(trackio.utils.TRACKIO_DIR), lambda failed: trackio.finish())


def _wandb(trainer: Trainer, folder: Path) -> _Opened:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with _variables(WANDB_DIR=str(folder.parent), WANDB_CACHE_DIR=str(folder / "cache")):
        import wandb
        from transformers.integrations import WandbCallback

        own_run = wandb.run is None
        if own_run:
            _start_wandb(trainer)
        callback = WandbCallback()
        callback.setup(trainer.args, trainer.state, trainer.model)
    place = wandb.run.dir if wandb.run.offline else wandb.run.url
    return _Opened(callback, place, lambda failed: wandb.finish(exit_code=int(failed)) if own_run else None)


def _start_wandb(trainer: Trainer) -> None:
    import wandb

    online = wandb.setup().settings.mode == "online"
    if online and not wandb.login(prompt=False):  # left to itself, it asks and waits for an answer all night
        raise ResourceError("it has no API key: run `wandb login`, or set WANDB_MODE=offline")
    private = wandb.Settings(
        console="off", disable_code=True, disable_git=True, x_disable_meta=True, finish_timeout=FINISH_S
    )
    args = trainer.args
    wandb.init(project=os.environ.get("WANDB_PROJECT", args.project), name=args.run_name, settings=private)


_OPEN: dict[str, Callable[[Trainer, Path], _Opened]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "trackio": _trackio,
    "wandb": _wandb,
}
