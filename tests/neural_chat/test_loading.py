"""Models loaded by ITREX's AutoModelForCausalLM and optimize_model, in the precision that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from neuralbot.errors import ModelError, NeuralbotError
from neuralbot.kernels.quantized import FourBitLinear, Int8Linear
from neuralbot.neural_chat import optimize_model
from neuralbot.transformers import AMPConfig, AutoModelForCausalLM, AwqConfig, MixedPrecisionConfig, RtnConfig


@pytest.fixture(scope="module")
def folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "float16", "trust_remote_code": False, "low_cpu_mem_usage": True}, torch.float16),
        ({"quantization_config": MixedPrecisionConfig()}, torch.bfloat16),
        ({"quantization_config": AMPConfig("float32")}, torch.float32),
    ],
)
def test_a_model_is_loaded_in_the_precision_asked_for(options: dict[str, Any], dtype: torch.dtype, folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(torch.arange(5)[None]).logits.shape == (1, 5, model.config.vocab_size)


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        ({"load_in_4bit": True}, FourBitLinear),
        ({"load_in_8bit": True}, Int8Linear),
        ({"quantization_config": RtnConfig()}, FourBitLinear),
        ({"quantization_config": RtnConfig(bits=8)}, Int8Linear),
    ],
)
def test_a_model_is_loaded_in_the_bits_asked_for(options: dict[str, Any], layer: type, folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    assert any(isinstance(module, layer) for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"quantization_config": AwqConfig()},
            "AwqConfig cannot be honoured by the torch engine: the integers that it chooses are for OpenVINO",
        ),
        (
            {"quantization_config": RtnConfig(bits=3)},
            r"RtnConfig\(bits=3, weight_dtype=None\): expected bits=8 or 4",
        ),
        ({"quantization_config": RtnConfig(use_quant=False)}, r"RtnConfig\(use_quant=False\) cannot be honoured"),
        ({"trust_remote_code": True}, "trust_remote_code=True cannot be honoured: expected quantization_config"),
        ({"use_llm_runtime": True}, "use_llm_runtime=True cannot be honoured"),
    ],
)
def test_what_cannot_be_loaded_is_told(options: dict[str, Any], message: str, folder: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        AutoModelForCausalLM.from_pretrained(folder, **options)
    assert caught.value.code == 5001


def test_unknown_arguments_are_an_error_where_itrex_swallowed_them() -> None:
    with pytest.raises(TypeError, match="weight_dtipe"):
        RtnConfig(weight_dtipe="nf4")  # type: ignore[call-arg]


def test_optimize_model_gives_the_model_in_the_precision(folder: str) -> None:
    for model in (folder, AutoModelForCausalLM.from_pretrained(folder)):
        assert optimize_model(model, MixedPrecisionConfig("bfloat16")).dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{"config": RtnConfig()}, {"config": AMPConfig(), "use_neural_speed": True}])
def test_optimize_model_refuses_what_it_would_not_do(options: dict[str, Any], folder: str) -> None:
    with pytest.raises(
        NeuralbotError, match=r"cannot be honoured: expected MixedPrecisionConfig; weight-only"
    ) as caught:
        optimize_model(Path(folder), **options)
    assert caught.value.code == 5001
