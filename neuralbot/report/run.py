"""The files of a run folder, read once; those that a run had not come to may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralbot.errors import RunFolderError
from neuralbot.recipe import document
from neuralbot.training.records import read_json, read_jsonl, read_text
from neuralbot.training.run_folder import MANIFEST, METRICS, RECIPE, REJECTS, RESULTS, SAMPLES

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """folder: its name, as commands give it; without the folders above, where the recipe named it absolutely."""

    name: str
    folder: str
    manifest: Record
    recipe: dict[str, Record]
    metrics: list[Record]
    results: Record
    samples: list[Record]
    rejects: list[Record]


def read(path: Path) -> Run:
    """Raises RunFolderError if `path` is no run folder, or a file in it is broken."""
    if not (path / MANIFEST).is_file():
        raise RunFolderError(f"{path} is no run folder: it has no {MANIFEST}; expected a folder that finetune wrote")
    manifest = read_json(path / MANIFEST)
    recipe = _sections(path / RECIPE)
    here = path.resolve().name
    asked = Path(str(recipe.get("training", {}).get("output_dir", here)))
    return Run(
        name=str(manifest.get("name") or here),
        folder=here if asked.is_absolute() or asked.name != here else asked.as_posix(),
        manifest=manifest,
        recipe=recipe,
        metrics=_records(path / METRICS),
        results=read_json(path / RESULTS) if (path / RESULTS).exists() else {},
        samples=_records(path / SAMPLES),
        rejects=_records(path / REJECTS),
    )


def _records(path: Path) -> list[Record]:
    return read_jsonl(path) if path.exists() else []


def _sections(path: Path) -> dict[str, Record]:
    if not path.exists():
        return {}
    node, problems = document.parse(read_text(path), str(path))
    if node is None or problems:
        raise RunFolderError(str(problems[0]) if problems else f"{path} is empty; expected the recipe of the run")
    found = node.plain()
    return {section: keys for section, keys in found.items() if isinstance(keys, dict)} if found else {}
