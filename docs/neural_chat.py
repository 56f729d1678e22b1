"""docs/neural_chat.md from docs/neural_chat.toml and the code, and the check that table, code and page agree.

python -m docs.neural_chat write    makes the page
python -m docs.neural_chat check    exit status 1, with one line for each thing that does not agree
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from neuralbot.recipe import old_keys
from neuralbot.recipe.fields import default_of

TABLE, PAGE = Path(__file__).with_suffix(".toml"), Path(__file__).with_suffix(".md")
STATES = ("honoured", "translated", "warned", "refused")

_HEAD = """\
# The names of ITREX's neural_chat, and what becomes of them

Made from `docs/neural_chat.toml` by `python -m docs.neural_chat write`; tests hold the table, the code and this page
together. Swap the prefix `intel_extension_for_transformers.` for `neuralbot.` (`neuralbot migrate script.py` prints the
diff), or run the script as it is by `python -m neuralbot.compat script.py`.

- **honoured**: the same meaning as in ITREX.
- **translated**: to what there is today, with one warning.
- **warned**: has no effect, with one warning that names it.
- **refused**: raises, with the reason.

Warned and refused are only values other than the default.
"""
_OLD = """\
## transformers.TrainingArguments

A `TrainingArguments` of transformers 5 is taken as it is. `neuralbot.transformers.TrainingArguments`, which compat puts
in its place, also takes the arguments of 2024, each with one warning:

| argument | today |
|---|---|
| `overwrite_output_dir` | the same: True starts afresh and keeps the old run beside it |
"""


@dataclass(frozen=True)
class Entry:
    """One name or field: `default` is that of ITREX as Python text, None for a name and for a field of our own."""

    name: str
    state: str
    note: str
    default: str | None = None
    own: bool = False


@dataclass(frozen=True)
class Table:
    """module -> its names; class -> its fields."""

    names: dict[str, list[Entry]]
    fields: dict[str, list[Entry]]


def load() -> Table:
    data = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    names = {
        module: [Entry(name, state, note) for name, (state, note) in rows.items()]
        for module, rows in data["names"].items()
    }
    fields = {
        cls: [Entry(name, state, note, default) for name, (default, state, note) in rows.items()]
        + [Entry(name, "honoured", note, own=True) for name, note in data["own"].get(cls, {}).items()]
        for cls, rows in data["fields"].items()
    }
    return Table(names, fields)


def classes(table: Table) -> dict[str, type[Any]]:
    """The dataclasses among the names, by their own names."""
    found = (getattr(import_module(module), entry.name) for module, rows in table.names.items() for entry in rows)
    ours = (cls for cls in found if isinstance(cls, type) and cls.__module__.startswith("neuralbot."))
    return {cls.__name__: cls for cls in ours if dataclasses.is_dataclass(cls) and cls.__name__ != "TrainingArguments"}


def problems(table: Table, known: Mapping[str, type[Any]]) -> Iterator[str]:
    """Where the table and the code do not agree; `known` are the code's dataclasses."""
    for module, rows in table.names.items():
        offered = set(import_module(module).__all__)
        yield from (f"{module}.{name} has no state in {TABLE.name}" for name in sorted(offered - _named(rows)))
        yield from (f"{module}.{name} is in {TABLE.name} only" for name in sorted(_named(rows) - offered))
        yield from _bad_states(module, rows)
    yield from (f"{name} has no table of fields in {TABLE.name}" for name in sorted(known.keys() - table.fields))
    for cls, rows in table.fields.items():
        yield from _bad_states(cls, rows)
        yield from _bad_fields(cls, rows, known)


def _named(rows: Sequence[Entry]) -> set[str]:
    return {entry.name for entry in rows}


def _bad_states(owner: str, rows: Sequence[Entry]) -> Iterator[str]:
    for entry in rows:
        if entry.state not in STATES:
            yield f"{owner}.{entry.name}: the state is {entry.state!r}, expected one of {', '.join(STATES)}"
        elif entry.state != "honoured" and not entry.note:
            yield f"{owner}.{entry.name} is {entry.state} without a reason"


def _bad_fields(cls: str, rows: Sequence[Entry], known: Mapping[str, type[Any]]) -> Iterator[str]:
    if cls not in known:
        yield f"there is no class {cls}"
        return
    there = {item.name: item for item in dataclasses.fields(known[cls])}
    yield from (f"{cls}.{name} has no state in {TABLE.name}" for name in sorted(there.keys() - _named(rows)))
    yield from (f"{cls} has no field {name}" for name in sorted(_named(rows) - there.keys()))
    for entry in rows:
        if entry.default is not None and entry.name in there and entry.default != _default(there[entry.name]):
            yield f"{cls}.{entry.name}: ITREX's default is {entry.default}, here it is {_default(there[entry.name])}"


def _default(item: dataclasses.Field[Any]) -> str:
    required = item.default is item.default_factory is dataclasses.MISSING
    return "required" if required else repr(default_of(item))


def page(table: Table) -> str:
    """The text of docs/neural_chat.md."""
    parts = [_HEAD]
    for module, rows in table.names.items():
        parts += [f"## {module}\n", _rows(("name", "state", "note"), [_cells(entry) for entry in rows])]
    parts += ["# Fields\n"]
    for cls, rows in table.fields.items():
        if rows:
            cells = [
                (f"`{entry.name}`", f"`{entry.default}`" if entry.default else "new", *_cells(entry)[1:])
                for entry in rows
            ]
            parts += [f"## {cls}\n", _rows(("field", "default", "state", "note"), cells)]
    today = "".join(f"| `{old}` | {f'`{new}`' if new else 'without effect'} |\n" for old, new in old_keys.TODAY.items())
    return "\n".join([*parts, _OLD + today])


def _cells(entry: Entry) -> tuple[str, str, str]:
    return f"`{entry.name}`", entry.state, entry.note


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.neural_chat", description="The page of names and fields.")
    parser.add_argument("command", choices=("write", "check"))
    command = parser.parse_args(argv).command
    table = load()
    found = list(problems(table, classes(table)))
    if command == "write" and not found:
        PAGE.write_text(page(table), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page(table):
        found.append(f"{PAGE.name} is not what the table says; run: python -m docs.neural_chat write")
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
