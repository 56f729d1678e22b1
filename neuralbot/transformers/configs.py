"""The configs of precision and of weight-only quantization: every field and default of ITREX 1.4.2.

Plain data: nothing is loaded on creation. What becomes of each field where a model is loaded is told in
docs/neural_chat.md. ITREX swallows unknown arguments; here they are a TypeError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError
from neuralbot.transformers.refused import Refused

Precision = Literal["bfloat16", "float16", "float32"]

_PILE = "NeelNanda/pile-10k"


@dataclass
class MixedPrecisionConfig:
    """The number format the model runs in; a format the processor lacks becomes float32, with a warning at load.

    Raises ModelError for any other name.
    """

    dtype: Precision = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise ModelError(
                f"MixedPrecisionConfig(dtype={self.dtype!r}): expected one of {', '.join(get_args(Precision))}",
                code=ErrorCodes.ERROR_AMP_OPTIMIZATION_FAIL,
            )


@dataclass
class _WeightOnlyConfig:
    """What all weight-only configs have in common."""

    bits: int = 4
    _: KW_ONLY
    group_size: int = 32
    compute_dtype: str | None = None
    weight_dtype: str | None = None
    scale_dtype: str | None = None
    use_double_quant: bool = False
    double_quant_scale_dtype: str | None = None
    use_ggml: bool = False
    use_neural_speed: bool = False
    llm_int8_skip_modules: Sequence[str] | None = None
    device: str = "auto"
    calib_dataloader: Any = None
    calib_func: Any = None
    calib_iters: int = 100
    use_ipex: bool = False


@dataclass
class RtnConfig(_WeightOnlyConfig):
    """Weights rounded to nearest, without calibration."""

    mse_range: bool = False
    sym: bool = True
    layer_wise: bool = False
    use_quant: bool = True


@dataclass
class GPTQConfig(_WeightOnlyConfig):
    """Weights rounded one column at a time, each making up for the errors of those before it."""

    tokenizer: Any = None
    dataset: str = _PILE
    sym: bool = True
    blocksize: int = 128
    damp_percent: float = 0.1
    desc_act: bool = False
    nsamples: int = 128
    max_input_length: int | None = None
    static_groups: bool = False
    true_sequential: bool = False
    layer_wise: bool = False
    use_quant: bool = True


@dataclass
class AwqConfig(_WeightOnlyConfig):
    """Weights scaled by how large what they multiply is, then rounded."""

    bits: int = 8
    tokenizer: Any = None
    dataset: str = _PILE
    zero_point: bool = True
    mse_range: bool = False
    use_quant: bool = True


@dataclass
class TeqConfig(_WeightOnlyConfig):
    """Weights scaled by trained factors, then rounded."""

    bits: int = 8
    tokenizer: Any = None
    dataset: str = _PILE
    sym: bool = True


@dataclass
class AutoRoundConfig(_WeightOnlyConfig):
    """Weights whose rounding is trained."""

    group_size: int = 128
    tokenizer: Any = None
    dataset: str = _PILE
    sym: bool = False
    lr: float | None = None
    minmax_lr: float | None = None
    enable_quanted_input: bool = True
    nsamples: int = 512
    iters: int = 200
    calib_len: int = 2048


# Names of older notebooks.
WeightOnlyQuantConfig = RtnConfig
AMPConfig = MixedPrecisionConfig

_ACTIVATIONS = (
    "its int8 activations come from IPEX, which is archived, with neural-compressor too; OpenVINO rounds "
    "activations to 8 bits while it runs: use RtnConfig(bits=8) or MixedPrecisionConfig()"
)


class StaticQuantConfig(Refused):
    reason = _ACTIVATIONS


class DynamicQuantConfig(Refused):
    reason = _ACTIVATIONS


class SmoothQuantConfig(Refused):
    reason = _ACTIVATIONS


class QuantAwareTrainingConfig(Refused):
    reason = "models are not trained in int8; FinetuningArguments(qlora=True) tunes an adapter on an int8 or 4-bit base"
