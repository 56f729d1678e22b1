"""`transformers.TrainingArguments` that also takes the arguments of transformers 4, each with one warning.

Scripts of 2024 name arguments that are gone (`no_cuda`, `evaluation_strategy`, ...). They are fields here as well, so
that `HfArgumentParser` offers them as options; what becomes of each stands in recipe/old_keys.py.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import field
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments as _Stock

from neuralbot.recipe import old_keys
from neuralbot.recipe.objects import in_todays_names
from neuralbot.recipe.training_keys import training_fields

logger = logging.getLogger(__name__)

_SWITCHES = (
    *("no_cuda", "group_by_length", "adafactor", "include_tokens_per_second", "use_ipex", "jit_mode_eval"),
    *("include_inputs_for_metrics", "dispatch_batches", "split_batches", "use_mps_device"),
    *("use_legacy_prediction_loop", "tpu_metrics_debug"),
)
_TYPES: dict[str, type] = {
    **dict.fromkeys(("per_gpu_train_batch_size", "per_gpu_eval_batch_size", "fsdp_min_num_params"), int),
    **dict.fromkeys(("past_index", "tpu_num_cores"), int),
    "warmup_ratio": float,
}
_OVERWRITE = "overwrite_output_dir"


def _old_field(name: str) -> tuple[str, Any, Any]:
    """Name, type and field of an old argument; what equals its default counts as not given."""
    told = {"help": f"Old argument, now {old_keys.TODAY[name] or 'without effect'}."}
    if name == "save_safetensors":
        return name, bool, field(default=True, metadata=told)
    if name in _SWITCHES:
        return name, bool, field(default=False, metadata=told)
    return name, _TYPES.get(name, str) | None, field(default=None, metadata=told)


def _post_init(self: Any) -> None:
    """Translate what was given, warn of it, and go on as transformers does. `notices` keeps the warnings."""
    given = {
        item.name: getattr(self, item.name)
        for item in dataclasses.fields(self)
        if getattr(self, item.name) != _default(item)
        and not (item.name == _OVERWRITE and not self.overwrite_output_dir)
    }
    translated, self.notices = in_todays_names(given)
    for name, value in translated.items():
        setattr(self, name, value)
    for name in old_keys.TODAY:
        setattr(self, name, _default(_FIELDS[name]))
    if self.ddp_backend and not torch.distributed.is_torchelastic_launched():
        self.ddp_backend = None  # accelerate would wait for a group of processes that nobody starts
        self.notices += ("TrainingArguments: ddp_backend: has no effect: this is one process (torchrun starts many)",)
    for notice in self.notices:
        logger.warning("%s", notice)
    if (self.bf16 or self.bf16_full_eval) and not torch.cuda.is_available():
        self.use_cpu = True  # bf16 without it is an error since transformers 5
    _Stock.__post_init__(self)


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


if TYPE_CHECKING:
    TrainingArguments = _Stock
else:
    own = (_OVERWRITE, bool, field(default=False, metadata={"help": training_fields()[_OVERWRITE].help}))
    TrainingArguments = dataclasses.make_dataclass(
        "TrainingArguments",
        [own, *map(_old_field, old_keys.TODAY)],
        bases=(_Stock,),
        namespace={"__post_init__": _post_init, "__doc__": __doc__, "__module__": __name__, "notices": ()},
    )
_FIELDS = {item.name: item for item in dataclasses.fields(TrainingArguments)}
