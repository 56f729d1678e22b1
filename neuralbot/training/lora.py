"""LoRA's thin products for layers that read the same x, and their gradients, by hand.

y += scaling * (x A^T) B^T for each layer that has an adapter. A and B stay the parameters of peft's layers, so peft
saves, loads and merges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """One layer's LoRA matrices: a (rank, in), b (out, rank); `columns` is where the layer's outputs stand in y."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    dropout: float
    columns: slice


@dataclass(frozen=True)
class Applied:
    """What the gradients need: for each adapter x A^T, and what dropout kept (None: everything)."""

    thin: list[Tensor]
    masks: list[Tensor | None]


class Lora:
    """The adapters of layers whose outputs stand side by side in one y."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = list(adapters)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for adapter in self.adapters for parameter in (adapter.a, adapter.b)]

    def forward(self, x: Tensor, y: Tensor, training: bool) -> Applied:
        """Adds to y (tokens, outputs) in place."""
        masks = [_mask(x, adapter.dropout) if training else None for adapter in self.adapters]
        thin = [
            _masked(x, mask) @ adapter.a.to(x.dtype).t() for adapter, mask in zip(self.adapters, masks, strict=True)
        ]
        for adapter, t in zip(self.adapters, thin, strict=True):
            y[:, adapter.columns].addmm_(t, adapter.b.to(x.dtype).t(), alpha=adapter.scaling)
        return Applied(thin, masks)

    def backward(self, grad: Tensor, x: Tensor, applied: Applied, dx: Tensor | None) -> list[Tensor]:
        """The gradients of `parameters`, in float32; what flows to x is added to dx in place, unless that is None."""
        grads = []
        for adapter, thin, mask in zip(self.adapters, applied.thin, applied.masks, strict=True):
            towards = grad[:, adapter.columns]
            d_thin = towards @ (adapter.b.to(x.dtype) * adapter.scaling)
            grads += [(d_thin.t() @ _masked(x, mask)).float(), (towards.t() @ (thin * adapter.scaling)).float()]
            if dx is not None and mask is None:
                dx.addmm_(d_thin, adapter.a.to(x.dtype))
            elif dx is not None:
                dx += _masked(d_thin @ adapter.a.to(x.dtype), mask)
        return grads


def _mask(x: Tensor, p: float) -> Tensor | None:
    """1 / (1 - p) where dropout keeps and 0 where it drops; sixteen random bits decide."""
    if p == 0.0:
        return None
    # Four decisions from one random number: a quarter of what torch.rand costs.
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= round(p * 2**16) - 2**15
    return kept.to(x.dtype).mul_(1 / (1 - p))


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
