"""Where recipes, data files and models named in a recipe are looked for, and what is said when they are not there.

Order everywhere: the working directory, the folder of the recipe, the files shipped with neuralbot. Model
and data set names of the hub are only checked for their form: no network here.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from neuralbot.errors import UsageError
from neuralbot.recipe.draft import Broken, Draft
from neuralbot.recipe.fields import nearest

EMBEDDED_MODEL = "seedling"
ROW_FILES = ("data.train_file", "data.validation_file", "data.test_file")
_MODELS = ("model.model_name_or_path", "model.config_name", "model.tokenizer_name")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ROW_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".gz")
_PACKAGE = Path(__file__).parent.parent
_MAX_LISTED = 2000


def shipped_root() -> Path:
    """The folder that holds recipes/ and data/: inside an installed package, else the repository."""
    inside = _PACKAGE / "shipped"
    return inside if inside.is_dir() else _PACKAGE.parent


def shipped_recipes() -> list[Path]:
    """The recipes that come with neuralbot, by name; that of the embedded model's pretraining is of another kind."""
    return [path for path in sorted((shipped_root() / "recipes").glob("*.yaml")) if path.stem != EMBEDDED_MODEL]


def candidates(text: str, recipe_folder: Path) -> list[Path]:
    """The absolute paths that `text` may stand for, in the order they are tried."""
    path = _expand(text)
    tried = [_normal(folder / path) for folder in (Path.cwd(), recipe_folder.absolute(), shipped_root())]
    return list(dict.fromkeys(tried))


def find_file(text: str, recipe_folder: Path) -> Path:
    """The first existing file or folder that `text` stands for. Raises UsageError that names all that was tried."""
    tried = candidates(text, recipe_folder)
    for path in tried:
        if _exists(path):
            return as_found(path)
    raise UsageError(f"{text}: {_not_there(tried)}")


def as_found(path: Path) -> Path:
    """The path as a recipe keeps it: relative to the working directory if it lies below it, else absolute."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check(draft: Draft, recipe_folder: Path) -> None:
    """Replace each file and folder named in the draft by what was found; report those that are not there."""
    for key, look in [(key, _row_file) for key in ROW_FILES] + [(key, _model) for key in _MODELS]:
        try:
            if draft.given(key):
                look(draft, key, recipe_folder)
        except Broken:
            continue
    try:
        if draft.given("data.dataset_name"):
            _data_set(draft, "data.dataset_name", recipe_folder)
    except Broken:
        pass


def _row_file(draft: Draft, key: str, folder: Path) -> None:
    found, problem = find_rows(draft.value(key), folder)
    if problem:
        draft.wrong(key, problem)
    else:
        draft.values[key] = found


def find_rows(text: str, recipe_folder: Path) -> tuple[str, str]:
    """The file of rows, or the folder of such files, that `text` stands for; and what is wrong with it, if anything."""
    if not text.strip():
        return "", "the file name is empty: name a file, or remove the key"
    tried = candidates(text, recipe_folder)
    found = next((path for path in tried if _exists(path)), None)
    if found is None:
        return "", _not_there(tried)
    if not os.access(found, os.R_OK):
        return "", f"{found} cannot be read: no permission"
    if found.is_dir() and not _holds_rows(found):
        return "", f"{found} is a folder without files of rows, such as .jsonl or .csv ({_listing(found)})"
    if not found.is_dir() and not found.is_file():
        return "", f"{found} is neither a file nor a folder"
    return as_found(found).as_posix(), ""


def _holds_rows(folder: Path) -> bool:
    below = (Path(name) for _, _, names in os.walk(folder) for name in names)
    return any(path.suffix.lower() in _ROW_SUFFIXES for path in itertools.islice(below, _MAX_LISTED))


def _model(draft: Draft, key: str, folder: Path) -> None:
    text = draft.value(key)
    if text == EMBEDDED_MODEL and key == "model.model_name_or_path":
        return
    tried = candidates(text, folder) if text.strip() else []
    found = next((path for path in tried if _exists(path)), None)
    if found is None:
        _hub_name(draft, key, text, tried)
    elif found.is_file():
        draft.wrong(key, f"{found} is a file: name the folder of the model (with config.json and *.safetensors)")
    elif message := _model_folder(key, found):
        draft.wrong(key, message)
    else:
        draft.values[key] = as_found(found).as_posix()


def _model_folder(key: str, folder: Path) -> str | None:
    """What is wrong with a folder as a model, or as a tokenizer."""
    if key == "model.tokenizer_name":
        fine = any(_exists(folder / name) for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))
        return None if fine else f"the folder {folder} has no tokenizer.json ({_listing(folder)})"
    if _exists(folder / "config.json"):
        return None
    if _exists(folder / "adapter_config.json"):
        return f"the folder {folder} holds an adapter (a finished LoRA run), not a model: name its base model"
    return f"the folder {folder} has no config.json, so it is not a model ({_listing(folder)})"


def _hub_name(draft: Draft, key: str, text: str, tried: list[Path]) -> None:
    """Report a name that is no folder and cannot be one of the hub either."""
    if not text.strip():
        draft.wrong(key, f"the name is empty: a Hugging Face name, a folder, or {EMBEDDED_MODEL}")
    elif _looks_like_path(text) or (text.count("/") == 1 and any(_exists(path.parent) for path in tried)):
        draft.wrong(key, _not_there(tried))
    elif not _HUB_NAME.fullmatch(text):
        draft.wrong(key, f"{text!r} is neither an existing folder nor a Hugging Face name (name or owner/name)")
    elif key == "model.model_name_or_path" and nearest(text, [EMBEDDED_MODEL], cutoff=0.75):
        draft.wrong(key, f"there is no model {text!r}; did you mean {EMBEDDED_MODEL}?")


def _data_set(draft: Draft, key: str, folder: Path) -> None:
    text = draft.value(key)
    tried = candidates(text, folder) if text.strip() else []
    found = next((path for path in tried if _exists(path)), None)
    if text.lower().endswith(_ROW_SUFFIXES) and (found is None or found.is_file()):
        draft.wrong(key, f"{text} is a file, not a data set: use train_file")
    elif found is not None and found.is_dir():
        draft.values[key] = as_found(found).as_posix()
    else:
        _hub_name(draft, key, text, tried)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.count("/") > 1 or text.endswith("/")


def _not_there(tried: list[Path]) -> str:
    """`no such file: looked for A, B; near it: C`."""
    message = "no such file or folder: looked for " + ", ".join(map(str, tried))
    for path in tried:
        if near := nearest(path.name, _names(path.parent), cutoff=0.5):
            return f"{message}; did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    if missing := next((path.parent for path in tried if not _exists(path.parent)), None):
        return f"{message}; the folder {missing} does not exist"
    return message


def _listing(folder: Path) -> str:
    names = sorted(_names(folder))
    return "it holds " + ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "it is empty"


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry, _ in zip(folder.iterdir(), range(_MAX_LISTED), strict=False)]
    except OSError:
        return []


def _expand(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user who does not exist
        return Path(text)


def _normal(path: Path) -> Path:
    # Not resolve(): the name of a link says what the file is (its suffix), that of its target may not.
    return Path(os.path.normpath(path))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # name too long, NUL in it
        return False
