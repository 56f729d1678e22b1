"""PipelineConfig(optimization_config=...) -> the number format that a model is loaded in.

On the OpenVINO engine the weight-only configs of ITREX become int8 and int4 of NNCF. On the torch engine, and those of
transformers always, they become our own frozen layers: int8 with a scale for each output, nf4
and fp4 in blocks of 64. Configs are known by the names of their classes and fields. No torch before one is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from neuralbot import calibration, hardware
from neuralbot.calibration import Calibration
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError

if TYPE_CHECKING:
    import torch

    from neuralbot.kernels.quantized import Quantize

Device = Literal["cpu", "cuda"]
Kept = Literal["fp32", "bf16", "int8", "int4"]

_ACTIVATIONS = ("SmoothQuantConfig", "StaticQuantConfig", "DynamicQuantConfig", "QuantAwareTrainingConfig")
_TODAY = "use RtnConfig(bits=8), RtnConfig(bits=4, weight_dtype='nf4'), or MixedPrecisionConfig()"
_WEIGHTS = {
    "int8": (8, "int8"),
    "nf4": (4, "nf4"),
    "fp4": (4, "fp4"),
    "fp4_e2m1_bnb": (4, "fp4"),
    "int4": (4, "nf4"),
    "int4_clip": (4, "nf4"),
    "int4_fullrange": (4, "nf4"),
}
_REFUSED = {
    "llm_int8_skip_modules": "all linear layers but the output layer are quantized; remove it",
    "algorithm": f"only RTN is offered; {_TODAY}",
    "use_quant": f"it would leave the weights as they are; {_TODAY}",
}
_UNSET: dict[str, tuple[Any, ...]] = {"algorithm": (None, "RTN", "rtn"), "use_quant": (None, True)}
# What changes nothing, with the values at which that need not be said.
_NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "group_size": (None, -1, 32, 64),
    "sym": (None, True),
    "scale_dtype": (None, "fp32"),
    "double_quant_scale_dtype": (None, "fp32"),
    "mse_range": (None, False),
    "layer_wise": (None, False),
    "use_ggml": (None, False),
    "use_neural_speed": (None, False),
    "use_ipex": (None, False),
    "device": (None, "auto", "cpu"),
    "calib_dataloader": (None,),
    "calib_func": (None,),
    "calib_iters": (None, 100),
    "tokenizer": (None,),
    "llm_int8_threshold": (None, 6.0),
    "llm_int8_has_fp16_weight": (None, False),
    "llm_int8_enable_fp32_cpu_offload": (None, False),
}


@dataclass(frozen=True)
class Precision:
    """How a model is loaded. bits: None for plain weights in `dtype`; else the linear layers are kept in `kind`."""

    dtype: torch.dtype
    bits: int | None = None
    kind: str = ""
    double: bool = False
    notices: list[str] = field(default_factory=list)

    @property
    def quantize(self) -> Quantize | None:
        if self.bits is None:
            return None
        from neuralbot.kernels.quantized import quantizer

        return quantizer(self.bits, self.kind, self.double)


@dataclass(frozen=True)
class Exported:
    """How a model is exported for OpenVINO, and what it is computed in. group_size: -1 is a row.

    calibration: how the integers are chosen; None: each weight is rounded by itself.
    """

    kept: Kept
    computed: Literal["f32", "bf16"]
    group_size: int = 128
    symmetric: bool = False
    notices: list[str] = field(default_factory=list)
    calibration: Calibration | None = None


def for_openvino(config: Any) -> Exported | None:
    """What an optimization_config asks of the OpenVINO engine; None: only the torch engine can honour it.

    Raises ModelError for what no engine can.
    """
    name = type(config).__name__
    if config is None or name in ("MixedPrecisionConfig", "AMPConfig"):
        return _mixed_exported(getattr(config, "dtype", "bfloat16"))
    if name not in ("RtnConfig", "WeightOnlyQuantConfig", *calibration.CONFIGS):
        return None
    chosen = calibration.of_config(config)
    bits, _ = _asked_weights(config, name)
    if name in calibration.CONFIGS:
        _require_integers(config, name)
    elif bits == 4 and (config.use_double_quant or not str(config.weight_dtype or "int4").startswith("int4")):
        return None
    _refuse(config, name)
    native = hardware.has_bf16()
    word = _word(config.compute_dtype)
    computed: Literal["f32", "bf16"] = "bf16" if native and word != "float32" else "f32"
    shown = {"f32": "float32", "bf16": "bfloat16"}[computed]
    grain = "one scale for each output" if bits == 8 else f"a scale for each {config.group_size} of them"
    if config.group_size == -1:
        grain = "one scale for each output"
    instead = "" if config.compute_dtype is None or word == shown else f" instead of {word}"
    notices = [f"{name}: the weights are kept in int{bits}, {grain}, computed in {shown}{instead}"]
    notices += _without_effect(config, name, "the OpenVINO engine does", honoured=("sym", "group_size", "mse_range"))
    symmetric = bool(getattr(config, "sym", not getattr(config, "zero_point", True)))
    return Exported("int8" if bits == 8 else "int4", computed, config.group_size, symmetric, notices, chosen)


def _require_integers(config: Any, name: str) -> None:
    asked = config.weight_dtype
    if asked is not None and not str(asked).startswith("int"):
        raise _error(name, f"{name}(weight_dtype={asked!r}) cannot be honoured: integers are chosen; use int4 or int8")


def _mixed_exported(name: str) -> Exported | None:
    native = {"bfloat16": hardware.has_bf16, "float16": hardware.has_fp16}.get(name)
    if native is None:
        return Exported("fp32", "f32")
    if not native():
        return Exported("fp32", "f32", notices=[_not_native(name)])
    return Exported("bf16", "bf16") if name == "bfloat16" else None


def of(config: Any, device: Device) -> Precision:
    """What an optimization_config asks for, on that device. Raises ModelError for what cannot be honoured."""
    name = type(config).__name__
    if config is None or name in ("MixedPrecisionConfig", "AMPConfig"):
        return _mixed(getattr(config, "dtype", "float16" if device == "cuda" else "bfloat16"), device)
    if name in calibration.CONFIGS:
        raise _error(
            name,
            f"{name} cannot be honoured by the torch engine: the integers that it chooses are for OpenVINO "
            f"(pip install 'neuralbot[quantize]'); else {_TODAY}",
        )
    if name in _ACTIVATIONS:
        raise _error(name, f"{name} cannot be honoured: activations are not quantized ahead; {_TODAY}")
    if name not in ("RtnConfig", "WeightOnlyQuantConfig", "BitsAndBytesConfig"):
        raise _error(
            name,
            f"optimization_config is a {name}: expected MixedPrecisionConfig, RtnConfig, WeightOnlyQuantConfig or "
            "BitsAndBytesConfig (from neuralbot.transformers)",
        )
    if device != "cpu":
        raise _error(
            name, f"optimization_config={name}: weight-only layers are for device='cpu'; use MixedPrecisionConfig()"
        )
    return _bits_and_bytes(config) if name == "BitsAndBytesConfig" else _rtn(config, name)


def _mixed(name: str, device: Device) -> Precision:
    import torch

    native = {"bfloat16": hardware.has_bf16, "float16": hardware.has_fp16}.get(name)
    if device == "cpu" and native and not native():
        return Precision(torch.float32, notices=[_not_native(name)])
    return Precision({"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name])


def _not_native(name: str) -> str:
    return f"float32 is used instead of {name}: this processor has no instructions for it"


def _asked(config: Any) -> Any:
    return getattr(config, "weight_dtype", None) or {8: "int8", 4: "int4_clip"}.get(getattr(config, "bits", 4))


def _asked_weights(config: Any, name: str) -> tuple[int, str]:
    """The bits of a weight, and the format of our own layers."""
    if (asked := _asked(config)) not in _WEIGHTS:
        raise _error(
            name,
            f"{name}(bits={getattr(config, 'bits', None)!r}, weight_dtype={getattr(config, 'weight_dtype', None)!r}): "
            f"expected bits=8 or 4, and weight_dtype {', '.join(_WEIGHTS)} or none",
        )
    return _WEIGHTS[asked]


def _rtn(config: Any, name: str) -> Precision:
    asked = _asked(config)
    bits, kind = _asked_weights(config, name)
    _refuse(config, name)
    double = bits == 4 and bool(getattr(config, "use_double_quant", False))
    instead = "" if asked == kind else f" instead of {asked}"
    return _weight_only(config, name, bits, kind, double, getattr(config, "compute_dtype", None), instead)


def _bits_and_bytes(config: Any) -> Precision:
    name = "BitsAndBytesConfig"
    if not config.load_in_8bit and not config.load_in_4bit:
        raise _error(name, f"{name} asks for neither load_in_8bit nor load_in_4bit: set one of them")
    _refuse(config, name)
    if config.load_in_8bit:
        return _weight_only(config, name, 8, "int8", False, None, " without its outliers apart (llm_int8_threshold)")
    kind = config.bnb_4bit_quant_type
    return _weight_only(config, name, 4, kind, config.bnb_4bit_use_double_quant, config.bnb_4bit_compute_dtype, "")


def _weight_only(config: Any, name: str, bits: int, kind: str, double: bool, compute: Any, instead: str) -> Precision:
    dtype, computed = _compute_dtype(compute, bits)
    grain = "one scale for each output" if bits == 8 else f"blocks of 64{', their scales in 8 bits' * double}"
    notices = [f"{name}: linear layers are kept in {kind}{instead}, {grain}, computed {computed}"]
    return Precision(dtype, bits, kind, double, notices + _without_effect(config, name, "neuralbot's own layers do"))


def _without_effect(config: Any, name: str, who: str, honoured: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name}({entry}={value!r}) has no effect: {who} not know it"
        for entry, silent in _NO_EFFECT.items()
        if entry not in honoured and (value := getattr(config, entry, None)) not in silent
    ]


def _compute_dtype(asked: Any, bits: int) -> tuple[torch.dtype, str]:
    """The dtype beside the kept weights, and in words what is computed in: float32 where that is asked for or the
    processor has no bfloat16."""
    import torch

    word = _word(asked)
    dtype = torch.float32 if word == "float32" or not hardware.has_bf16() else torch.bfloat16
    shown = str(dtype).removeprefix("torch.")
    words = f"in integers beside {shown}" if bits == 8 else f"in {shown}"
    fits = asked is None or word == shown or (word == "int8" and bits == 8)
    return dtype, words if fits else f"{words} instead of {word}"


def _word(asked: Any) -> str:
    word = str(asked).removeprefix("torch.")
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(word, word)


def _refuse(config: Any, name: str) -> None:
    for entry, reason in _REFUSED.items():
        value = getattr(config, entry, None)
        if value not in _UNSET.get(entry, (None, [])):
            raise _error(name, f"{name}({entry}={value!r}) cannot be honoured: {reason}")


def _error(name: str, message: str) -> ModelError:
    bits_and_bytes = name == "BitsAndBytesConfig"
    codes = ErrorCodes.ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL, ErrorCodes.ERROR_BITS_AND_BYTES_OPTIMIZATION_FAIL
    return ModelError(message, code=codes[bits_and_bytes])
