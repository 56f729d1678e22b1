"""One decoder layer of the Llama family over a pack of rows, forward and backward by hand.

By hand because the base is frozen: no gradient of a frozen weight is formed, what is cheap (norms, the gated product)
is computed again instead of kept, and each small step is one pass over memory. T tokens of a pack stand in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from neuralbot.kernels.layout import Segments
from neuralbot.kernels.quantized import freeze
from neuralbot.training.lora import Adapter, Applied, Lora


@dataclass(frozen=True)
class Line:
    """What every layer of one pass shares: the pack's segments and its rotary angles, cos and sin (T, head size)."""

    segments: Segments
    cos: Tensor
    sin: Tensor


class Projection:
    """Linear layers that read the same input: their frozen product and their adapters."""

    def __init__(self, layers: Sequence[nn.Module], kernels: ModuleType, prepack: bool) -> None:
        bases: list[Any] = [getattr(layer, "base_layer", layer) for layer in layers]
        self.frozen = freeze(bases, kernels, prepack=prepack)
        self.lora = Lora(_adapters(layers, self.frozen.sizes))

    def forward(self, x: Tensor, training: bool, added: Tensor | None = None) -> tuple[Tensor, Applied]:
        y = self.frozen.forward(x, added)
        return y, self.lora.forward(x, y, training)


@dataclass
class Kept:
    """What a layer's backward pass needs of its forward pass."""

    x: Tensor
    rstd: Tensor
    qkv: Tensor
    qkv_lora: Applied
    mixed: Tensor
    lse: Tensor
    out_lora: Applied
    y: Tensor
    y_rstd: Tensor
    gate_up: Tensor
    gate_up_lora: Applied
    down_lora: Applied


class PackedLayer:
    """A transformers decoder layer (Llama's names), its weights shared with it."""

    def __init__(self, layer: Any, kernels: ModuleType, *, prepack: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.kernels = kernels
        self.scale = float(attention.scaling)
        self.size = int(attention.head_dim)
        self.qkv = Projection((attention.q_proj, attention.k_proj, attention.v_proj), kernels, prepack)
        self.out = Projection((attention.o_proj,), kernels, prepack)
        self.gate_up = Projection((mlp.gate_proj, mlp.up_proj), kernels, prepack)
        self.down = Projection((mlp.down_proj,), kernels, prepack)
        self.norms = [
            (norm.weight.detach().float(), float(norm.variance_epsilon))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        self.heads, self.kv_heads = (self.qkv.frozen.sizes[i] // self.size for i in (0, 1))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained ones, in the order in which `backward` returns their gradients."""
        return [p for part in (self.qkv, self.out, self.gate_up, self.down) for p in part.lora.parameters]

    def forward(self, x: Tensor, line: Line, places: Tensor | None, training: bool) -> tuple[Tensor, Kept]:
        """x (T, hidden) -> the same, or only the rows `places` of it (the last layer: nothing reads the others)."""
        kernels = self.kernels
        (weight, eps), (y_weight, y_eps) = self.norms
        h, rstd = kernels.rms_norm(x, weight, eps)
        qkv, qkv_lora = self.qkv.forward(h, training)
        kernels.rotate(qkv, line.cos, line.sin, self.heads + self.kv_heads, 1.0)
        mixed, lse = kernels.attention(qkv, line.segments, self.heads, self.kv_heads, self.scale)
        y, out_lora = self.out.forward(_rows(mixed, places), training, added=_rows(x, places))
        h, y_rstd = kernels.rms_norm(y, y_weight, y_eps)
        gate_up, gate_up_lora = self.gate_up.forward(h, training)
        z, down_lora = self.down.forward(kernels.swiglu(gate_up), training, added=y)
        return z, Kept(
            x, rstd, qkv, qkv_lora, mixed, lse, out_lora, y, y_rstd, gate_up, gate_up_lora, down_lora
        )  # fmt: skip

    def backward(
        self, dz: Tensor, kept: Kept, line: Line, places: Tensor | None, wants_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients towards x (None unless wanted) and towards `parameters`."""
        dy, mlp_grads = self._mlp_backward(dz, kept)
        mixed = _rows(kept.mixed, places)
        d_mixed = self.out.frozen.backward(dy)
        out_grads = self.out.lora.backward(dy, mixed, kept.out_lora, d_mixed)
        d_mixed, dy = (_spread(rows, places, len(kept.x)) for rows in (d_mixed, dy))
        dx, qkv_grads = self._attention_backward(d_mixed, dy, kept, line, wants_dx)
        return dx, [*qkv_grads, *out_grads, *mlp_grads]

    def _mlp_backward(self, dz: Tensor, kept: Kept) -> tuple[Tensor, list[Tensor]]:
        kernels, (weight, eps) = self.kernels, self.norms[1]
        da = self.down.frozen.backward(dz)
        down_grads: list[Tensor] = []
        if self.down.lora.adapters:
            down_grads = self.down.lora.backward(dz, kernels.swiglu(kept.gate_up), kept.down_lora, da)
        d_gate_up = kernels.swiglu_backward(da, kept.gate_up)
        dh = self.gate_up.frozen.backward(d_gate_up)
        gate_up_grads: list[Tensor] = []
        if self.gate_up.lora.adapters:
            h, _ = kernels.rms_norm(kept.y, weight, eps)
            gate_up_grads = self.gate_up.lora.backward(d_gate_up, h, kept.gate_up_lora, dh)
        return kernels.rms_norm_backward(dh, kept.y, weight, kept.y_rstd, dz), [*gate_up_grads, *down_grads]

    def _attention_backward(
        self, d_mixed: Tensor, dy: Tensor, kept: Kept, line: Line, wants_dx: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        kernels, (weight, eps) = self.kernels, self.norms[0]
        d_qkv = kernels.attention_backward(
            d_mixed, kept.qkv, kept.mixed, kept.lse, line.segments, self.heads, self.kv_heads, self.scale
        )
        kernels.rotate(d_qkv, line.cos, line.sin, self.heads + self.kv_heads, -1.0)
        dh = self.qkv.frozen.backward(d_qkv) if wants_dx else None
        grads: list[Tensor] = []
        if self.qkv.lora.adapters:
            h, _ = kernels.rms_norm(kept.x, weight, eps)
            grads = self.qkv.lora.backward(d_qkv, h, kept.qkv_lora, dh)
        dx = None if dh is None else kernels.rms_norm_backward(dh, kept.x, weight, kept.rstd, dy)
        return dx, grads


def _adapters(layers: Sequence[nn.Module], sizes: Sequence[int]) -> list[Adapter]:
    """peft's LoRA matrices of the layers that have them."""
    found, start = [], 0
    for layer, size in zip(layers, sizes, strict=True):
        if hasattr(layer, "lora_A"):
            (name,) = layer.active_adapters  # type: ignore[misc]  # nn.Module hides what peft's layer has
            dropout = getattr(layer.lora_dropout[name], "p", 0.0)  # type: ignore[index]
            a, b, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]  # type: ignore[index, union-attr]
            found.append(Adapter(a, b, float(scaling), float(dropout), slice(start, start + size)))
        start += size
    return found


def _rows(x: Tensor, places: Tensor | None) -> Tensor:
    return x if places is None else x[places]


def _spread(rows: Tensor, places: Tensor | None, tokens: int) -> Tensor:
    """Rows back to their places, zero elsewhere."""
    return rows if places is None else rows.new_zeros(tokens, rows.shape[1]).index_copy_(0, places, rows)
