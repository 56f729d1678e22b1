"""What happens to rows that cannot be used: the first stops the run, or up to a limit they are set aside and counted.

Only what leaves its neighbours readable is a bad row: a field of a wrong type, one line that is no JSON. A file whose
rows cannot be told apart any more (an open quote, a cut archive) always stops the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from neuralbot.errors import DataError

Policy = Literal["stop", "skip"]
_EXCERPT = 2000  # characters of a row that are kept


@dataclass(frozen=True)
class BadRow:
    """problem: the whole message, with file and line. row: the beginning of its text."""

    problem: str
    row: str


@dataclass
class BadRows:
    """Collects the bad rows of all sources of a run. most: how many may be skipped.

    notices: a sentence for each source that had rows left out which are not bad, but teach nothing.
    """

    policy: Policy = "stop"
    most: int = 100
    found: list[BadRow] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _known: set[str] = field(default_factory=set, repr=False)

    def add(self, error: DataError, row: str) -> None:
        """Set a row aside. Raises `error` where bad rows stop the run, DataError where there are too many."""
        if self.policy == "stop":
            raise error
        if str(error) in self._known:  # rows that are streamed are read more than once
            return
        self._known.add(str(error))
        self.found.append(BadRow(str(error), row[:_EXCERPT]))
        if len(self.found) > self.most:
            raise DataError(
                f"more than {self.most} bad rows, the limit of data.max_bad_rows; the last: {error}; mend the file, or "
                "raise the limit if so many may be left out"
            ) from error

    def said(self) -> list[str]:
        """What has been left out so far, for people."""
        lines = list(dict.fromkeys(self.notices))  # rows that are streamed are read more than once
        if self.found:
            rows = "1 bad row was" if len(self.found) == 1 else f"{len(self.found):,} bad rows were"
            lines.append(f"{rows} skipped (data.on_bad_row), the first: {self.found[0].problem}")
        return lines
