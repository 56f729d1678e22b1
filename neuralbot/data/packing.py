"""Rows laid in one line of tokens, where tokens that rows begin with in common stand once.

Positions restart with each row, so a shared prefix has the same positions in all of its rows. Losses and gradients are
those of separate rows: a prefix collects the gradients of every row behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralbot.data.tokenized import IGNORED, Row
from neuralbot.kernels.layout import Path, Run, Segments, tree


@dataclass(frozen=True)
class Pack:
    """One forward pass: the tokens of several rows, and what is to be predicted where.

    ids, positions: (tokens,). A target is a pair of a place in the line and the token that should follow it there;
    weights count the rows that ask for the same pair. real_tokens: those of the rows, shared ones counted for each.
    """

    ids: Tensor
    positions: Tensor
    segments: Segments
    target_places: Tensor
    target_labels: Tensor
    target_weights: Tensor  # float32
    real_tokens: int


# A prefix shorter than this is not worth a segment of its own.
SHORTEST_PREFIX = 8


def pack(rows: Sequence[Row], *, share_prefixes: bool = True) -> Pack:
    """The rows as one pack; without `share_prefixes` each row is a tree of its own.

    rows: `input_ids` and `labels` of equal length, labels IGNORED where nothing is to be learned.
    """
    line = _Line([row["input_ids"] for row in rows])
    order = sorted(range(len(rows)), key=lambda index: rows[index]["input_ids"])
    if share_prefixes:
        line.lay(order, 0, ())
    else:
        for index in order:
            line.lay([index], 0, ())
    targets: Counter[tuple[int, int]] = Counter()
    for row, places in zip(rows, line.places, strict=True):
        targets.update(
            (place, label) for place, label in zip(places, row["labels"][1:], strict=False) if label != IGNORED
        )
    pairs = sorted(targets)
    return Pack(
        ids=torch.tensor(line.ids),
        positions=torch.tensor(line.positions),
        segments=tree(line.paths),
        target_places=torch.tensor([place for place, _ in pairs], dtype=torch.int64),
        target_labels=torch.tensor([label for _, label in pairs], dtype=torch.int64),
        target_weights=torch.tensor([targets[pair] for pair in pairs], dtype=torch.float32),
        real_tokens=sum(map(len, line.places)),
    )


class _Line:
    """Lays rows out depth first, and remembers where each row's tokens came to stand."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows = rows
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.places: list[list[int]] = [[] for _ in rows]
        self.paths: list[Path] = []

    def lay(self, order: Sequence[int], depth: int, path: Path) -> None:
        """Lay what follows the first `depth` tokens, in which the rows of `order` (sorted by tokens) agree."""
        for group in self._groups(order, depth):
            # Sorted, so the first and the last of a group differ soonest.
            end = self._common(group[0], group[-1])
            if end > depth:
                run = self._run(group, depth, end)
                self.paths.append((*path, run))
                if len(group) > 1:
                    self.lay(group, end, (*path, run))

    def _groups(self, order: Sequence[int], depth: int) -> list[list[int]]:
        """Neighbours that share at least SHORTEST_PREFIX more tokens go together."""
        groups: list[list[int]] = []
        for index in order:
            if groups and self._common(groups[-1][0], index) >= depth + SHORTEST_PREFIX:
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def _common(self, one: int, other: int) -> int:
        """How many tokens two rows begin with in common."""
        first, second = self.rows[one], self.rows[other]
        pairs = enumerate(zip(first, second, strict=False))
        return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))

    def _run(self, group: Sequence[int], begin: int, end: int) -> Run:
        start = len(self.ids)
        self.ids.extend(self.rows[group[0]][begin:end])
        self.positions.extend(range(begin, end))
        for index in group:
            self.places[index].extend(range(start, start + end - begin))
        return start, end - begin
