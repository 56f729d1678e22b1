"""Keys and values of transformers 4 and of neural_chat recipes that have another name today, each with one notice.

Section `training` has most of the old keys, `data` those that moved; old values also stand in others. A key that must
not be lost in silence (because dropping it would change the result) is refused here with the reason.
`overwrite_output_dir` is gone from transformers but lives on as a key of our own.
"""

from __future__ import annotations

from dataclasses import replace

from neuralbot.recipe.draft import Draft, Setting

_RENAMED: dict[str, str] = {
    "no_cuda": "use_cpu",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}

# Keys of neural_chat -> where they stand today. That of the prompt was one of every task; here documents are shortened.
_MOVED: dict[str, str] = {
    "data.max_source_length": "data.max_prompt_length",
    "data.max_target_length": "evaluation.max_new_tokens",
    "data.num_beams": "evaluation.num_beams",
}

# A switch that is now a value of another key. False means: not that value.
_SWITCHES: dict[str, tuple[str, str]] = {
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "adafactor": ("optim", "adafactor"),
    "include_tokens_per_second": ("include_num_input_tokens_seen", "all"),
}

_NO_HUB = "nothing is pushed to a hub"
_ONE_PROCESS = "one process reads the rows, so there is nothing to dispatch"
_NO_FSDP = "it belongs to fsdp_config, and fsdp is not available"
_GONE = "gone from transformers, without effect here"

_DROPPED: dict[str, str] = {
    "save_safetensors": "weights are always saved as safetensors",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR in the environment instead; metrics.jsonl of the run is always written",
    "use_ipex": "IPEX is archived; its optimisations are part of PyTorch now",
    "jit_mode_eval": _GONE,
    "push_to_hub_token": f"now hub_token; {_NO_HUB}",
    "push_to_hub_model_id": f"now hub_model_id; {_NO_HUB}",
    "push_to_hub_organization": f"now part of hub_model_id; {_NO_HUB}",
    "include_inputs_for_metrics": "now include_for_metrics; scores here come from generated answers, not from logits",
    "fsdp_min_num_params": _NO_FSDP,
    "fsdp_transformer_layer_cls_to_wrap": _NO_FSDP,
    "dispatch_batches": _ONE_PROCESS,
    "split_batches": _ONE_PROCESS,
    **dict.fromkeys(
        (
            "fp16_backend",
            "half_precision_backend",
            "fp16_opt_level",
            "use_mps_device",
            "use_legacy_prediction_loop",
            "past_index",
            "mp_parameters",
            "tpu_num_cores",
            "tpu_metrics_debug",
            "ray_scope",
        ),
        _GONE,
    ),
}

_REFUSED: dict[str, str] = {"torchdynamo": "now torch_compile_backend; compiling the model is not available"}

# (key, old value) -> (new value, why)
_VALUES: dict[tuple[str, str], tuple[str, str]] = {
    ("training.ddp_backend", "ccl"): ("gloo", "torch has no such backend any more"),
    ("training.optim", "adamw_hf"): ("adamw_torch", "gone from transformers"),
    ("finetuning.task", "SlimOrca"): ("chat", "the form of the rows is detected from their columns"),
}

_KEEPS_ITS_NAME = (
    "no longer known to transformers; here true starts afresh and keeps the old run beside it, false stops if "
    "output_dir already holds a run"
)

# Old names of section training with what to write today, for suggestions.
TODAY: dict[str, str] = {
    **_RENAMED,
    **{old: new for old, (new, _) in _SWITCHES.items()},
    **dict.fromkeys(_DROPPED, ""),
    **dict.fromkeys(_REFUSED, ""),
}


def translate(draft: Draft, setting: Setting) -> Setting | None:
    """The setting in today's terms, with its notice noted; None if nothing is left of it."""
    section, _, name = setting.key.partition(".")
    if new := _MOVED.get(setting.key):
        _note(draft, setting, f"now {new}")
        return replace(setting, key=new)
    if section != "training" or name not in TODAY:
        return _translate_value(draft, setting)
    if name in _RENAMED:
        return _rename(draft, setting, _RENAMED[name])
    if name in _SWITCHES:
        return _switch(draft, setting, *_SWITCHES[name])
    if name in _REFUSED or (name == "save_safetensors" and setting.node.value is False):
        reason = _REFUSED.get(name, "weights are only ever saved as safetensors: other formats can run code")
        draft.report(setting.place, setting.written, f"cannot be honoured: {reason}; remove it")
        return None
    _note(draft, setting, f"dropped: {_DROPPED[name]}")
    return None


def _note(draft: Draft, setting: Setting, message: str) -> None:
    draft.notices.append(f"{setting.place.where}: {setting.written}: {message}")


def _rename(draft: Draft, setting: Setting, new: str) -> Setting | None:
    value = setting.node.value
    if new == "warmup_steps" and isinstance(value, int | float) and not 0 <= value < 1:
        draft.report(setting.place, setting.written, f"expected a share of all steps from 0 to below 1, got {value}")
        return None
    _note(draft, setting, f"now named {new}")
    return setting.becomes(f"training.{new}", value)


def _switch(draft: Draft, setting: Setting, new: str, value: str) -> Setting | None:
    if not isinstance(setting.node.value, bool):
        draft.report(setting.place, setting.written, f"expected true or false, got {setting.node.text or 'nothing'}")
        return None
    _note(draft, setting, f"now {new}: {value}" + ("" if setting.node.value else ", which false leaves out"))
    if setting.node.value:
        return setting.becomes(f"training.{new}", value)
    earlier = draft.settings.get(f"training.{new}")
    if earlier and earlier.node.value == value and setting.place.order > earlier.place.order:
        del draft.settings[earlier.key]
    return None


def _translate_value(draft: Draft, setting: Setting) -> Setting:
    value = setting.node.value
    if setting.key == "training.overwrite_output_dir":
        _note(draft, setting, _KEEPS_ITS_NAME)
    if not isinstance(value, str) or (setting.key, value) not in _VALUES:
        return setting
    new, why = _VALUES[setting.key, value]
    _note(draft, setting, f"{value} is now {new}: {why}")
    return setting.becomes(setting.key, new)
