"""Columns -> format: what rows mean is told by the names of their columns, never by the name of a file.

A format has fields, and a field goes by several names. Names count in any case, and with a 1 at the end where a file
numbers them (`summary1`, `summary2`). The mapping `data.columns` of a recipe says which column is which field; then
only formats that have all of these fields are looked for.

Does not: look at the values of rows (`formats`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from neuralbot.errors import DataError


@dataclass(frozen=True)
class Format:
    """What the columns mean. reason: one sentence for people, why this format.

    columns: field -> name of its column; of optional fields also where no row so far has that column.
    """

    name: str
    columns: Mapping[str, str]
    reason: str


@dataclass(frozen=True)
class _Spec:
    """says: what the rows are. fields: field -> names it goes by, the first found is taken. optional: may be absent."""

    says: str
    fields: Mapping[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The names of each field, optional ones included."""
        return {**self.fields, **{field: (field,) for field in self.optional}}

    def missing(self, found: Mapping[str, str]) -> list[tuple[str, ...]]:
        """The names of each required field that was not found."""
        return [names for field, names in self.fields.items() if field not in found]


# In the order in which they are tried.
_SPECS: dict[str, _Spec] = {
    "messages": _Spec("chats, lists of messages", {"turns": ("messages",)}, ("expected", "tools")),
    "conversations": _Spec("chats in the sharegpt form", {"turns": ("conversations",)}, ("expected", "tools")),
    "alpaca": _Spec(
        "Alpaca rows, an instruction with its answer",
        {"instruction": ("instruction",), "output": ("output", "response")},
        ("input", "tests"),
    ),
    "instances": _Spec(
        "instructions with instances, each an input with its output",
        {"instruction": ("instruction",), "instances": ("instances",)},
    ),
    "function": _Spec(
        "Python functions to be completed, with a test",
        {name: (name,) for name in ("prompt", "canonical_solution", "test", "entry_point")},
    ),
    "code": _Spec(
        "tasks with their Python code and a list of tests",
        {"text": ("text", "prompt"), "code": ("code",), "test_list": ("test_list",)},
        ("test_setup_code",),
    ),
    "prompt/completion": _Spec(
        "prompts with their completions", {"prompt": ("prompt",), "completion": ("completion", "response")}, ("tests",)
    ),
    "question/answer": _Spec(
        "questions with their answers",
        {"question": ("question", "query", "problem"), "answer": ("answer", "response", "solution")},
        ("tests",),
    ),
    "summarization": _Spec(
        "documents with their summaries",
        {"document": ("article", "document", "dialogue"), "summary": ("highlights", "summary")},
    ),
    "text": _Spec("plain text, trained whole", {"text": ("text",)}),
}
_MOST, _LONGEST = 20, 60  # names in a message, and characters of a name
_LINKS, _TARGETS = {"parent", "reply", "response", "thread", "conversation"}, {"id", "ids", "to", "ts"}


def detect(columns: Sequence[str], task: str, mapping: Mapping[str, str] | None = None) -> Format:
    """The format that these columns spell. Task "summarization" looks for a document with its summary first.

    mapping: name of a field -> its column, whatever that is called. Raises DataError with the columns present, what
    was expected and how to map them.
    """
    mapping = mapping or {}
    _check_mapping(columns, mapping)
    found = {name: _fields(_SPECS[name], columns, mapping) for name in sorted(_SPECS, key=lambda name: name != task)}
    asked = [name for name, fields in found.items() if set(mapping.values()) <= set(fields.values())]
    if not asked:
        raise DataError(_no_common_format(mapping))
    fitting = [name for name in asked if not _SPECS[name].missing(found[name])]
    if not fitting:
        raise DataError(_unknown(columns, {name: found[name] for name in asked}, mapping))
    chosen, *others = fitting
    if chosen == "text" and not mapping and (links := [column for column in columns if _is_link(column)]):
        raise DataError(_linked(columns, found[chosen]["text"], links))
    reason = _reason(_SPECS[chosen], found[chosen], columns, mapping)
    if others:
        also = ", ".join(f"{_SPECS[name].says} ({listed(found[name].values())})" for name in others)
        reason += f"; would fit too: {also}: data.columns chooses"
    used = found[chosen].values()
    later = {field: field for field in _SPECS[chosen].optional if field not in used}  # rows not seen yet may have them
    return Format(chosen, later | found[chosen], reason)


def _fields(spec: _Spec, columns: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Field -> column, as far as there is one."""
    free = [column for column in columns if column not in mapping.values()]
    found = {}
    for field, names in spec.names.items():
        mapped = [mapping[name] for name in names if name in mapping]
        column = mapped[0] if mapped else _column(free, names)
        if column is not None:
            found[field] = column
    return found


def _column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column with one of these names: exactly, in another case, or numbered."""
    known = {column.strip().lower(): column for column in columns} | {column: column for column in columns}
    return next((known[name] for base in names for name in (base, f"{base}1") if name in known), None)


def _is_link(column: str) -> bool:
    """Whether a column points to other rows, as `parent_id` or `in_reply_to` do."""
    words = set(re.findall(r"[a-z]+", column.lower()))
    return bool(words & _LINKS and words & _TARGETS)


# What is said


def _reason(spec: _Spec, found: Mapping[str, str], columns: Sequence[str], mapping: Mapping[str, str]) -> str:
    by_hand = {column: f"{column!r} (data.columns: {name})" for name, column in mapping.items()}
    used = [by_hand.get(column, repr(column)) for column in found.values()]
    plural = "columns" if len(used) > 1 else "column"
    unused = [column for column in columns if column not in found.values()]
    rest = f"; not used: {listed(unused)}" if unused else ""
    return f"read as {spec.says}, because of the {plural} {', '.join(used)}{rest}"


def _check_mapping(columns: Sequence[str], mapping: Mapping[str, str]) -> None:
    known = list(dict.fromkeys(name for spec in _SPECS.values() for names in spec.names.values() for name in names))
    for name, column in mapping.items():
        if name not in known:
            raise DataError(
                f"data.columns: there is no field {name!r} (fields: {', '.join(known)}){_near(name, known)}"
            )
        if column not in columns:
            what = f"there is no column {column!r} for {name!r} ({_present(columns)})"
            raise DataError(f"data.columns: {what}{_near(column, columns) or '; expected one of these'}")


def _no_common_format(mapping: Mapping[str, str]) -> str:
    return f"data.columns: no format has the fields {listed(mapping)} together; formats: {_all_formats()}"


def _unknown(columns: Sequence[str], found: Mapping[str, Mapping[str, str]], mapping: Mapping[str, str]) -> str:
    """What is missing for the format that lacks least, or all that is known."""
    nearest = min(found, key=lambda name: (not found[name], len(_SPECS[name].missing(found[name]))))
    if not found[nearest]:
        names = [name for spec in _SPECS.values() for choices in spec.fields.values() for name in choices]
        otherwise = f"say which column is which field, such as {_yaml({'question': '...', 'answer': '...'})}"
        hint = _hint(columns, names, mapping, otherwise)
        return f"no known format has these columns; {_present(columns)}; {hint}; formats: {_all_formats()}"
    missing = _SPECS[nearest].missing(found[nearest])
    wanted = ", ".join(" or ".join(map(repr, names)) for names in missing)
    lack = f"columns {wanted} are" if len(missing) > 1 else f"column {wanted} is"
    free = [column for column in columns if column not in found[nearest].values()]
    by_hand = dict(mapping) | {names[0]: "..." for names in missing}
    otherwise = f"add it, or say which it is, as {_yaml(by_hand)}"
    hint = _hint(free, [name for names in missing for name in names], mapping, otherwise)
    return f"{_SPECS[nearest].says}: {lack} missing; {_present(columns)}; {hint}"


def _hint(columns: Sequence[str], wanted: Sequence[str], mapping: Mapping[str, str], otherwise: str) -> str:
    """Which columns look misspelt, with the mapping that mends them; `otherwise` if none does."""
    meant = {}
    for column in columns:
        near = difflib.get_close_matches(column.strip().lower(), wanted, n=1, cutoff=0.75)
        if near and not column.lower().endswith("id"):
            meant[near[0]] = column
    if not meant:
        return otherwise
    asked = ", ".join(f"{name!r} by {column!r}" for name, column in meant.items())
    return f"did you mean {asked}? rename it, or set {_yaml(dict(mapping) | meant)}"


def _linked(columns: Sequence[str], text: str, links: Sequence[str]) -> str:
    return (
        f"column {text!r} is no plain text: the rows point to each other ({listed(links)}), so each is one message of "
        f"a conversation; {_present(columns)}; join them to chats (`messages`), or, to train on every text by itself, "
        f"set {_yaml({'text': text})}"
    )


def _near(word: str, candidates: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, candidates, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _all_formats() -> str:
    return ", ".join(" + ".join("|".join(names) for names in spec.fields.values()) for spec in _SPECS.values())


def _present(columns: Sequence[str]) -> str:
    return f"present columns: {listed(columns) or 'none'}"


def listed(names: Iterable[str]) -> str:
    """Names for a message: in quotes, and not without end."""
    shown = [repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in names]
    return ", ".join(shown[:_MOST]) + (f" and {len(shown) - _MOST} more" if len(shown) > _MOST else "")


def _yaml(mapping: Mapping[str, str]) -> str:
    quoted = ", ".join(f"{name}: {json.dumps(column, ensure_ascii=False)}" for name, column in mapping.items())
    return f"data.columns: {{{quoted}}}"
