"""The kernels in torch: the twin that `native` is tested against, and what runs where no C compiler is.

Same functions, same arguments; all arithmetic in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuralbot.kernels.layout import Segments


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x (rows, width) by its root mean square, times weight (float32); also 1 / rms (rows,) for the gradient."""
    rstd = x.float().pow(2).mean(-1).add(eps).rsqrt()
    return (x.float() * rstd[:, None] * weight).to(x.dtype), rstd


def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None) -> Tensor:
    """The gradient towards x, plus `residual`."""
    weighted, r = grad.float() * weight, rstd[:, None]
    towards = r * (weighted - x.float() * r * r * (weighted * x.float()).mean(-1, keepdim=True))
    return (towards if residual is None else towards + residual.float()).to(x.dtype)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, sign: float) -> None:
    """Rotary positions on the first `heads` heads of each row, in place; cos and sin (rows, head size) in float32."""
    size = cos.shape[1]
    turned = qkv[:, : heads * size].view(-1, heads, size)
    low, high = turned.float().chunk(2, -1)
    swapped = torch.cat((-high, low), -1)
    turned.copy_(turned.float() * cos[:, None] + sign * swapped * sin[:, None])


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up (rows, 2 * width)."""
    gate, up = gate_up.float().chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient towards gate_up."""
    gate, up = gate_up.float().chunk(2, -1)
    sigmoid = gate.sigmoid()
    to_gate = grad.float() * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat((to_gate, grad.float() * gate * sigmoid), -1).to(gate_up.dtype)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Losses (rows,) in float32; `logits` becomes weights * (softmax - one at the label), its gradient."""
    log_probs = logits.float().log_softmax(-1)
    losses = -log_probs.gather(1, labels[:, None]).squeeze(1)
    towards = log_probs.exp_().scatter_add_(1, labels[:, None], torch.full((len(labels), 1), -1.0))
    logits.copy_(towards.mul_(weights[:, None]))
    return losses


def quantize_rows(x: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """int8 rows and their scales (rows,): x * columns ~ rows * scales."""
    values = x.float() if columns is None else x.float() * columns
    scales = values.abs().amax(-1).clamp(min=1e-30) / 127
    return (values / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def dequantize(
    sums: Tensor, scales: Tensor, columns: Tensor | None, added: Tensor | None, out: Tensor, start: int
) -> None:
    """out[:, start : start + width] = sums * scales by row * columns by column, plus `added`."""
    here = slice(start, start + sums.shape[1])
    values = sums * scales[:, None]
    if columns is not None:
        values *= columns[here]
    if added is not None:
        values += added[:, here]
    out[:, here] = values


def unpack_four_bits(packed: Tensor, table: Tensor, largest: Tensor, out: Tensor) -> None:
    """`out` from blocks of 64 four-bit numbers (blocks, 32), the format's 16 values and each block's largest."""
    codes = torch.cat((packed & 15, packed >> 4), 1).long()
    out.copy_((table[codes] * largest[:, None]).view_as(out))


def attention(qkv: Tensor, segments: Segments, heads: int, kv_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention within each row of the pack: out (tokens, heads * size) and the softmaxes' log sums.

    qkv: (tokens, (heads + 2 * kv_heads) * size), positions already rotated in.
    """
    q, k, v = _heads(qkv, heads, kv_heads)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    for own, seen, hidden in _views(segments):
        scores = (q[:, own] @ k[:, seen].mT * scale).masked_fill_(hidden, float("-inf"))
        lse[:, own] = scores.logsumexp(-1)
        out[:, own] = (scores - lse[:, own, None]).exp() @ v[:, seen]
    return _joined(out).to(qkv.dtype), lse


def attention_backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, segments: Segments, heads: int, kv_heads: int, scale: float
) -> Tensor:
    """The gradient towards qkv."""
    q, k, v = _heads(qkv, heads, kv_heads)
    g, o = (x.float().view(len(x), heads, -1).transpose(0, 1) for x in (grad, out))
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for own, seen, hidden in _views(segments):
        scores = (q[:, own] @ k[:, seen].mT * scale).masked_fill_(hidden, float("-inf"))
        p = (scores - lse[:, own, None]).exp()
        ds = p * (g[:, own] @ v[:, seen].mT - (g[:, own] * o[:, own]).sum(-1, keepdim=True)) * scale
        dq[:, own] = ds @ k[:, seen]
        dk[:, seen] += ds.mT @ q[:, own]
        dv[:, seen] += p.mT @ g[:, own]
    # Query heads that share a key head add up their gradients towards it.
    dk, dv = (x.view(kv_heads, -1, *x.shape[1:]).sum(1) for x in (dk, dv))
    return torch.cat([_joined(x) for x in (dq, dk, dv)], -1).to(qkv.dtype)


def _heads(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as float32 (heads, tokens, size), keys and values repeated for each query head."""
    split = qkv.float().view(len(qkv), heads + 2 * kv_heads, -1).transpose(0, 1)
    q, k, v = split[:heads], split[heads:-kv_heads], split[-kv_heads:]
    group = heads // kv_heads
    return q, k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _views(segments: Segments) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each segment: its tokens, the tokens it sees, and which of these are hidden from which of its tokens."""
    views = []
    for index, (start, length) in enumerate(zip(segments.start.tolist(), segments.length.tolist(), strict=True)):
        spans = slice(*segments.first_span[index : index + 2].tolist())
        before = [
            torch.arange(begin, begin + count)
            for begin, count in zip(segments.span_start[spans], segments.span_length[spans], strict=True)
        ]
        own = torch.arange(start, start + length)
        seen = torch.cat([*before, own])
        hidden = torch.ones(length, len(seen), dtype=torch.bool).triu(len(seen) - length + 1)
        views.append((own, seen, hidden))
    return views
