"""ITREX's server by its own names: `NeuralChatServerExecutor()(config_file=...)`, and `neuralchat_server start`.

A neuralchat.yaml becomes the options of `neuralbot serve`; what it asks for and is not offered is refused by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from neuralbot.command import run
from neuralbot.errors import Problem, RecipeError, UsageError

CONFIG_FILE = "neuralchat.yaml"
TASKS = ("textchat", "codegen", "tgi")  # all are routes of the one server
_OPTIONS = {"host": "--host", "port": "--port", "device": "--device", "peft_model_path": "--adapter"}
_REQUIRED = ("host", "port", "model_name_or_path", "tasks_list")
# Keys that may stand there as long as they ask for nothing.
_NOTHING = ("use_deepspeed", "use_tpp", "plugin_as_service", "gguf_model_path", "assistant_model", "optimization")
_UNUSED = ("world_size", "master_port")  # of processes that there are none of


class NeuralChatServerExecutor:
    """Serves what a neuralchat.yaml names; the call returns when the server has ended."""

    def __call__(self, config_file: str = CONFIG_FILE, log_file: str | None = None) -> None:
        """Raises RecipeError with all that is wrong in the file, and what `neuralbot serve` raises."""
        from neuralbot.server.command import main as serve

        serve([*arguments_of(Path(config_file)), *(["--log-file", log_file] if log_file else [])])


def arguments_of(path: Path) -> list[str]:
    """The command line of `neuralbot serve` that the file stands for. Raises UsageError and RecipeError."""
    values = _read(path)
    problems = list(_problems(path, values))
    if problems:
        raise RecipeError(problems, f"{path.name}")
    given = {flag: values[key] for key, flag in _OPTIONS.items() if values.get(key)}
    return [str(values["model_name_or_path"]), *(f"{flag}={value}" for flag, value in given.items())]


def main(argv: Sequence[str] | None = None) -> int:
    """`neuralchat_server start --config_file FILE [--log_file FILE]`."""
    parser = argparse.ArgumentParser(prog="neuralchat_server", description="Serve what a neuralchat.yaml names.")
    parser.add_argument("command", choices=["start"])
    parser.add_argument("--config_file", default=CONFIG_FILE, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--log_file", metavar="FILE", help="default: standard error")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    return run(lambda: NeuralChatServerExecutor()(options.config_file, options.log_file), options.debug)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no keys: expected host, port, model_name_or_path, tasks_list")
    return values


def _problems(path: Path, values: Mapping[str, Any]) -> list[Problem]:
    found = [Problem(str(path), key, "is missing") for key in _REQUIRED if not values.get(key)]
    known = {*_OPTIONS, *_REQUIRED, *_NOTHING, *_UNUSED, "tokenizer_name_or_path"}
    for key, value in values.items():
        if key not in known:
            found.append(Problem(str(path), str(key), "is not offered: the server has no plugins; leave it out"))
        elif key in _NOTHING and value:
            found.append(Problem(str(path), key, f"{value!r} is not offered; see `neuralbot serve --help`"))
    if values.get("tokenizer_name_or_path") not in (None, "", values.get("model_name_or_path")):
        found.append(Problem(str(path), "tokenizer_name_or_path", "is not offered: a model has its own tokenizer"))
    tasks = values.get("tasks_list") or []
    for task in tasks if isinstance(tasks, list) else [tasks]:
        if task not in TASKS:
            found.append(Problem(str(path), "tasks_list", f"{task!r} is not offered: expected {', '.join(TASKS)}"))
    return found


if __name__ == "__main__":
    sys.exit(main())
