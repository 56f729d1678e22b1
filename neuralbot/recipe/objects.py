"""A recipe from Python objects in place of YAML, through the same checks; arguments of transformers 4 by today's names.

A problem or notice names the class and the field: `DataArguments: train_file: no such file ...`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from neuralbot.errors import RecipeError
from neuralbot.recipe import old_keys
from neuralbot.recipe.document import Entry, Node
from neuralbot.recipe.draft import Draft, Place, Setting
from neuralbot.recipe.loading import Recipe, all_fields, checked

# Section -> what its settings are called in Python.
_OWNERS = {
    "model": "ModelArguments",
    "data": "DataArguments",
    "finetuning": "FinetuningArguments",
    "training": "TrainingArguments",
    "evaluation": "evaluation",
}


def from_objects(
    sections: Mapping[str, Mapping[str, Any]], *, source: str, default_output: str, notices: Sequence[str] = ()
) -> Recipe:
    """The recipe of the given values: section -> name -> value. `source` is what messages call it.

    Raises RecipeError with all problems.
    """
    draft = Draft(all_fields(), source, "the configuration")
    draft.notices += notices
    for section, values in sections.items():
        draft.note_section(section, Place(_OWNERS[section], 0))
        for name, value in values.items():
            setting = old_keys.translate(draft, _setting(section, name, value))
            if setting is not None:
                draft.settings[setting.key] = setting
    draft.notices = list(dict.fromkeys(draft.notices))
    return checked(draft, source, folder=Path.cwd(), default_output=default_output)


def in_todays_names(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Arguments of a TrainingArguments of transformers 4 under their names of today, and a notice for each change.

    Raises RecipeError for those that cannot be honoured.
    """
    draft = Draft(all_fields(), "TrainingArguments")
    translated: dict[str, Any] = {}
    for name, value in arguments.items():
        old = _setting("training", name, value)
        new = old_keys.translate(draft, old)
        if new is not None:
            translated[new.key.partition(".")[2]] = value if new is old else new.node.value
    if found := draft.problems():
        raise RecipeError(found, "TrainingArguments")
    return translated, tuple(draft.notices)


def _setting(section: str, name: str, value: Any) -> Setting:
    return Setting(f"{section}.{name}", _node(value), Place(_OWNERS[section], 0), name)


def _node(value: Any) -> Node:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, list | tuple):
        return Node([_node(item) for item in value])
    if isinstance(value, Mapping):
        return Node({str(key): Entry(0, _node(item)) for key, item in value.items()})
    if not isinstance(value, bool | int | float | None):
        value = os.fspath(value) if isinstance(value, str | os.PathLike) else repr(value)
    return Node(value, text=str(value).lower() if isinstance(value, bool) else str(value))
