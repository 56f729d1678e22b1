"""`AutoModelForCausalLM.from_pretrained` of ITREX: a transformers model in the precision or bits that are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError
from neuralbot.transformers.configs import MixedPrecisionConfig, RtnConfig
from neuralbot.transformers.refused import Refused

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PLACE = ("revision", "token", "cache_dir")
# What changes nothing at these values.
_IDLE = {"trust_remote_code": False, "use_neural_speed": False, "device_map": "cpu", "low_cpu_mem_usage": True}


class AutoModelForCausalLM:
    """Loads language models."""

    @staticmethod
    def from_pretrained(
        name: str,
        *,
        quantization_config: MixedPrecisionConfig | RtnConfig | None = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        torch_dtype: torch.dtype | str | None = None,
        **kwargs: Any,
    ) -> PreTrainedModel:
        """The model of a folder, or of the hub, with `revision`, `token` and `cache_dir` as in transformers.

        4 bits are nf4, 8 bits int8. Raises ModelError for what cannot be loaded or honoured.
        """
        import torch

        from neuralbot import modeling, quantized_base
        from neuralbot.kernels.quantized import quantizer

        place = {key: kwargs.pop(key) for key in _PLACE if key in kwargs}
        for key, value in kwargs.items():
            if key not in _IDLE or value != _IDLE[key]:
                raise _refused(f"{key}={value!r}", f"expected quantization_config, torch_dtype, {', '.join(_PLACE)}")
        bits = 4 if load_in_4bit else 8 if load_in_8bit else _bits(quantization_config)
        if isinstance(quantization_config, MixedPrecisionConfig):
            torch_dtype = quantization_config.dtype
        plain = torch.bfloat16 if bits else torch.float32
        dtype: torch.dtype = getattr(torch, torch_dtype) if isinstance(torch_dtype, str) else torch_dtype or plain
        if bits:
            return quantized_base.load_quantized(name, dtype, quantizer(bits, "nf4", False), **place)
        return modeling.load_base(name, dtype, **place)


def _bits(config: Any) -> int | None:
    """The bits of a weight-only config; None for one of precision."""
    if config is None or isinstance(config, MixedPrecisionConfig):
        return None
    if not isinstance(config, RtnConfig):
        raise _refused(f"quantization_config={type(config).__name__}", "expected RtnConfig or MixedPrecisionConfig")
    if config != RtnConfig(config.bits) or config.bits not in (4, 8):
        plain = RtnConfig()
        shown = ", ".join(f"{key}={value!r}" for key, value in vars(config).items() if value != getattr(plain, key))
        raise _refused(f"RtnConfig({shown})", "expected RtnConfig(bits=4) or RtnConfig(bits=8)")
    return config.bits


def _refused(what: str, expected: str) -> ModelError:
    return ModelError(
        f"AutoModelForCausalLM.from_pretrained: {what} cannot be honoured: {expected}",
        code=ErrorCodes.ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL,
    )


class AutoModel(Refused):
    reason = "only language models are loaded; use AutoModelForCausalLM"


class AutoModelForSeq2SeqLM(Refused):
    reason = "only models that continue a text are trained and served; use AutoModelForCausalLM"


class OptimizedModel(Refused):
    reason = "its int8 checkpoints need IPEX, which is archived; use AutoModelForCausalLM"
