"""Where the tokens of several rows stand in one line: a tree of segments (runs of tokens).

A row is a path from a root to a leaf; its tokens see the tokens before them on that path and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Run = tuple[int, int]  # start, length
Path = tuple[Run, ...]


@dataclass(frozen=True)
class Segments:
    """The tree, as int64 lists: each segment's run, and its ancestors' runs (spans), nearest to the root first."""

    start: Tensor
    length: Tensor
    first_span: Tensor  # (segments + 1): the spans of segment i stand from first_span[i] to first_span[i + 1]
    span_start: Tensor
    span_length: Tensor


def tree(paths: Sequence[Path]) -> Segments:
    """Segments from their paths, each a root's run down to the segment's own."""
    first_span = [0]
    spans: list[Run] = []
    for path in paths:
        spans.extend(path[:-1])
        first_span.append(len(spans))
    own = [path[-1] for path in paths]
    return Segments(*_columns(own), torch.tensor(first_span), *_columns(spans))


def _columns(runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
    table = torch.tensor(runs, dtype=torch.int64).reshape(-1, 2)
    return table[:, 0].contiguous(), table[:, 1].contiguous()
