"""One row and where it stands: reads its fields, and says with their place what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from neuralbot.conversation import Conversation, Turn
from neuralbot.data.detection import listed
from neuralbot.data.strict_json import kind_of
from neuralbot.errors import DataError


class At:
    """One row and where it stands; reads its fields and complains about them."""

    def __init__(self, place: str, row: Mapping[str, Any]) -> None:
        self.place = place
        self.row = row

    def fail(self, what: str, then: str) -> NoReturn:
        raise DataError(f"{self.place}: {what}; {then}")

    def text(self, column: str) -> str:
        if column not in self.row:
            then = f"present columns: {listed(self.row) or 'none'}; add it to this row"
            self.fail(f"column {column!r} is missing", then)
        return self.checked(self.row[column], f"column {column!r}")

    def optional(self, column: str | None) -> str | None:
        """The text of a column that may be absent, null or blank: None then."""
        value = self.row.get(column) if column else None
        text = None if value is None else self.checked(value, f"column {column!r}")
        return text if text and text.strip() else None

    def checked(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            self.fail(f"{name} is {kind_of(value)}", f"expected a text{' in quotes' if value is not None else ''}")
        return value

    def kind(self, column: str) -> str:
        """What stands there, in words, where something else was expected."""
        return kind_of(self.row[column]) if column in self.row else "missing"

    def filled(self, column: str) -> str:
        text = self.text(column)
        if not text.strip():
            self.fail(f"column {column!r} is empty", "expected a text: fill it in or take the row out")
        return text

    def conversation(self, turns: Sequence[Turn], **extra: Any) -> Conversation:
        return Conversation(tuple(turns), where=self.place, **extra)
