"""Strict YAML: text to a tree of nodes that know their line, and plain values back to text.

Why not `yaml.safe_load`: it reads `on` as true, `010` as 8, `12:30` as 750 and `1e-5` as text, keeps the last of two
equal keys in silence, and knows no lines. Here scalars follow YAML 1.2, and duplicate keys, tags, anchors and aliases
are problems. Size, depth and number of values are capped. This is the only module that touches the YAML library.
It knows nothing about recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neuralbot.errors import Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 1000

COMMAND_LINE = "command line"

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")


class Unusable:
    """Stands for a value that was already reported (an alias, a tag); no further check looks at it."""


@dataclass(frozen=True)
class Node:
    """A value and where it stands. `value`: a scalar, a list of nodes, a dict of text to Entry, or Unusable()."""

    value: Any
    line: int = 0  # 0: not from a file
    text: str = ""  # a scalar as it was written
    quoted: bool = False

    def plain(self) -> Any:
        """The value without lines; an Unusable becomes None."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        return None if isinstance(self.value, Unusable) else self.value


@dataclass(frozen=True)
class Entry:
    """One `key: value` of a mapping, with the line of the key."""

    line: int
    node: Node


class _Stop(Exception):
    """Reading cannot go on; the problem is already noted."""


def resolve_plain(text: str) -> Any:
    """The value of an unquoted scalar by the YAML 1.2 core schema."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INT.fullmatch(text):
        return int(text) if len(text) <= 300 else float(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(infinite[1] + "inf")
    return float("nan") if _NAN.fullmatch(text) else text


def read(path: Path, name: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a file and all that is wrong with its YAML; None if it cannot be read as YAML at all."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return None, [Problem(name, "", f"cannot be read: {error.strerror}")]
    if len(content) > MAX_BYTES:
        return None, [Problem(name, "", "is larger than 1 MiB: this is not a recipe (a data file by mistake?)")]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [Problem(f"{name}:{line}", "", f"byte {error.start} is not UTF-8: save the file as UTF-8")]
    return parse(text, name)


def parse(text: str, name: str) -> tuple[Node | None, list[Problem]]:
    """As `read`, for text; `name` is what problems call the file."""
    builder = _Builder(name)
    try:
        return builder.document(text), builder.problems
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        builder.problems.append(_syntax_problem(error, name))
    except yaml.reader.ReaderError as error:
        builder.problems.append(_character_problem(text, error, name))
    return None, builder.problems


def parse_value(text: str) -> tuple[Node | None, list[Problem]]:
    """The value of a command line override: a quoted text, a flow list or mapping, else one unquoted scalar.

    An unquoted scalar is taken whole, so `a: b` and `a #b` stay text.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        node, problems = parse(text, COMMAND_LINE)
        return node, [Problem(COMMAND_LINE, "", problem.message) for problem in problems]
    return Node(resolve_plain(text), text=text), []


def emit(sections: dict[str, Any]) -> str:
    """YAML that `parse` reads back as the same values, in the given order."""
    text: str = yaml.dump(sections, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Builder:
    """Turns the events of one document into nodes, noting problems on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self._count = 0

    def document(self, text: str) -> Node:
        events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        next(events)  # start of the stream
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            return Node(None, line=1)
        root = self._node(next(events), events, depth=0)
        next(events)  # end of the document
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._note(_line(after), "a second document starts here: a recipe is one document, remove the `---`")
        return root

    def _note(self, line: int, message: str) -> None:
        self.problems.append(Problem(f"{self.name}:{line}", "", message))

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        line = _line(event)
        self._count += 1
        if self._count > MAX_NODES or depth > MAX_DEPTH:
            cap = f"{MAX_NODES} values" if self._count > MAX_NODES else f"{MAX_DEPTH} levels"
            self._note(line, f"more than {cap}: this is not a recipe (a data file by mistake?)")
            raise _Stop
        refused = self._refuse(event, line)
        if isinstance(event, yaml.AliasEvent):
            return Node(Unusable(), line)
        if isinstance(event, yaml.ScalarEvent):
            node = _scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node(self._items(events, depth), line)
        else:
            node = Node(self._entries(events, depth), line)
        return Node(Unusable(), line) if refused else node

    def _refuse(self, event: Any, line: int) -> bool:
        """Note tags, anchors and aliases; True if the value must not be used."""
        if isinstance(event, yaml.AliasEvent):
            self._note(line, f"aliases (*{event.anchor}) are not allowed: write the value out")
            return True
        if event.anchor is not None:
            self._note(line, f"anchors (&{event.anchor}) are not allowed: write the value where it is used")
        if event.tag is not None:
            self._note(line, f"tags ({event.tag}) are not allowed: a recipe holds plain values only")
        return event.tag is not None

    def _items(self, events: Iterator[Any], depth: int) -> list[Node]:
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, depth + 1))
        return items

    def _entries(self, events: Iterator[Any], depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._node(event, events, depth + 1)
            value = self._node(next(events), events, depth + 1)
            if isinstance(key.value, (list, dict)):
                self._note(key.line, "a list or mapping cannot be a key")
            elif key.text in entries:
                first = entries[key.text].line
                self._note(key.line, f"{key.text} is set twice, on line {first} and on line {key.line}: keep one")
            elif not isinstance(key.value, Unusable):
                entries[key.text] = Entry(key.line, value)
        return entries


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: yaml.ScalarEvent, line: int) -> Node:
    text: str = event.value
    quoted = event.style is not None
    return Node(text if quoted else resolve_plain(text), line, text, quoted)


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}" if mark else name
    what = error.problem or error.context or "syntax error"
    if "'\\t'" in what or "\t" in what:
        return Problem(where, "", "a tab is used for spacing: YAML wants spaces")
    if "mapping values are not allowed" in what:
        what += ' (an indent too deep, or a text with ": " that needs quotes?)'
    return Problem(where, "", f"not valid YAML: {what}")


def _character_problem(text: str, error: yaml.reader.ReaderError, name: str) -> Problem:
    line = text.count("\n", 0, error.position) + 1
    return Problem(f"{name}:{line}", "", f"the character U+{ord(text[error.position]):04X} is not allowed in YAML")


class _Dumper(yaml.SafeDumper):
    """Quotes a text when YAML 1.1 or YAML 1.2 would read it as something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # The emitter writes Unicode line breaks bare outside double quotes, where they read back as spaces.
    style = '"' if any(char in text for char in "\x85\u2028\u2029") else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_FLOAT.pattern})\Z"), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"(?:{_BASED_INT.pattern})\Z"), ["0"])
