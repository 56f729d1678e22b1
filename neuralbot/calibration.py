"""How the integers of a weight are chosen by what a model computes on real rows: the algorithms, and what each is told.

Plain data, so that a config can be read without torch. Choosing them is `quantization`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError

Method = Literal["rtn", "gptq", "awq", "teq", "autoround"]
METHODS: tuple[Method, ...] = get_args(Method)
ROWS, LONGEST = 128, 512
ANY_ROWS = "NeelNanda/pile-10k"  # what ITREX's configs name where nobody chose

CONFIGS = ("GPTQConfig", "AwqConfig", "TeqConfig", "AutoRoundConfig")
_REFUSED = {
    "desc_act": "it sorts a weight's columns, and OpenVINO's groups are neighbours",
    "static_groups": "it changes something only with desc_act",
    "true_sequential": "neural-compressor would run each block on its own output, which makes answers worse",
    "use_double_quant": "OpenVINO keeps the scales in float16",
}


@dataclass(frozen=True)
class Calibration:
    """The algorithm, and the rows that it sees.

    data: a file of rows, or a data set of the hub; None: the rows that the run was trained on. rows: so many of them;
    longest: tokens of a row that count. options: of the algorithm, by its own names.
    """

    method: Method
    data: str | None = None
    rows: int = ROWS
    longest: int = LONGEST
    options: Mapping[str, Any] = field(default_factory=dict)


def of_config(config: Any) -> Calibration | None:
    """What one of ITREX's configs asks for; None where it asks for no calibration. Raises ModelError."""
    name = type(config).__name__
    if name not in CONFIGS:
        searched = bool(getattr(config, "mse_range", False))
        return Calibration("rtn", options={"use_mse_search": True}) if searched else None
    for entry, why in _REFUSED.items():
        if getattr(config, entry, False):
            raise _refused(f"{name}({entry}=True) cannot be honoured: {why}; remove it")
    return {"GPTQConfig": _gptq, "AwqConfig": _awq, "TeqConfig": _teq, "AutoRoundConfig": _autoround}[name](config)


def _gptq(config: Any) -> Calibration:
    options = {"block_size": config.blocksize, "percdamp": config.damp_percent}
    return Calibration("gptq", config.dataset, config.nsamples, config.max_input_length or LONGEST, options)


def _awq(config: Any) -> Calibration:
    return Calibration("awq", config.dataset, options={"use_auto_clip": config.mse_range})


def _teq(config: Any) -> Calibration:
    if config.bits == 8:
        raise _refused(
            "TeqConfig(bits=8) cannot be honoured: neural-compressor rounds to 4 bits whatever is asked; use bits=4, "
            "or AwqConfig(bits=8)"
        )
    return Calibration("teq", config.dataset)


def _autoround(config: Any) -> Calibration:
    options = {"iters": config.iters, "enable_quanted_input": config.enable_quanted_input}
    options |= {} if config.lr is None else {"lr": config.lr}
    options |= {} if config.minmax_lr is None else {"minmax_lr": config.minmax_lr}
    return Calibration("autoround", config.dataset, config.nsamples, config.calib_len, options)


def _refused(message: str) -> ModelError:
    return ModelError(message, code=ErrorCodes.ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL)
