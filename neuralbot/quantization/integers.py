"""A weight kept as integers, with a scale and a zero point for each group of neighbours in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_GROUP = 16


@dataclass(frozen=True)
class Integers:
    """values: (outputs, inputs), zeros: (outputs, groups), in 0..2**bits - 1; scales: (outputs, groups) in float16."""

    values: Tensor
    zeros: Tensor
    scales: Tensor
    bits: int

    @property
    def groups(self) -> int:
        return self.scales.shape[1]

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle, so that none needs to be kept."""
        return bool((self.zeros == 2 ** (self.bits - 1)).all())

    def weight(self) -> Tensor:
        """(outputs, inputs) in float32: what the integers stand for."""
        outputs, inputs = self.values.shape
        grouped = self.values.view(outputs, self.groups, -1).float() - self.zeros[..., None].float()
        return (grouped * self.scales[..., None].float()).view(outputs, inputs)


def group_size(inputs: int, wanted: int) -> int:
    """The largest group, `wanted` or halves of it, that divides a row of `inputs`; -1: the whole row."""
    size = wanted
    while size > SMALLEST_GROUP and inputs % size:
        size //= 2
    return size if size > 0 and inputs % size == 0 else -1
