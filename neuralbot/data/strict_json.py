"""JSON rows from text, read strictly: what Python's reader would let pass but no other would is refused with its place.

Refused besides broken syntax: NaN and Infinity, a key that appears twice in one object, half characters (lone
surrogates), numbers without end, nesting without end, rows that are no objects, rows over the size limit.

Does not: open files (`sources`), find rows in a list that is larger than memory (`json_list`), know what columns mean.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from neuralbot.errors import DataError

ROW_LIMIT_BYTES = 16 * 2**20
EXCERPT = 80
_MOST_DIGITS = 1000
_LONGEST_WORD = 10  # of JSON, such as -Infinity: the beginning of one is no error while the file goes on


class Row(dict[str, Any]):
    """A row that knows its line in the file (0 where lines mean nothing, as in parquet) and its number in a list."""

    line: int = 0
    number: int = 0  # 0 where each row has a line of its own


class Unfinished(Exception):
    """The text at hand ends inside the value: with more of the file it may be whole."""


def fault(where: Path | str, what: str, then: str, excerpt: str | None = None) -> DataError:
    """A DataError: place, what is wrong, the text there, what to do."""
    shown = "" if excerpt is None else f"; it reads {excerpt.strip()[:EXCERPT]!r}"
    return DataError(f"{where}: {what}{shown}; {then}")


def fail(where: Path | str, what: str, then: str, excerpt: str | None = None) -> NoReturn:
    """Raise that."""
    raise fault(where, what, then, excerpt)


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
        where = located(path, line, rest, number)
        fail(where, "text after the end of the row", "put each object on its own line", line[rest:])
    return as_row(value, f"{path}:{number}", number)


def parse(
    path: Path | str,
    text: str,
    start: int,
    *,
    first_line: int = 1,
    first_column: int = 1,
    more: bool = False,
    strict: bool = True,
) -> tuple[Any, int]:
    """The JSON value that begins at character `start`, and where it ends.

    first_line, first_column: where the text begins in its file. more: the file goes on behind the text, so a value
    that reaches its end raises Unfinished. Raises DataError for all that is not JSON, or not `strict` JSON.
    """
    try:
        value, end = (_DECODER if strict else _LENIENT).raw_decode(text, start)
    except json.JSONDecodeError as error:
        if more and (error.msg.startswith("Unterminated string") or error.pos > len(text) - _LONGEST_WORD):
            raise Unfinished from error
        line_start = text.rfind("\n", 0, error.pos) + 1
        excerpt = text[max(line_start, error.pos - EXCERPT // 2) :].split("\n", 1)[0]
        then = 'expected {"column": value, ...}: keys and texts in double quotes, commas between items'
        where = located(path, text, error.pos, first_line, first_column)
        fail(where, f"invalid JSON: {error.msg}", then, excerpt)
    except (_NotStrict, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        where = located(path, text, start, first_line, first_column)
        fail(where, f"unusable JSON: {reason}", "mend or take out this row", text[start : start + EXCERPT])
    if more and end > len(text) - _LONGEST_WORD:  # a number goes on, perhaps
        raise Unfinished
    if strict and (at := _half_character(text, start, end)) is not None:
        where = located(path, text, at, first_line, first_column)
        what = f"{text[at : at + 6]} is half a character (a lone surrogate)"
        fail(where, what, "take it out or write the whole pair", text[at : at + 40])
    return value, end


def place(text: str, at: int, first_line: int = 1, first_column: int = 1) -> tuple[int, int]:
    """Line and column of a character, both 1-based; the text begins at first_line, first_column of its file."""
    line_end = text.rfind("\n", 0, at)
    column = first_column + at if line_end < 0 else at - line_end
    return first_line + text.count("\n", 0, at), column


def located(path: Path | str, text: str, at: int, first_line: int = 1, first_column: int = 1) -> str:
    """file:line:column of a character."""
    line, column = place(text, at, first_line, first_column)
    return f"{path}:{line}:{column}"


def kind_of(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false", str: "a text"}
    return kinds.get(type(value), "a number") + (" without entries" if value == [] else "")


def skip_blanks(text: str, at: int) -> int:
    """Where the next character stands that is no blank, or the end of the text."""
    return at + len(blanks.group()) if (blanks := _BLANKS.match(text, at)) else at


_BLANKS = re.compile(r"[ \t\r\n]+")


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


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_decimal
)
_LENIENT = json.JSONDecoder(parse_int=str)


def _half_character(text: str, start: int, end: int) -> int | None:
    """Where an escaped surrogate stands alone in a JSON value."""
    if not _SURROGATE.search(text, start, end):
        return None
    return next((found.start() for found in _ESCAPE.finditer(text, start, end) if found[1]), None)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# A whole pair, or one of two alone (the group), or any other escape.
_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.")


def as_row(value: object, where: str, line: int, number: int = 0) -> Row:
    """The value as a row; a DataError at `where` if it is no object."""
    if not isinstance(value, dict):
        excerpt = json.dumps(value, ensure_ascii=False)
        fail(where, f"the row is {kind_of(value)}, not an object", 'expected {"column": value, ...}', excerpt)
    row = Row(value)
    row.line, row.number = line, number
    return row
