"""A recipe while it is being read: what was set and where, and the problems and notices found so far.

The checks (old_keys, support, paths, rules) all work on a Draft, so that everything wrong ends up in one report, in
file order. Nothing outside this package sees it: `loading.load` turns it into a Recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from neuralbot.errors import Problem
from neuralbot.recipe.document import COMMAND_LINE, Node, Unusable
from neuralbot.recipe.fields import Field, check, shorten

MAX_MESSAGE = 1000
_AFTER_THE_FILE = 10**9


class Broken(Exception):
    """A check asked for a value that is already reported as wrong: it has nothing to say."""


@dataclass(frozen=True)
class Place:
    """Where something was written; `order` sorts the report."""

    where: str
    order: int

    @classmethod
    def line(cls, name: str, line: int) -> Place:
        return cls(f"{name}:{line}" if line else name, line)

    @classmethod
    def command_line(cls, position: int) -> Place:
        return cls(COMMAND_LINE, _AFTER_THE_FILE + position)


@dataclass(frozen=True)
class Setting:
    """One `key: value`. `key` is "section.name"; `written` is the key as the user wrote it (an old name, perhaps)."""

    key: str
    node: Node
    place: Place
    written: str

    def becomes(self, key: str, value: Any) -> Setting:
        """The same setting under another key and with another value."""
        return replace(self, key=key, node=replace(self.node, value=value, text=str(value)))


class Draft:
    """The settings of a recipe by "section.name", and the report about them; `subject` is what that calls it."""

    def __init__(self, fields: Mapping[str, Mapping[str, Field]], name: str, subject: str = "the recipe") -> None:
        self.subject = subject
        self.sections = fields
        self.fields = {f"{section}.{key}": field for section, keys in fields.items() for key, field in keys.items()}
        self.settings: dict[str, Setting] = {}
        self.values: dict[str, Any] = {}
        self.notices: list[str] = []
        self._file = Place(name, 0)
        self._section_places: dict[str, Place] = {}
        self._broken: set[str] = set()
        self._problems: list[tuple[int, Problem]] = []

    def note_section(self, section: str, place: Place) -> None:
        self._section_places[section] = place

    def report(self, place: Place, key: str, message: str) -> None:
        """Note a problem at a place; what a user wrote may be endless, a message is not."""
        problem = Problem(place.where, shorten(key), shorten(message, MAX_MESSAGE))
        self._problems.append((place.order, problem))

    def report_all(self, problems: list[Problem], order: int = 0) -> None:
        """Note problems that already carry their place."""
        for problem in problems:
            line = problem.where.rpartition(":")[2]
            self._problems.append((int(line) if line.isdigit() and not order else order, problem))

    def wrong(self, key: str, message: str) -> None:
        """Note that the value of a key is wrong; later checks leave it alone."""
        setting = self.settings.get(key)
        self.report(self.place(key), setting.written if setting else key, message)
        self._broken.add(key)

    def distrust(self, key: str) -> None:
        """Leave a key out of later checks: a mistake elsewhere (a typo of its name) says all there is to say."""
        self._broken.add(key)

    def notice(self, key: str, message: str) -> None:
        setting = self.settings.get(key)
        self.notices.append(f"{self.place(key).where}: {setting.written if setting else key}: {message}")

    def place(self, key: str) -> Place:
        """Where a key was set; else its section; else the file."""
        if key in self.settings:
            return self.settings[key].place
        return self._section_places.get(key.partition(".")[0], self._file)

    def check_types(self) -> None:
        """Fill `values` with every setting of the right type and range; report the others."""
        for key, setting in self.settings.items():
            if isinstance(setting.node.value, Unusable):
                self._broken.add(key)
            elif message := check(self.fields[key], setting.node):
                self.wrong(key, message)
            else:
                self.values[key] = setting.node.plain()

    def given(self, key: str) -> bool:
        """Whether the recipe sets the key to something other than null. Raises Broken if the value is wrong."""
        return self.value(key) is not None and key in self.settings

    def value(self, key: str) -> Any:
        """The value or its default. Raises Broken if the value is wrong."""
        if key in self._broken:
            raise Broken
        return self.values.get(key, self.fields[key].default)

    def is_default(self, key: str) -> bool:
        return bool(self.value(key) == self.fields[key].default)

    def drop(self, key: str) -> None:
        """Forget a setting: its default counts from here on."""
        self.values.pop(key, None)

    def problems(self) -> list[Problem]:
        """All problems in file order, each once."""
        ordered = [problem for _, problem in sorted(self._problems, key=lambda pair: pair[0])]
        return list(dict.fromkeys(ordered))
