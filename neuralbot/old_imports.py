"""The import names of ITREX, and the module here that each stands for."""

from __future__ import annotations

from importlib.util import find_spec

OLD = "intel_extension_for_transformers"
OFFERED = ("neural_chat", "transformers")


def todays_module(name: str) -> str | None:
    """The module that an old name stands for, None if there is none: `OLD.neural_chat` -> `neuralbot.neural_chat`."""
    _, _, rest = name.partition(".")
    if rest and rest.split(".")[0] not in OFFERED:
        return None
    new = f"neuralbot.{rest}" if rest else "neuralbot"
    try:
        return new if find_spec(new) else None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return None
