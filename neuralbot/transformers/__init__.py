"""The optimisation configs of `intel_extension_for_transformers.transformers` under our prefix.

Only the precision config is here; the weight-only ones are not offered. Imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from neuralbot.errors import ModelError

__all__ = ["MixedPrecisionConfig"]

Precision = Literal["bfloat16", "float16", "float32"]


@dataclass
class MixedPrecisionConfig:
    """The number format the model runs in; a format the processor lacks becomes float32, with a warning at load.

    Raises ModelError for any other name.
    """

    dtype: Precision = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise ModelError(
                f"MixedPrecisionConfig(dtype={self.dtype!r}): expected one of {', '.join(get_args(Precision))}"
            )
