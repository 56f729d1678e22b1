"""Rows from one JSON document, a list of objects or an object that holds such a list, read piece by piece.

Only a window of the text is in memory: it begins at the row that is being read and ends some way behind it, so a file
may be larger than memory. Lines and columns are those of the file.

Does not: read files with an object on each line (`sources`), find rows inside rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from neuralbot.data import strict_json
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.strict_json import EXCERPT, Row, Unfinished, as_row, fail, parse, place, skip_blanks, too_large
from neuralbot.data.text_files import Bytes, decode
from neuralbot.errors import DataError

_CHUNK_BYTES = 2**20
_REJECTED = 2000  # characters of a row that are kept for the file of rejects
_MEND = "mend it or save the file again"


class Window:
    """A stretch of the text of a file, with a place in it."""

    def __init__(self, path: Path, stream: Bytes) -> None:
        self.path = path
        self.text = ""
        self.at = 0
        self._begin = (1, 1)  # line and column of the text's first character
        self._known = (0, 1, 1)  # a character whose line and column were counted
        self._stream, self._undecoded, self._more = stream, b"", True
        self._no_text: DataError | None = None

    def place(self) -> tuple[int, int]:
        """Line and column in the file."""
        known, line, column = self._known
        line, column = place(self.text[known : self.at], self.at - known, line, column)
        self._known = (self.at, line, column)
        return line, column

    def peek(self) -> str:
        """Step over blanks; the next character, or nothing at the end of the file."""
        self.at = skip_blanks(self.text, self.at)
        while self.at == len(self.text) and self._more:
            self._read_on()
            self.at = skip_blanks(self.text, self.at)
        return self.text[self.at : self.at + 1]

    def take(self, character: str) -> bool:
        """Step over the next character if it is this one."""
        found = self.peek() == character
        self.at += found
        return found

    def value(self, *, strict: bool = True) -> Any:
        """The JSON value that comes next; step over it. Raises DataError, and stays, if it is none or too large."""
        self.peek()
        while True:
            line, column = self._begin
            try:
                value, end = parse(
                    self.path, self.text, self.at, first_line=line, first_column=column, more=self._more, strict=strict
                )
            except Unfinished:
                self._held_to_size(len(self.text))
                self._read_on()
            else:
                self._held_to_size(end)
                self.at = end
                return value

    def fail(self, what: str, then: str) -> NoReturn:
        line, column = self.place()
        fail(f"{self.path}:{line}:{column}", what, then, self.text[self.at : self.at + EXCERPT])

    def _held_to_size(self, end: int) -> None:
        if end - self.at > strict_json.ROW_LIMIT_BYTES:
            too_large(f"{self.path}:{self.place()[0]}", self.text[self.at : self.at + EXCERPT])

    def _read_on(self) -> None:
        """Drop the text before the place and append the next; more at once the longer the value has become."""
        if self._no_text is not None:
            raise self._no_text
        self._begin = self.place()
        self.text, self.at, self._known = self.text[self.at :], 0, (0, *self._begin)
        read = self._stream.read(max(_CHUNK_BYTES, len(self.text)))
        self._more = bool(read)
        raw = self._undecoded + read
        line, column = place(self.text, len(self.text), *self._begin)
        try:
            text, used = decode(self.path, raw, line, column, more=self._more)
        except DataError as error:
            self._no_text = error
            raise
        self.text, self._undecoded = self.text + text, raw[used:]


def rows(window: Window, bad: BadRows) -> Iterator[Row]:
    """The rows of a list, or of the one list in an object. Raises DataError, also for text behind it."""
    if window.peek() == "[":
        yield from _list(window, "", bad)
        what = "list"
    else:
        yield from _object(window, bad)
        what = "object"
    if window.peek():
        window.fail(f"text after the end of the {what}", "take it out")


def _object(window: Window, bad: BadRows) -> Iterator[Row]:
    """An object such as {"version": 1, "data": [...]}: the rows of its list; all else in it is read and left."""
    start = f"{window.path}:{window.place()[0]}"
    keys: list[str] = []
    lists: list[str] = []
    window.take("{")
    more = not window.take("}")
    while more:
        keys.append(window.value())
        if not isinstance(keys[-1], str) or not window.take(":"):
            window.fail("invalid JSON: a key in double quotes and a colon are missing", _MEND)
        if window.peek() != "[":
            window.value()
        elif lists:
            _not_one_list(start, keys, [*lists, keys[-1]])
        else:
            lists.append(keys[-1])
            yield from _list(window, f"{keys[-1]}: ", bad)
        more = _goes_on(window, "}", "object", "after this value")
    if not lists:
        _not_one_list(start, keys, lists)


def _not_one_list(where: str, keys: list[str], lists: list[str]) -> NoReturn:
    found = f"lists under {', '.join(map(repr, lists))}" if lists else "no list"
    shown = ", ".join(repr(key[:EXCERPT]) for key in keys[:8]) + (", ..." if len(keys) > 8 else "")
    then = 'expected a list of objects, one for each row, such as [{"question": "...", "answer": "..."}]'
    fail(where, f"is one object with {found} (its keys: {shown})", then)


def _list(window: Window, name: str, bad: BadRows) -> Iterator[Row]:
    window.take("[")
    number = 0
    more = not window.take("]")
    while more:
        number += 1
        window.peek()
        row = _row(window, f"{name}row {number}", number, bad)
        if row is not None:
            yield row
        more = _goes_on(window, "]", "list", "after this row")


def _row(window: Window, name: str, number: int, bad: BadRows) -> Row | None:
    """The next row; None if it is bad but the rows behind it can be read."""
    line, _ = window.place()
    text = window.text[window.at : window.at + _REJECTED]
    try:
        value = window.value()
    except DataError as error:
        window.value(strict=False)  # raises the fault again where it hides the end of the row
        bad.add(error, text)
        return None
    try:
        return as_row(value, f"{window.path}:{line}: {name}", line, number)
    except DataError as error:
        bad.add(error, json.dumps(value, ensure_ascii=False))
        return None


def _goes_on(window: Window, close: str, what: str, after: str) -> bool:
    """Whether a comma comes next; False at the closing bracket."""
    if window.take(","):
        return True
    if not window.take(close):
        ends = not window.peek()
        problem = f"the file ends inside the {what}" if ends else f"a comma or {close} is missing {after}"
        window.fail(f"invalid JSON: {problem}", _MEND)
    return False
