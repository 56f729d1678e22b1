"""Every model family: served by OpenVINO with the torch engine's greedy ids in float32, or left to that one, and said.

The table of docs/openvino.md is that of this test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig

from neuralbot import chat_engine
from neuralbot.engines import export
from neuralbot.engines.openvino_engine import OpenVinoEngine
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.neural_chat.config import PipelineConfig
from neuralbot.transformers import MixedPrecisionConfig
from tests.training import test_families

pytestmark = pytest.mark.skipif(export.missing() is not None, reason=f"{export.missing()} is not installed")

FAMILIES = test_families.FAMILIES | {"phi 2": PhiConfig(**test_families.GROUPED | {"num_key_value_heads": 2})}
# Why the torch engine answers.
LEFT = {
    "gemma 2": "cannot be exported for OpenVINO: The current version of Transformers does not allow",
    "gemma 3": "cannot be exported for OpenVINO: The current version of Transformers does not allow",
    "mpt": "does not run in OpenVINO: it answers otherwise than the model, from token 1 of 8 on",
}
QUICK = ("qwen 2", "mpt")
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [40], list(range(5, 95))]  # the last is longer than the sliding windows


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_a_family_answers_as_torch_does_or_is_left_to_it(
    name: str, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NEURALBOT_ENGINE", "auto")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(FAMILIES[name])
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # as they are made, attention is too weak to matter
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    fast, slow = (load(tmp_path / "model", engine) for engine in ("auto", "torch"))
    if name in LEFT:
        assert isinstance(fast.engine, TorchEngine)
        assert len(fast.notices) == 1 and fast.notices[0].startswith("the torch engine answers: ")
        assert LEFT[name] in fast.notices[0]
        return
    assert isinstance(fast.engine, OpenVinoEngine) and isinstance(slow.engine, TorchEngine)
    try:
        for prompt in PROMPTS:
            expected = list(slow.engine.stream(prompt, Sampling(max_new_tokens=20)))
            assert list(fast.engine.stream(prompt, Sampling(max_new_tokens=20))) == expected
    finally:
        fast.engine.close()


def load(folder: Path, engine: str) -> chat_engine.LoadedEngine:
    config = PipelineConfig(str(folder), optimization_config=MixedPrecisionConfig("float32"), engine=engine)
    return chat_engine.load(config)
