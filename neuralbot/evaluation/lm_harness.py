"""Tasks of lm-evaluation-harness, run in this process on a model that is loaded already.

A task is the name of one of the harness's own (their rows come from the hub), or the path of a task file (.yaml),
whose rows may be local. Such a file can name Python functions, as the harness allows: run only files that you trust.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INSTALL = "pip install 'neuralbot[eval]'"
_RENAMED = {"truthfulqa_mc": ("truthfulqa_mc1", "truthfulqa_mc2")}
_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Tasks:
    """Tasks that exist. names: as the harness knows them. notices: names of earlier days that were translated."""

    names: tuple[str, ...]
    manager: Any
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class HarnessResult:
    """scores: task -> measure -> value, with `<measure>_stderr`. versions: of the tasks. samples: a row each."""

    scores: dict[str, dict[str, float]]
    versions: dict[str, Any]
    samples: list[dict[str, Any]]

    def describe(self) -> list[str]:
        """One line for each task."""
        return [f"{task}: {', '.join(_measures(found))}" for task, found in self.scores.items()]


def find(tasks: Sequence[str]) -> Tasks:
    """The tasks that these names and files stand for. Raises ResourceError without the harness, UsageError."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ResourceError(f"lm-evaluation-harness is not installed: {INSTALL}")
    names: list[str] = []
    folders, notices = [], []
    for task in tasks:
        if task in _RENAMED:
            names += _RENAMED[task]
            notices.append(f"the task {task} is called {' and '.join(_RENAMED[task])} today: these are run")
        elif task.endswith((".yaml", ".yml")):
            names.append(_name_in(Path(task)))
            folders.append(str(Path(task).resolve().parent))
        else:
            names.append(task)
    manager = _manager(folders, own=any(not task.endswith((".yaml", ".yml")) for task in tasks))
    for name in names:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; `lm_eval ls tasks` lists them"
            raise UsageError(f"lm-evaluation-harness has no task {name!r}{hint}")
    return Tasks(tuple(dict.fromkeys(names)), manager, tuple(notices))


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Tasks,
    *,
    batch_size: int,
    limit: int | None = None,
    seed: int = 0,
) -> HarnessResult:
    """Runs the tasks. limit: rows of each. Raises DataError for rows that cannot be had."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    _quiet()
    device = str(model.device)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device)
    try:
        found = simple_evaluate(
            harness,
            tasks=list(tasks.names),
            task_manager=tasks.manager,
            limit=limit,
            bootstrap_iters=_BOOTSTRAP,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except OSError as error:  # of the hub's client and of files alike
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"the rows of {', '.join(tasks.names)} cannot be had: {reason}") from error
    assert found is not None  # None: another rank of a distributed run
    samples = [
        {"task": task, **{key: row.get(key) for key in ("doc", "target", "arguments", "filtered_resps")}}
        | {name: row[name] for name in row["metrics"]}
        for task, rows in found["samples"].items()
        for row in rows
    ]
    return HarnessResult(_scores(found["results"]), dict(found["versions"]), samples)


def _scores(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Numbers only; the harness writes `acc,none` for the measure acc under the filter none."""
    return {
        task: {
            key.removesuffix(",none"): float(value)
            for key, value in found.items()
            if "," in key and isinstance(value, int | float)
        }
        for task, found in results.items()
    }


def _measures(found: dict[str, float]) -> list[str]:
    return [
        f"{name} {value:.3f}" + (f" (standard error {found[error]:.3f})" if (error := _error_of(name)) in found else "")
        for name, value in found.items()
        if "_stderr" not in name
    ]


def _error_of(name: str) -> str:
    measure, comma, kind = name.partition(",")
    return f"{measure}_stderr{comma}{kind}"


def _manager(folders: Sequence[str], *, own: bool) -> Any:
    """own: whether the harness's own tasks are needed; to look them all up takes seconds."""
    from lm_eval.tasks import TaskManager

    _quiet()
    return TaskManager(include_path=list(folders) or None, include_defaults=own)


def _name_in(path: Path) -> str:
    """The name that a task file gives itself. Raises UsageError."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads the harness's own tags as nothing: only the name is wanted."""

    Loader.add_multi_constructor("!", lambda loader, tag, node: None)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506  # a SafeLoader
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the task file {path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    name = content.get("task") if isinstance(content, dict) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"the task file {path} has no name: expected a line such as `task: my_task`")
    return name


def _quiet() -> None:
    """Warnings only: the harness tells each step."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
