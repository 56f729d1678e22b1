"""Each kernel in C against its twin in torch, in both storage types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralbot import kernels
from neuralbot.data.packing import pack
from neuralbot.kernels import native, plain

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
ROWS = [{"input_ids": ids, "labels": ids} for ids in ([*range(20), 1], [*range(20), 2, 3], [9] * 37, list(range(11)))]
PACK = pack(ROWS)
SEGMENTS, TOKENS = PACK.segments, len(PACK.ids)
HEADS, SIZE = 6, 16


def close(one: Tensor, other: Tensor) -> bool:
    # bf16 has eight bits: the twins may round the last of them differently.
    bound = 1e-5 if one.dtype == torch.float32 else 1e-2
    return bool((one.float() - other.float()).abs().max() <= bound * other.float().abs().max())


def qkv_and_gradient(dtype: torch.dtype, kv_heads: int) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(TOKENS, (HEADS + 2 * kv_heads) * SIZE).to(dtype)
    return qkv, torch.randn(TOKENS, HEADS * SIZE).to(dtype)


def rms(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, grad, residual = (torch.randn(5, 48).to(dtype) for _ in range(3))
    weight = torch.rand(48)
    out, rstd = k.rms_norm(x, weight, 1e-5)
    return out, rstd, *(k.rms_norm_backward(grad, x, weight, rstd, around) for around in (residual, None))


def rotated(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
    qkv, _ = qkv_and_gradient(dtype, 2)
    cos, sin = torch.rand(TOKENS, SIZE), torch.rand(TOKENS, SIZE)
    back = qkv.clone()
    k.rotate(qkv, cos, sin, HEADS + 2, 1.0)
    k.rotate(back, cos, sin, HEADS + 2, -1.0)
    return qkv, back


def gated(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
    gate_up, grad = torch.randn(7, 96).mul(20).to(dtype), torch.randn(7, 48).to(dtype)
    return k.swiglu(gate_up), k.swiglu_backward(grad, gate_up)


def losses(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
    logits, labels, weights = torch.randn(9, 333).mul(10).to(dtype), torch.randint(0, 333, (9,)), torch.rand(9)
    return k.cross_entropy(logits, labels, weights), logits


def whole_numbers(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, columns, added = torch.randn(6, 70).to(dtype), torch.rand(70), torch.randn(6, 200).to(dtype)
    out = torch.zeros(6, 200, dtype=dtype)
    sums = torch.randint(-(10**6), 10**6, (6, 70), dtype=torch.int32)
    scales, wide = torch.rand(6), torch.rand(200)
    k.dequantize(sums, scales, None, None, out, 0)
    k.dequantize(sums, scales, wide, added, out, 100)
    rounded = [part.float() for pair in (k.quantize_rows(x, columns), k.quantize_rows(x, None)) for part in pair]
    return out, *rounded


def four_bits(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
    out = torch.empty(4, 96, dtype=dtype)
    k.unpack_four_bits(torch.randint(0, 256, (6, 32), dtype=torch.uint8), torch.randn(16), torch.rand(6), out)
    return (out,)


def attended(kv_heads: int) -> Callable[[ModuleType, torch.dtype], tuple[Tensor, ...]]:
    def run(k: ModuleType, dtype: torch.dtype) -> tuple[Tensor, ...]:
        qkv, grad = qkv_and_gradient(dtype, kv_heads)
        out, lse = k.attention(qkv, SEGMENTS, HEADS, kv_heads, 0.25)
        return out, lse, k.attention_backward(grad, qkv, out, lse, SEGMENTS, HEADS, kv_heads, 0.25)

    return run


CASES = [rms, rotated, gated, losses, whole_numbers, four_bits, attended(6), attended(2), attended(1)]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_native_is_its_twin(case: Callable[..., tuple[Tensor, ...]], dtype: torch.dtype) -> None:
    results = []
    for k in (native, plain):
        torch.manual_seed(0)
        results.append(case(k, dtype))
    for one, other in zip(*results, strict=True):
        assert close(one, other)


@pytest.fixture
def no_library_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, from which the library is looked for anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield tmp_path / "cache"
    native.library.cache_clear()


@needs_compiler
@pytest.mark.usefixtures("no_library_yet")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_built_for_older_processors_it_is_its_twin_too(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(native, "COMPILE", [flag.replace("=native", "=x86-64-v3") for flag in native.COMPILE])
    for case in CASES:
        test_native_is_its_twin(case, dtype)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_visible(bad: float) -> None:
    logits = torch.randn(3, 64)
    logits[1, 5] = bad
    found = native.cross_entropy(logits, torch.tensor([1, 2, 5]), torch.ones(3))
    assert not torch.isfinite(found[1])
    assert torch.isfinite(found[[0, 2]]).all()
    x = torch.randn(2, 32)
    x[0, 3] = bad
    assert not torch.isfinite(native.rms_norm(x, torch.ones(32), 1e-5)[0][0]).all()


@needs_compiler
def test_attention_over_thousands_of_keys() -> None:
    long = pack([{"input_ids": [7] * 2500, "labels": [7] * 2500}])
    qkv = torch.randn(2500, 3 * SIZE)
    q, k, v = (x[None, None] for x in qkv.chunk(3, 1))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0]
    assert close(native.attention(qkv, long.segments, 1, 1, SIZE**-0.5)[0], expected)


@pytest.mark.usefixtures("no_library_yet")
def test_without_a_compiler_the_plain_kernels_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels.best() is plain


@pytest.mark.usefixtures("no_library_yet")
def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.library() is None


@needs_compiler
def test_the_library_is_built_once_and_kept(no_library_yet: Path) -> None:
    assert native.library() is not None
    (built,) = (no_library_yet / "neuralbot" / "kernels").iterdir()
    first: Any = built.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert built.stat().st_mtime_ns == first
