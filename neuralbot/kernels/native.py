"""The kernels in C: built once with the machine's C compiler, kept in the user's cache, called through ctypes.

Nothing here is needed: where no compiler is found, `plain` does the same in torch, only slower; tests hold the two
together. Loops run on torch's own OpenMP threads: the library is linked without one, so it takes the one torch loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from neuralbot.kernels.layout import Segments

SOURCES = Path(__file__).parent
# Sums may be reordered, so that loops vectorize; but a value that is not a number stays one, so that it is noticed.
COMPILE = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-fPIC", "-c")
LINK = ("-shared", "-nostartfiles")
SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


class _Packed(ctypes.Structure):
    """`packed` of packed.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "heads", "kv_heads", "size", "stride", "segments")),
        *((name, ctypes.c_void_p) for name in ("start", "length", "first_span", "span_start", "span_length")),
        ("scale", ctypes.c_float),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built kernels; None where there is no C compiler or it fails."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    try:
        target = _cache_folder() / f"{_fingerprint(compiler)}.so"
        if not target.is_file():
            _build(compiler, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(root) / "neuralbot" / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _fingerprint(compiler: str) -> str:
    """Changes with the sources, the flags, the compiler and the processor that they are built for."""
    target = subprocess.run(
        [compiler, "-march=native", "-dM", "-E", "-x", "c", os.devnull], capture_output=True, check=True, timeout=60
    ).stdout
    digest = hashlib.sha256(target)
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.read_bytes())
    digest.update(" ".join((*COMPILE, *LINK)).encode())
    return digest.hexdigest()[:32]


def _build(compiler: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        compiled, linked = Path(folder) / "kernels.o", Path(folder) / "kernels.so"
        for command in (
            (*COMPILE, str(SOURCES / "kernels.c"), "-o", str(compiled)),
            (*LINK, str(compiled), "-o", str(linked)),
        ):
            subprocess.run([compiler, *command], capture_output=True, check=True, timeout=120)
        linked.replace(target)  # in one step: another process sees all of it or nothing


def _call(name: str, like: Tensor, *arguments: Tensor | int | float | ctypes.Structure | None) -> None:
    library_ = library()
    assert library_ is not None, "ask library() first"
    getattr(library_, f"{name}_{SUFFIX[like.dtype]}")(*map(_argument, arguments))


def _argument(value: Tensor | int | float | ctypes.Structure | None) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x (rows, width) by its root mean square, times weight (float32); also 1 / rms (rows,) for the gradient."""
    out, rstd = torch.empty_like(x), torch.empty(x.shape[0])
    _call("rms_norm", x, x, weight, out, rstd, *x.shape, float(eps))
    return out, rstd


def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None) -> Tensor:
    """The gradient towards x, plus `residual`."""
    out = torch.empty_like(x)
    _call("rms_norm_backward", x, grad, x, weight, rstd, residual, out, *x.shape)
    return out


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, sign: float) -> None:
    """Rotary positions on the first `heads` heads of each row, in place; cos and sin (rows, head size) in float32."""
    _call("rotate", qkv, qkv, cos, sin, qkv.shape[0], heads, cos.shape[1], qkv.stride(0), float(sign))


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up (rows, 2 * width)."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    _call("swiglu", gate_up, gate_up, out, rows, width)
    return out


def swiglu_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """The gradient towards gate_up."""
    out = torch.empty_like(gate_up)
    _call("swiglu_backward", gate_up, grad, gate_up, out, grad.shape[0], grad.shape[1])
    return out


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Losses (rows,) in float32; `logits` becomes weights * (softmax - one at the label), its gradient."""
    losses = torch.empty(logits.shape[0])
    _call("cross_entropy", logits, logits, labels, weights, losses, *logits.shape)
    return losses


def quantize_rows(x: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """int8 rows and their scales (rows,): x * columns ~ rows * scales."""
    out, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(x.shape[0])
    _call("quantize_rows", x, x, columns, out, scales, *x.shape)
    return out, scales


def dequantize(
    sums: Tensor, scales: Tensor, columns: Tensor | None, added: Tensor | None, out: Tensor, start: int
) -> None:
    """out[:, start : start + width] = sums * scales by row * columns by column, plus `added`."""
    _call("dequantize", out, sums, scales, columns, added, out, *sums.shape, start, out.stride(0))


def unpack_four_bits(packed: Tensor, table: Tensor, largest: Tensor, out: Tensor) -> None:
    """`out` from blocks of 64 four-bit numbers (blocks, 32), the format's 16 values and each block's largest."""
    _call("unpack_four_bits", out, packed, table, largest, out, len(packed))


def attention(qkv: Tensor, segments: Segments, heads: int, kv_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention within each row of the pack: out (tokens, heads * size) and the softmaxes' log sums.

    qkv: (tokens, (heads + 2 * kv_heads) * size), positions already rotated in.
    """
    packed = _packed(qkv, segments, heads, kv_heads, scale)
    out, lse = qkv.new_empty(qkv.shape[0], heads * packed.size), torch.empty(heads, qkv.shape[0])
    _call("attention", qkv, qkv, out, lse, packed)
    return out, lse


def attention_backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, segments: Segments, heads: int, kv_heads: int, scale: float
) -> Tensor:
    """The gradient towards qkv."""
    packed = _packed(qkv, segments, heads, kv_heads, scale)
    towards = torch.empty_like(qkv)
    _call("attention_backward", qkv, grad, qkv, out, lse, towards, packed)
    return towards


def _packed(qkv: Tensor, segments: Segments, heads: int, kv_heads: int, scale: float) -> _Packed:
    lists = (segments.start, segments.length, segments.first_span, segments.span_start, segments.span_length)
    return _Packed(
        qkv.shape[0], heads, kv_heads, qkv.shape[1] // (heads + 2 * kv_heads), qkv.stride(0), len(segments.start),
        *(values.data_ptr() for values in lists), scale,
    )  # fmt: skip
