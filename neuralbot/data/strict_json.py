"""JSON rows from text, read strictly: what Python's reader would let pass but no other would is refused with its place.

Refused besides broken syntax: NaN and Infinity, a key that appears twice in one object, half characters (lone
surrogates), numbers without end, nesting without end, rows that are no objects, rows over the size limit.

Does not: open files (`sources`), know what columns mean.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from neuralbot.data.bad_rows import BadRows
from neuralbot.errors import DataError

ROW_LIMIT_BYTES = 16 * 2**20
EXCERPT = 80
_MOST_DIGITS = 1000


class Row(dict[str, Any]):
    """A row that knows its line in the file (0 where lines mean nothing, as in parquet) and its number in a list."""

    line: int = 0
    number: int = 0  # 0 where each row has a line of its own


def fail(where: Path | str, what: str, then: str, excerpt: str | None = None) -> NoReturn:
    """Raise a DataError: place, what is wrong, the text there, what to do."""
    raise fault(where, what, then, excerpt)


def fault(where: Path | str, what: str, then: str, excerpt: str | None = None) -> DataError:
    """The error that `fail` raises."""
    shown = "" if excerpt is None else f"; it reads {excerpt.strip()[:EXCERPT]!r}"
    return DataError(f"{where}: {what}{shown}; {then}")


def too_large(where: Path | str, excerpt: str) -> NoReturn:
    limit = f"{ROW_LIMIT_BYTES // 2**20} MiB"
    fail(where, f"the row is larger than {limit}", "take it out, or cut it into several rows", excerpt)


def row_of_line(path: Path, number: int, line: str) -> Row:
    """The object on one line of a jsonl file."""
    line = line.rstrip()  # or a fault at its end would be placed in the next line
    start = skip_blanks(line, 0)
    value, end = parse(path, line, start, first_line=number)
    rest = skip_blanks(line, end)
    if rest < len(line):
        where = f"{path}:{place(line, rest, number)}"
        fail(where, "text after the end of the row", "put each object on its own line", line[rest:])
    return _as_row(value, f"{path}:{number}", number)


def rows_of_array(path: Path, text: str, start: int, bad: BadRows) -> Iterator[Row]:
    """The objects of the list that begins at `start`, to the end of the text; bad ones whose end is known to `bad`."""
    at = skip_blanks(text, start + 1)
    line, counted, number = 1, 0, 0
    more = text[at : at + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, at), at
        number += 1
        try:
            value, end = parse(path, text, at)
            row = _as_row(value, f"{path}:{line}: row {number}", line, number)
        except DataError as error:
            end = _lenient_end(text, at, error)
            bad.add(error, text[at:end])
        else:
            if end - at > ROW_LIMIT_BYTES:
                too_large(f"{path}:{line}: row {number}", text[at : at + EXCERPT])
            yield row
        at = skip_blanks(text, end)
        more = text[at : at + 1] == ","
        if not more and text[at : at + 1] != "]":
            what = "a comma or ] is missing after this row" if at < len(text) else "the file ends inside the list"
            fail(f"{path}:{place(text, at)}", f"invalid JSON: {what}", "mend it or save the file again", text[at:])
        at = skip_blanks(text, at + 1) if more else at
    rest = skip_blanks(text, at + 1)
    if rest < len(text):
        fail(f"{path}:{place(text, rest)}", "text after the end of the list", "take it out", text[rest:])


def _lenient_end(text: str, at: int, error: DataError) -> int:
    """Where a value ends that is JSON, though not strict. Raises `error` if nothing tells."""
    try:
        return _LENIENT.raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        raise error from None


def rows_of_object(path: Path, value: dict[str, Any], bad: BadRows) -> Iterator[Row]:
    """The rows of an object that holds one list of them, such as {"data": [...]}."""
    lists = [key for key, inner in value.items() if isinstance(inner, list)]
    if len(lists) != 1:
        found = f"lists under {', '.join(map(repr, lists))}" if lists else "no list"
        keys = ", ".join(repr(key[:EXCERPT]) for key in list(value)[:8]) + (", ..." if len(value) > 8 else "")
        then = 'expected a list of objects, one for each row, such as [{"question": "...", "answer": "..."}]'
        fail(path, f"is one object with {found} (its keys: {keys})", then)
    for number, inner in enumerate(value[lists[0]], start=1):
        try:
            row = _as_row(inner, f"{path}: {lists[0]}: row {number}", 0, number)
        except DataError as error:
            bad.add(error, json.dumps(inner, ensure_ascii=False))
        else:
            yield row


def parse(path: Path, text: str, start: int, *, first_line: int = 1) -> tuple[Any, int]:
    """The JSON value that begins at character `start`, and where it ends; `first_line` is the text's in its file."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        line_start = text.rfind("\n", 0, error.pos) + 1
        excerpt = text[max(line_start, error.pos - EXCERPT // 2) :].split("\n", 1)[0]
        then = 'expected {"column": value, ...}: keys and texts in double quotes, commas between items'
        fail(f"{path}:{place(text, error.pos, first_line)}", f"invalid JSON: {error.msg}", then, excerpt)
    except (_NotStrict, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        where = f"{path}:{place(text, start, first_line)}"
        fail(where, f"unusable JSON: {reason}", "mend or take out this row", text[start : start + EXCERPT])
    if (at := _half_character(text, start, end)) is not None:
        what = f"{text[at : at + 6]} is half a character (a lone surrogate)"
        where = f"{path}:{place(text, at, first_line)}"
        fail(where, what, "take it out or write the whole pair", text[at : at + 40])
    return value, end


def place(text: str, at: int, first_line: int = 1) -> str:
    """line:column of a character, both 1-based."""
    return f"{first_line + text.count(chr(10), 0, at)}:{at - text.rfind(chr(10), 0, at)}"


def skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


class _NotStrict(ValueError):
    """JSON that Python's reader would take, but that cannot be trusted."""


def _constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is not a JSON value")


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _NotStrict(f"a number of {len(digits)} digits")
    return int(digits)


def _decimal(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotStrict(f"the number {text[:EXCERPT]} is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)[:EXCERPT]
        raise _NotStrict(f"the key {double!r} appears twice in one object")
    return found


_LENIENT = json.JSONDecoder(parse_int=str)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_decimal
)


def _half_character(text: str, start: int, end: int) -> int | None:
    """Where an escaped surrogate stands alone in a JSON value."""
    if not _SURROGATE.search(text, start, end):
        return None
    return next((found.start() for found in _ESCAPE.finditer(text, start, end) if found[1]), None)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# A whole pair, or one of two alone (the group), or any other escape.
_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.")


def _as_row(value: object, where: str, line: int, number: int = 0) -> Row:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        excerpt = json.dumps(value, ensure_ascii=False)
        fail(where, f"the row is {kind}, not an object", 'expected {"column": value, ...}', excerpt)
    row = Row(value)
    row.line, row.number = line, number
    return row
