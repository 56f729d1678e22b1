"""Weights that are not trained: y = x W^T, and dx = dy W, for several layers that read the same x at once.

Inputs are (tokens, width) in the dtype of the computation; `added` is added to y. Weights (out, in) are in that
dtype (`Dense`, or `Prepacked` where memory allows), in int8 and multiplied in integers (`Int8`), or in four bits and
unpacked when needed (`FourBit`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn


class Frozen(Protocol):
    """A frozen product of layers whose outputs stand side by side."""

    sizes: list[int]  # outputs of each layer

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor: ...

    def backward(self, grad: Tensor) -> Tensor: ...


class Dense:
    """Weights in the dtype of the computation."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.weight = _joined(layers, "weight")
        self.bias = _bias(layers)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return _linear(x, self.weight, self.bias, added)

    def backward(self, grad: Tensor) -> Tensor:
        return _product(grad, self.weight)


class Prepacked(Dense):
    """bf16 weights beside two copies in the blocks that oneDNN multiplies, which it else makes for every product."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__(layers)
        self.blocks = _reorder(self.weight)
        self.transposed_blocks = _reorder(self.weight.t().contiguous())

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        y = _blocked_linear(x, self.blocks, self.bias)
        return y if added is None else y.add_(added)

    def backward(self, grad: Tensor) -> Tensor:
        return _blocked_linear(grad, self.transposed_blocks, None)


def can_prepack() -> bool:
    """Whether oneDNN multiplies bf16 on this processor."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _reorder(weight: Tensor) -> Tensor:
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
    return blocks


def _blocked_linear(x: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")
    return y


# Rows for which oneDNN chooses the blocks; other numbers of rows can use them too.
_EXPECTED_ROWS = 1024


class Int8:
    """int8 weights with a scale for each output; rows are quantized as they come, and integers are multiplied."""

    def __init__(self, layers: Sequence[nn.Linear], kernels: ModuleType) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.weight = _joined(layers, "weight")
        self.scales = _joined(layers, "scales")
        self.bias = _bias(layers)
        self.kernels = kernels

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        rows, scales = self.kernels.quantize_rows(x, None)
        out = torch.empty(len(x), len(self.weight), dtype=x.dtype)
        y = self._in_integers(rows, self.weight.t(), scales, self.scales, added, out)
        return y if self.bias is None else y.add_(self.bias)

    def backward(self, grad: Tensor) -> Tensor:
        # The sum runs over the outputs now, so their scales go into the gradient before it is quantized.
        rows, scales = self.kernels.quantize_rows(grad, self.scales)
        out = torch.empty(len(grad), self.weight.shape[1], dtype=grad.dtype)
        return self._in_integers(rows, self.weight, scales, None, None, out)

    def _in_integers(
        self, rows: Tensor, weight: Tensor, scales: Tensor, columns: Tensor | None, added: Tensor | None, out: Tensor
    ) -> Tensor:
        width = max(512, _SUMS // len(rows))
        for start in range(0, weight.shape[1], width):
            sums = torch._int_mm(rows, weight[:, start : start + width])
            self.kernels.dequantize(sums, scales, columns, added, out, start)
        return out


# int32 sums made at once: they are read again while they are still in the cache.
_SUMS = 2**21


class FourBitLayer(Protocol):
    """What a four-bit layer holds: see quantized.FourBitLinear."""

    in_features: int
    out_features: int
    weight: nn.Parameter
    bias: nn.Parameter | None
    table: Tensor

    def largest(self) -> Tensor: ...


class FourBit:
    """Four-bit weights: a matrix lives in the dtype of the computation only while it is multiplied."""

    def __init__(self, layers: Sequence[FourBitLayer], kernels: ModuleType) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.layers = layers
        self.bias = _bias(layers)
        self.kernels = kernels

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return _linear(x, self._weight(x.dtype), self.bias, added)

    def backward(self, grad: Tensor) -> Tensor:
        return _product(grad, self._weight(grad.dtype))

    def _weight(self, dtype: torch.dtype) -> Tensor:
        weight = _workspace(sum(self.sizes), self.layers[0].in_features, dtype)
        start = 0
        for layer in self.layers:
            part = weight[start : start + layer.out_features]
            self.kernels.unpack_four_bits(layer.weight, layer.table, layer.largest(), part)
            start += layer.out_features
        return weight


def _workspace(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Memory for one matrix, the same for all: fresh pages from the system would cost as much as the unpacking."""
    size = rows * width
    known = _workspaces.by_dtype
    if dtype not in known or known[dtype].numel() < size:
        with torch.inference_mode(False):  # made while answering it would be of no use for training
            known[dtype] = torch.empty(size, dtype=dtype)
    return known[dtype][:size].view(rows, width)


class _Workspaces(threading.local):
    """Each thread has its own: two models may answer at once."""

    def __init__(self) -> None:
        self.by_dtype: dict[torch.dtype, Tensor] = {}


_workspaces = _Workspaces()


def _product(grad: Tensor, weight: Tensor) -> Tensor:
    """grad W. oneDNN repacks a large and tall W faster when it is told the transposed product."""
    if weight.numel() < 2**24 or weight.shape[0] < 4 * weight.shape[1]:
        return grad @ weight
    return (weight.t() @ grad.t()).t().contiguous()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> Tensor:
    if added is None:
        return nn.functional.linear(x, weight, bias)
    y = torch.addmm(added, x, weight.t())
    return y if bias is None else y.add_(bias)


def _joined(layers: Sequence[nn.Linear], name: str) -> Tensor:
    """The layers' tensors as one, of which each layer keeps a view: one product instead of three, no second copy."""
    tensors: list[Tensor] = [getattr(layer, name) for layer in layers]
    if len(tensors) == 1:
        return tensors[0].detach()
    joined = torch.cat([tensor.detach() for tensor in tensors])
    start = 0
    for tensor in tensors:
        tensor.data = joined[start : start + len(tensor)]
        start += len(tensor)
    return joined


def _bias(layers: Sequence[nn.Linear] | Sequence[FourBitLayer]) -> Tensor | None:
    given = [layer.bias for layer in layers if layer.bias is not None]
    if not given:
        return None
    like = given[0]
    return torch.cat([like.new_zeros(x.out_features) if x.bias is None else x.bias.detach() for x in layers])
