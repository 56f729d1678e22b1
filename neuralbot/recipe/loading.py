"""A recipe file and command line overrides in, a checked Recipe out; and back to YAML; and the JSON schema.

The order: YAML (document), old names (old_keys), types and ranges (fields), what is not available (support), files
(paths), contradictions (rules). Every step adds to one report; only at the end is it raised, with all problems.
Neither torch nor transformers is imported, so a report takes well under a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from neuralbot.arguments import (
    DataArguments,
    EvaluationArguments,
    FinetuningArguments,
    ModelArguments,
    PretrainArguments,
    ServingArguments,
)
from neuralbot.errors import Problem, RecipeError
from neuralbot.recipe import document, old_keys, paths, rules, source_list, support
from neuralbot.recipe.document import Entry, Node, Unusable
from neuralbot.recipe.draft import Draft, Place, Setting
from neuralbot.recipe.fields import Field, default_of, did_you_mean, nearest, section_fields
from neuralbot.recipe.training_keys import training_fields

_CLASSES: dict[str, type[Any]] = {
    "model": ModelArguments,
    "data": DataArguments,
    "finetuning": FinetuningArguments,
    "evaluation": EvaluationArguments,
    "serving": ServingArguments,
}
T = TypeVar("T")

SECTIONS = ("model", "data", "finetuning", "training", "evaluation", "serving")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe. Two are equal if they ask for the same, wherever they were read from.

    `training` holds keys of `transformers.TrainingArguments`, as far as they were set, and always `output_dir`.
    `notices` tell what was translated or has no effect: the caller prints them and keeps them with the run.
    """

    source: str = field(compare=False)
    model: ModelArguments
    data: DataArguments
    finetuning: FinetuningArguments
    training: dict[str, Any]
    early_stopping_patience: int | None
    overwrite_output_dir: bool
    evaluation: EvaluationArguments
    serving: ServingArguments
    notices: tuple[str, ...] = field(compare=False, default=())

    @property
    def evaluates(self) -> bool:
        """Whether the evaluation loss is wanted, which needs validation rows."""
        return bool(self.training.get("do_eval") or self.training.get("eval_strategy", "no") != "no")


@cache
def all_fields() -> dict[str, dict[str, Field]]:
    """Every key a recipe may hold: section -> name -> Field."""
    found = {section: section_fields(section, cls) for section, cls in _CLASSES.items()}
    return {section: found.get(section) or training_fields() for section in SECTIONS}


def load(path_or_name: str | Path, overrides: Sequence[str] = (), *, output_dir: str | None = None) -> Recipe:
    """Read and check a recipe: a path, or the name of a shipped one. Overrides are texts `section.key=value`.

    Raises RecipeError with all problems of file and overrides. Writes nothing.
    """
    path = recipe_file(str(path_or_name))
    name = paths.as_found(path).as_posix()
    root, problems = document.read(path, name)
    draft = Draft(all_fields(), name)
    draft.report_all(problems)
    if root is None:
        raise RecipeError(draft.problems())
    _read_sections(draft, root, name)
    _read_overrides(draft, overrides, output_dir)
    return checked(draft, name, folder=path.parent, default_output=f"runs/{path.stem}")


def checked(draft: Draft, name: str, *, folder: Path, default_output: str) -> Recipe:
    """The recipe that a draft's settings make; `folder` is where files are looked for after the working directory.

    Raises RecipeError with all problems.
    """
    draft.check_types()
    support.check(draft)
    paths.check(draft, folder)
    source_list.check(draft, folder)
    rules.check(draft)
    if found := draft.problems():
        raise RecipeError(found, draft.subject)
    return _recipe(draft, name, default_output=default_output)


def validate(path_or_name: str | Path) -> tuple[str, ...]:
    """Check a recipe of either kind, for finetuning or for pretraining, and return its notices. Raises RecipeError."""
    path = recipe_file(str(path_or_name))
    root, _ = document.read(path, str(path))
    if root is not None and isinstance(root.value, dict) and set(root.value) == {"pretraining"}:
        load_section(path, "pretraining", PretrainArguments)
        return ()
    return load(path_or_name).notices


def load_section(path: str | Path, section: str, cls: type[T]) -> T:
    """Read a file that holds one section of another kind, as strictly: its keys are the fields of the dataclass `cls`.

    Raises RecipeError with all problems.
    """
    file = Path(path)
    root, problems = document.read(file, str(path))
    draft = Draft({section: section_fields(section, cls)}, str(path))
    draft.report_all(problems)
    if root is not None:
        _read_sections(draft, root, str(path))
        draft.check_types()
        for item in dataclasses.fields(cls):  # type: ignore[arg-type]
            key = f"{section}.{item.name}"
            if item.default is item.default_factory is dataclasses.MISSING and key not in draft.settings:
                draft.report(draft.place(key), key, "is missing")
    if found := draft.problems():
        raise RecipeError(found)
    return cls(**{key.partition(".")[2]: value for key, value in draft.values.items()})


def recipe_file(text: str) -> Path:
    """The file of a recipe given as a path or as the name of a shipped one. Raises RecipeError if there is none."""
    tried = paths.candidates(text, Path.cwd())
    shipped = {path.stem: path for path in paths.shipped_recipes()}
    found = next((path for path in tried if path.is_file()), None) or shipped.get(text)
    if found is not None:
        return found
    if tried[0].is_dir():
        raise RecipeError([Problem(text, "", "is a folder: name a recipe file (*.yaml)")])
    looked = " and ".join(map(str, tried))
    hint = did_you_mean(Path(text).stem, shipped) or "; `neuralbot recipes list` shows the recipes that come with it"
    raise RecipeError([Problem(text, "", f"no such recipe: looked for {looked}{hint}")])


# --- reading sections and overrides ---


def _read_sections(draft: Draft, root: Node, name: str) -> None:
    sections = ", ".join(draft.sections)
    if root.value is None:
        draft.report(Place(name, 0), "", f"the recipe is empty: expected the sections {sections}")
        _distrust_sections(draft, list(draft.sections))
    elif not isinstance(root.value, dict):
        draft.report(Place.line(name, root.line), "", f"expected the sections {sections}, each with `key: value` below")
        _distrust_sections(draft, list(draft.sections))
    else:
        for section, entry in root.value.items():
            _read_section(draft, section, entry, name)


def _read_section(draft: Draft, section: str, entry: Entry, name: str) -> None:
    place, value = Place.line(name, entry.line), entry.node.value
    if section not in draft.sections:
        _unknown_section(draft, section, place)
    elif isinstance(value, dict) or value is None:
        draft.note_section(section, place)
        for key, item in (value or {}).items():
            _add(draft, section, key, item.node, Place.line(name, item.line))
    else:
        if not isinstance(value, Unusable):
            draft.report(place, section, "is a section: expected `key: value` lines below it, indented by two spaces")
        _distrust_sections(draft, [section])


def _read_overrides(draft: Draft, overrides: Sequence[str], output_dir: str | None) -> None:
    seen: set[str] = set()
    for position, text in enumerate(overrides):
        place = Place.command_line(position)
        key, equals, value = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot or not name:
            shown = f"{key}=..." if equals else text  # not the value: it may be a token
            draft.report(
                place, "", f"{shown!r} is not an override: expected section.key=value{_with_section(draft, key)}"
            )
            continue
        node, problems = document.parse_value(value)
        draft.report_all([Problem(problem.where, key, problem.message) for problem in problems], order=place.order)
        if key in seen:
            draft.report(place, key, "is set twice on the command line: keep one")
        elif section not in draft.sections:
            _unknown_section(draft, section, place)
        elif node is not None:
            seen.add(key)
            _add(draft, section, name, node, place)
    if output_dir is not None:
        place = Place.command_line(len(overrides))
        if "training.output_dir" in seen:
            draft.report(place, "--output-dir", "training.output_dir is on the command line too: keep one")
        draft.settings["training.output_dir"] = Setting(
            "training.output_dir", Node(output_dir, text=output_dir), place, "--output-dir"
        )


def _with_section(draft: Draft, key: str) -> str:
    """`, for example training.max_steps=...`, if the key alone tells its section."""
    sections = _sections_of(draft, key.strip())
    return f", for example {sections[0]}.{key.strip()}=..." if sections else ""


def _add(draft: Draft, section: str, name: str, node: Node, place: Place) -> None:
    """Add one setting under its name of today. On the command line it replaces that of the file."""
    setting = old_keys.translate(draft, Setting(f"{section}.{name}", node, place, f"{section}.{name}"))
    if setting is None:
        return
    if setting.key not in draft.fields:
        _unknown_key(draft, section, name, place)
        return
    earlier = draft.settings.get(setting.key)
    if earlier is None or (earlier.place.where != place.where and place.where == document.COMMAND_LINE):
        draft.settings[setting.key] = setting
    else:
        first, key = earlier.written.partition(".")[2], setting.key.partition(".")[2]
        draft.report(place, setting.written, f"{first} and {name} say the same thing: keep {key}")


def _unknown_section(draft: Draft, section: str, place: Place) -> None:
    if belongs := _sections_of(draft, section):
        message = f"is not a section; it belongs to section {' or '.join(belongs)}: move it below `{belongs[0]}:`"
        for owner in belongs:
            draft.distrust(f"{owner}.{section}")
    else:
        message = (
            f"unknown section{did_you_mean(section, draft.sections) or '; sections: ' + ', '.join(draft.sections)}"
        )
        _distrust_sections(draft, nearest(section, draft.sections))
    draft.report(place, section, message)


def _distrust_sections(draft: Draft, sections: Sequence[str]) -> None:
    for key in draft.fields:
        if key.partition(".")[0] in sections:
            draft.distrust(key)


def _sections_of(draft: Draft, name: str) -> list[str]:
    """The sections that know a key."""
    return [s for s, keys in draft.sections.items() if name in keys or (s == "training" and name in old_keys.TODAY)]


def _unknown_key(draft: Draft, section: str, name: str, place: Place) -> None:
    if elsewhere := _sections_of(draft, name):
        meant = [f"{owner}.{name}" for owner in elsewhere]
        message = f"; it belongs to section {' or '.join(elsewhere)}"
    else:
        meant = _meant(draft, section, name)
        shown = [key.removeprefix(f"{section}.") for key in meant]
        message = f"; did you mean {' or '.join(shown)}?" if shown else "; `neuralbot recipes schema` lists all keys"
    for key in meant:
        draft.distrust(key)
    draft.report(place, f"{section}.{name}", f"unknown key in section {section}{message}")


def _meant(draft: Draft, section: str, name: str) -> list[str]:
    """The keys ("section.name") a misspelt name may stand for: of its own section first, then of the others."""
    own = {key: key for key in draft.sections[section]}
    if section == "training":
        own |= {old: new or old for old, new in old_keys.TODAY.items()}
    others = {f"{s}.{key}": key for s, keys in draft.sections.items() if s != section for key in keys}
    if found := nearest(name, own, cutoff=0.75):
        return [f"{section}.{own[key]}" for key in found]
    if found := nearest(name, others.values(), cutoff=0.8):
        return [key for key, bare in others.items() if bare in found]
    return [f"{section}.{own[key]}" for key in nearest(name, own)]


# --- the result ---


def _recipe(draft: Draft, name: str, *, default_output: str) -> Recipe:
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in draft.values.items():
        section, _, short = key.partition(".")
        whole = section != "training" and isinstance(value, int) and not isinstance(value, bool)
        as_float = whole and "float" in draft.fields[key].kinds
        values[section][short] = float(value) if as_float else value
    training = {"output_dir": default_output} | values["training"]
    training["output_dir"] = training["output_dir"] or default_output
    return Recipe(
        source=name,
        model=ModelArguments(**values["model"]),
        data=DataArguments(**values["data"]),
        finetuning=FinetuningArguments(**values["finetuning"]),
        early_stopping_patience=training.pop("early_stopping_patience", None),
        overwrite_output_dir=training.pop("overwrite_output_dir", False),
        training=training,
        evaluation=EvaluationArguments(**values["evaluation"]),
        serving=ServingArguments(**values["serving"]),
        notices=tuple(draft.notices),
    )


def dump(recipe: Recipe) -> str:
    """The recipe as YAML: all that differs from the defaults, and all of `training`. Loading it gives an equal Recipe.

    Tokens are left out: a secret does not belong into a run folder.
    """
    sections: dict[str, dict[str, Any]] = {
        section: _changed(getattr(recipe, section)) for section in SECTIONS if section != "training"
    }
    training = dict(recipe.training)
    if recipe.early_stopping_patience is not None:
        training["early_stopping_patience"] = recipe.early_stopping_patience
    if recipe.overwrite_output_dir:
        training["overwrite_output_dir"] = True
    ordered = {section: sections.get(section, training) for section in SECTIONS}
    head = f"# The resolved recipe of a run, read from {recipe.source}. What is not here has its default.\n"
    return head + document.emit({section: keys for section, keys in ordered.items() if keys})


def _changed(arguments: Any) -> dict[str, Any]:
    """The values of a dataclass that differ from their defaults, without secrets."""
    found = {}
    for item in dataclasses.fields(arguments):
        value = getattr(arguments, item.name)
        if value != default_of(item) and item.repr:
            found[item.name] = value
    return found


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of recipe files, for completion and checks in editors."""
    sections: dict[str, dict[str, Any]] = {
        section: {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: field.schema() for name, field in keys.items()},
        }
        for section, keys in all_fields().items()
    }
    entries = {name: field.schema() for name, field in source_list.entry_fields().items()}
    sections["data"]["properties"]["sources"]["items"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": entries,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "neuralbot recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["model", "data"],
        "properties": sections,
    }
