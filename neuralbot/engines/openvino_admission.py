"""When a request may join the pipeline, so that no two write into one block of the key/value cache.

GenAI keeps what it has read in blocks and finds them again by a hash of their content, also a block that is filled in
part: under all that its sequence holds so far. Where another prompt begins with just that, it gets the same block while
its owner still uses it, or two new prompts get it together; then each writes its own tokens into it, and some answers
come out wrong (seen in 2026.4.1, where prompts of one text come at random). Whole blocks are never written again. So a
request waits in two cases, and for a step or two as a rule: while all that a running one holds is the beginning of its
prompt, and while one without a second token may have found the same partly filled block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

REMEMBERED = 2**16  # sequences; a block of one that ended longer ago may still be there, where few are


@dataclass
class Running:
    """What is known of a request in the pipeline: digests of all its tokens, and of them without the last made one.

    found: those of partly filled blocks that its prompt begins with.
    """

    content: int
    before: int
    found: set[int]
    made: int = 0

    @property
    def settled(self) -> bool:
        """Whether its blocks are kept under its own content: where a prompt ends with a block, a step late."""
        return self.made > 1

    def add(self, ids: Iterable[int]) -> None:
        for token in ids:
            self.before, self.content = self.content, _digest(self.content, token)
            self.made += 1


@dataclass
class Admission:
    """Says which prompts have to wait for which running requests."""

    running: dict[int, Running] = field(default_factory=dict)
    _left: dict[int, None] = field(default_factory=dict)  # digests of what ended, the oldest first

    def admit(self, number: int, prompt: list[int]) -> bool:
        """Whether it may join now; then it counts as running."""
        digests = [*accumulate(prompt, _digest, initial=0)][1:]
        begins = set(digests)
        found = begins & self._left.keys()
        for other in self.running.values():
            if other.content in begins or other.before in begins or (not other.settled and found & other.found):
                return False
        self.running[number] = Running(digests[-1], digests[-1], found)
        return True

    def leave(self, number: int) -> None:
        """Only when the pipeline has let go of it. The last token of an answer is not in the cache, but may be."""
        running = self.running.pop(number)
        for digest in (running.before, running.content):
            self._left.pop(digest, None)
            self._left[digest] = None
        while len(self._left) > 2 * REMEMBERED:
            del self._left[next(iter(self._left))]


def _digest(before: int, token: int) -> int:
    return hash((before, token))
