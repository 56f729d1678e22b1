"""Frozen linear layers of 8 and 4 bits: the bases of `qlora: true`.

They stand where an nn.Linear stood and answer as it did, up to the rounding of their weights. int8: one scale for each
output, computed in integers, which AVX512-VNNI and AMX do about twice as fast as bf16. nf4 and fp4 (QLoRA, arXiv
2305.14314): blocks of 64 share their largest value; smallest in memory, computed in bf16. Never written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from neuralbot import kernels
from neuralbot.kernels import plain
from neuralbot.kernels.frozen import Dense, FourBit, Frozen, Int8, Prepacked

Quantize = Callable[[nn.Linear], nn.Linear]

# The 16 values of each format, ascending. nf4: quantiles of a normal distribution, as QLoRA's appendix E lists them.
TABLES = {
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    # One sign bit, two of exponent, one of mantissa, over its largest value 12 (zero has two codes).
    "fp4": tuple(v / 12 for v in (-12, -8, -6, -4, -3, -2, -0.0625, 0, 0, 0.0625, 2, 3, 4, 6, 8, 12)),
}
BLOCK = 64
AT_ONCE = 2**13  # blocks rounded at once: what that needs for a moment stays small
GROUP = 256  # blocks whose largest values share a scale, with double quantization


class QuantizedLinear(nn.Linear):
    """What both kinds share: no gradient reaches the weight, one passes through to the input."""

    def forward(self, x: Tensor) -> Tensor:
        frozen = freeze([self], kernels.best())
        y: Tensor = _Through.apply(x.flatten(0, -2).contiguous(), frozen)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], self.out_features)


class Int8Linear(QuantizedLinear):
    """weight: int8 (out, in). scales: float32 (out,)."""

    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        weight, scales = kernels.best().quantize_rows(linear.weight.detach().contiguous(), None)
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), linear.bias
        self.register_buffer("scales", scales, persistent=False)


class FourBitLinear(QuantizedLinear):
    """weight: uint8 (blocks, 32), two numbers a byte. The blocks' largest values: float32, or int8 in groups."""

    table: Tensor
    steps: Tensor
    unit: Tensor
    middle: Tensor

    def __init__(self, linear: nn.Linear, table: Sequence[float], double: bool) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        values = torch.tensor(table, dtype=torch.float32)
        blocks = linear.weight.detach().reshape(-1, BLOCK)
        steps = largest = blocks.abs().amax(1).float()
        middle, unit = torch.zeros(()), torch.ones(1)
        if double:
            middle = largest.mean()
            groups = nn.functional.pad(largest - middle, (0, -len(largest) % GROUP)).reshape(-1, GROUP)
            rounded, unit = plain.quantize_rows(groups, None)
            steps = rounded.flatten()[: len(largest)]
        for name, tensor in (("table", values), ("steps", steps), ("unit", unit), ("middle", middle)):
            self.register_buffer(name, tensor, persistent=False)
        parts = zip(torch.split(blocks, AT_ONCE), torch.split(self.largest(), AT_ONCE), strict=True)
        weight = torch.cat([_packed(part, largest, values) for part, largest in parts])
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), linear.bias

    def largest(self) -> Tensor:
        """The largest value of each block, float32 (blocks,)."""
        if self.steps.is_floating_point():
            return self.steps
        return self.steps * self.unit.repeat_interleave(GROUP)[: len(self.steps)] + self.middle


def _packed(blocks: Tensor, largest: Tensor, values: Tensor) -> Tensor:
    """The nearest values' numbers, two a byte: a block's first half in the low bits, its second in the high ones."""
    codes = torch.bucketize(blocks / largest[:, None].clamp(min=1e-30), (values[1:] + values[:-1]) / 2, out_int32=True)
    low, high = codes.to(torch.uint8).chunk(2, 1)
    return low | high << 4


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Frozen) -> Tensor:
        ctx.frozen = frozen
        return frozen.forward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.frozen.backward(grad.contiguous()), None


def freeze(layers: Sequence[nn.Linear], kernels: ModuleType, *, prepack: bool = False) -> Frozen:
    """One frozen product of layers of one kind; they keep working, on the same memory (and copies, with `prepack`)."""
    (kind,) = {type(layer) for layer in layers}
    if kind is FourBitLinear:
        return FourBit(layers, kernels)  # type: ignore[arg-type]  # all are FourBitLinear
    if kind is Int8Linear:
        return Int8(layers, kernels)
    return Prepacked(layers) if prepack else Dense(layers)


def quantizer(bits: int, quant_type: str = "nf4", double_quant: bool = True) -> Quantize:
    """Makes the layer of 8 or 4 bits that takes an nn.Linear's place; leaves alone what does not divide into blocks."""

    def quantize(linear: nn.Linear) -> nn.Linear:
        if bits == 8:
            return Int8Linear(linear)
        if linear.in_features % BLOCK:
            return linear
        return FourBitLinear(linear, TABLES[quant_type], double_quant)

    return quantize
