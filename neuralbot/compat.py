"""`python -m neuralbot.compat script.py [args]` runs a script of ITREX as it is.

In this process `intel_extension_for_transformers.neural_chat` and `.transformers` are ours, and
`transformers.TrainingArguments` takes the arguments of 2024. Nothing is installed or written for it.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from neuralbot.command import run
from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.old_imports import OLD, todays_module


class _Alias(Loader):
    """Gives the module of today under its old name."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importing has put that of the old name in its place


class OldNames(MetaPathFinder):
    """Finds the old import names."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != OLD:
            return None
        new = todays_module(fullname)
        if new is None:
            message = f"neuralbot offers no {fullname}; what it offers stands in docs/neural_chat.md"
            raise ModuleNotFoundError(message, name=fullname)
        module = importlib.import_module(new)
        return ModuleSpec(fullname, _Alias(module), is_package=hasattr(module, "__path__"))


def install() -> None:
    """Make the old names importable in this process, from now on."""
    from neuralbot.transformers import TrainingArguments

    sys.meta_path.insert(0, OldNames())
    for name in ("transformers", "transformers.training_args"):
        # As it is now: transformers puts another module in its own place while its parts are first imported.
        sys.modules[name].TrainingArguments = TrainingArguments  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m neuralbot.compat", description="Run a script that was written for ITREX, unchanged."
    )
    parser.add_argument("script", help="a Python script that imports intel_extension_for_transformers")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")
    options = parser.parse_args(argv)
    return run(lambda: _run(Path(options.script), options.arguments), debug=False)


def _run(script: Path, arguments: list[str]) -> int:
    if not script.is_file():
        raise UsageError(f"{script}: no such script")
    install()
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.parent.resolve())
    try:
        runpy.run_path(str(script), run_name="__main__")
    except NeuralbotError as error:
        error.args = (f"{_place(error, script)}{error}",)
        raise
    except Exception:  # of the script itself: its author wants the traceback
        traceback.print_exc()
        return 1
    return 0


def _place(error: NeuralbotError, script: Path) -> str:
    """`script.py:12: `, the line of the script that led to the error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(script)]
    return f"{script}:{lines[-1]}: " if lines else ""


if __name__ == "__main__":
    sys.exit(main())
