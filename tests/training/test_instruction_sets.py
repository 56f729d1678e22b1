"""The fast path under oneDNN held to older instruction sets: the losses stay, whatever it dispatches to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuralbot.hardware import cpu_flags

SCRIPT = """
import json, torch
from neuralbot import kernels  # before transformers is imported: see neuralbot/text_only.py
from tests.training.test_packed_model import model, rows
from neuralbot.data.packing import pack
from neuralbot.kernels.frozen import can_prepack
from neuralbot.kernels.quantized import quantizer
from neuralbot.training.packed_model import PackedModel
torch.set_num_threads(1)
found = {}
for name, dtype, quantize, prepack in (
    ("float32", torch.float32, None, False), ("bfloat16", torch.bfloat16, None, False),
    ("prepacked", torch.bfloat16, None, can_prepack()),
    ("int8", torch.bfloat16, quantizer(8), False), ("nf4", torch.bfloat16, quantizer(4), False),
):
    packed = PackedModel(model(dtype=dtype, quantize=quantize), kernels.best(), prepack=prepack)
    loss = packed.loss(pack(rows()), 50.0)
    loss.backward()
    found[name] = loss.item()
print(json.dumps(found))
"""
# oneDNN's name -> the kernel's flag for a processor that can be held to it.
SETS = {"SSE41": "sse4_1", "AVX2": "avx2", "AVX512_CORE": "avx512bw", "AVX512_CORE_BF16": "avx512_bf16"}


def losses(isa: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa}, cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, float]:
    """The losses with every instruction that the processor has."""
    return losses("ALL")


@pytest.mark.parametrize("isa", SETS)
def test_every_dispatch_gives_the_same_losses(isa: str, whole: dict[str, float]) -> None:
    if SETS[isa] not in cpu_flags():
        pytest.skip(f"this processor has no {isa}")
    found = losses(isa)
    assert found["float32"] == pytest.approx(whole["float32"], rel=1e-5)
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=5e-3)
    assert found["prepacked"] == pytest.approx(found["float32"], rel=5e-3)
    assert found["int8"] == pytest.approx(found["float32"], rel=5e-3)
    assert found["nf4"] == pytest.approx(found["float32"], rel=2e-2)
