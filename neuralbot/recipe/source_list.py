"""The entries of data.sources: every key of an entry is checked like a key of its own, with its line.

Does not: look into the files, ask the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuralbot.arguments import SourceArguments
from neuralbot.recipe import fields, paths
from neuralbot.recipe.document import COMMAND_LINE, Node, Unusable
from neuralbot.recipe.draft import Broken, Draft, Place
from neuralbot.recipe.fields import Field, did_you_mean

KEY = "data.sources"


def entry_fields() -> dict[str, Field]:
    """What an entry may hold."""
    return fields.section_fields(KEY, SourceArguments)


def check(draft: Draft, recipe_folder: Path) -> None:
    """Report what is wrong with the entries; put the files that were found in their place."""
    try:
        if not draft.given(KEY):
            return
    except Broken:
        return
    entries = [
        _Entry(draft, number, node).read(recipe_folder)
        for number, node in enumerate(draft.settings[KEY].node.value, start=1)
    ]
    weighted = ["weight" in entry for entry in entries if entry is not None]
    if not entries:
        draft.wrong(KEY, "the list is empty: name a source, or remove the key")
    elif None in entries:
        draft.distrust(KEY)
    elif any(weighted) and not all(weighted):
        draft.wrong(KEY, f"entry {weighted.index(False) + 1} has no weight, others have: give all one, or none")
    else:
        draft.values[KEY] = entries


class _Entry:
    """One entry, and the report about it."""

    def __init__(self, draft: Draft, number: int, node: Node) -> None:
        self._draft, self._name, self._node = draft, f"{KEY}[{number}]", node
        self._fine = True

    def read(self, recipe_folder: Path) -> dict[str, Any] | None:
        """The values that were set; None if something is wrong with them."""
        if not isinstance(self._node.value, dict):
            if not isinstance(self._node.value, Unusable):
                self._wrong(self._node.line, "", "expected a mapping such as {path: rows.jsonl, weight: 2}")
            return None
        values = self._values(self._node.value)
        if self._fine:
            self._check_place(values, recipe_folder)
        return values if self._fine else None

    def _values(self, entries: dict[str, Any]) -> dict[str, Any]:
        known, values = entry_fields(), {}
        for key, entry in entries.items():
            if key not in known:
                self._wrong(entry.line, key, f"unknown key{did_you_mean(key, known) or '; keys: ' + ', '.join(known)}")
            elif message := fields.check(known[key], entry.node):
                self._wrong(entry.line, key, message)
            elif isinstance(entry.node.value, Unusable):
                self._fine = False
            elif (value := entry.node.plain()) is not None:
                values[key] = float(value) if key == "weight" else value
        return values

    def _check_place(self, values: dict[str, Any], recipe_folder: Path) -> None:
        if ("path" in values) == ("name" in values):
            message = "expected either path (a file or folder) or name (a data set of the hub)"
            self._wrong(self._node.line, "", message)
        elif "path" not in values:
            return
        elif of_hub := [key for key in ("config", "revision", "split") if key in values]:
            self._wrong(self._node.line, of_hub[0], "belongs to name, a data set of the hub; here is a path")
        else:
            values["path"], problem = paths.find_rows(values["path"], recipe_folder)
            if problem:
                self._wrong(self._node.line, "path", problem)

    def _wrong(self, line: int, key: str, message: str) -> None:
        self._fine = False
        place = self._draft.settings[KEY].place
        if place.where != COMMAND_LINE:
            place = Place.line(place.where.rpartition(":")[0], line)
        self._draft.report(place, f"{self._name}.{key}" if key else self._name, message)
