"""What a recipe may say but neuralbot does not do (yet): refused with the reason, or noted as without effect.

The rule behind the tables: who reads this field? If nobody does, a value other than the default is refused when it
would change the result, and noted and dropped when it cannot. A feature that arrives deletes its lines here.
"""

from __future__ import annotations

from typing import Any

from neuralbot.arguments import VIRTUAL_TOKENS
from neuralbot.recipe.draft import Broken, Draft
from neuralbot.recipe.fields import shorten

_IMAGES = "only text is trained on, images are not read"
_ONE_MACHINE = "training runs in one process on one machine"
_NO_RESUME = "a stopped run cannot be continued yet: start afresh"
_NO_COMPILE = "compiling the model is not available"
_OWN_PRECISION = "evaluation runs in the precision of training; use bf16"

REFUSED: dict[str, str] = {
    "model.trust_remote_code": "code from a model repository is never run: choose a model that transformers knows",
    "data.train_dir": f"{_IMAGES}: use train_file",
    "data.validation_dir": f"{_IMAGES}: use validation_file",
    "data.image_column": _IMAGES,
    "data.caption_column": _IMAGES,
    "training.deepspeed": _ONE_MACHINE,
    "training.fsdp": _ONE_MACHINE,
    "training.fsdp_config": _ONE_MACHINE,
    "training.accelerator_config": _ONE_MACHINE,
    "training.parallelism_config": _ONE_MACHINE,
    "training.local_rank": _ONE_MACHINE,
    "training.push_to_hub": "nothing is pushed to a hub: upload the run folder with `hf upload`",
    "training.torch_compile": _NO_COMPILE,
    "training.torch_compile_backend": _NO_COMPILE,
    "training.torch_compile_mode": _NO_COMPILE,
    "training.use_liger_kernel": "the Liger kernels need a GPU with Triton",
    "training.bf16_full_eval": _OWN_PRECISION,
    "training.fp16_full_eval": _OWN_PRECISION,
    "training.enable_jit_checkpoint": _NO_RESUME,
    "training.resume_from_checkpoint": _NO_RESUME,
    "training.do_predict": "the rows of data.test_file are scored without it: see section evaluation",
    "training.label_names": "the labels are made from the answers of the rows",
}

_NO_DEVICE = "available: auto, cpu, cuda"

REFUSED_VALUES: dict[tuple[str, Any], str] = {
    ("finetuning.task", "image2text"): f"{_IMAGES}; tasks: completion, chat, summarization, code-generation",
    ("finetuning.device", "hpu"): f"Gaudi is not supported; {_NO_DEVICE}",
    ("finetuning.device", "xpu"): f"Intel GPUs are not supported; {_NO_DEVICE}",
}

_NO_HUB = "nothing is pushed to a hub"
_GENERATED = "scores come from generated answers, not from logits"

# Without effect on the result, whatever the value: dropped with one notice.
NO_EFFECT: dict[str, str] = {
    "data.dataset_concatenation": "finetuning.kernels: fast always packs rows, without letting them see each other",
    "model.use_fast_tokenizer": "transformers 5 has fast tokenizers only",
    "model.use_auth_token": "a stored Hugging Face login is used by itself; another token goes into model.token",
    "data.keep_in_memory": "what is too large for the memory is left on the disk",
    "data.preprocessing_num_workers": "rows are tokenised in one process",
    "training.hub_token": _NO_HUB,
    "training.hub_model_id": _NO_HUB,
    "training.hub_private_repo": _NO_HUB,
    "training.hub_strategy": _NO_HUB,
    "training.hub_always_push": _NO_HUB,
    "training.hub_revision": _NO_HUB,
    "training.trackio_space_id": _NO_HUB,
    "training.liger_kernel_config": "it belongs to use_liger_kernel, which is not available",
    "training.ignore_data_skip": _NO_RESUME,
    "training.restore_callback_states_from_checkpoint": _NO_RESUME,
    "training.include_for_metrics": _GENERATED,
    "training.batch_eval_metrics": _GENERATED,
    "training.eval_do_concat_batches": _GENERATED,
    "training.eval_use_gather_object": _GENERATED,
}

# key -> (what neuralbot always uses, why): another value is dropped with one notice.
FIXED: dict[str, tuple[Any, str]] = {
    "training.disable_tqdm": (True, "progress is shown in another way"),
    "training.save_only_model": (True, "the optimizer files of transformers are pickles, which are never written"),
    "training.logging_nan_inf_filter": (False, "a loss that is not a number stops the run"),
    "training.remove_unused_columns": (False, "rows hold exactly what training reads"),
    "training.dataloader_pin_memory": (False, "it means nothing on a CPU"),
}

# key -> the values of finetuning.peft with which it is read. Kept, with one notice.
OF_METHODS: dict[str, tuple[str, ...]] = {
    "finetuning.lora_rank": ("lora",),
    "finetuning.lora_alpha": ("lora",),
    "finetuning.lora_dropout": ("lora",),
    "finetuning.lora_target_modules": ("lora",),
    "finetuning.lora_all_linear": ("lora",),
    "finetuning.adapter_layers": ("llama_adapter",),
    "finetuning.adapter_len": ("llama_adapter",),
    "finetuning.num_virtual_tokens": VIRTUAL_TOKENS,
    "finetuning.ptun_hidden_size": ("ptun",),
}

_STEPS = ("steps",)

# key -> (switch, the values of the switch with which the key is read). Kept, with one notice.
ONLY_WHEN: dict[str, tuple[str, tuple[Any, ...]]] = {
    "training.eval_steps": ("training.eval_strategy", _STEPS),
    "training.save_steps": ("training.save_strategy", _STEPS),
    "training.logging_steps": ("training.logging_strategy", _STEPS),
    "training.gradient_checkpointing_kwargs": ("training.gradient_checkpointing", (True,)),
    "finetuning.peft": ("finetuning.full_finetune", (False,)),
    "data.max_bad_rows": ("data.on_bad_row", ("skip",)),
    "data.pad_to_max_length": ("finetuning.kernels", ("reference",)),
    "finetuning.double_quant": ("finetuning.qlora", (True,)),
    "finetuning.quant_type": ("finetuning.qlora", (True,)),
    "finetuning.lm_eval_tasks": ("finetuning.do_lm_eval", (True,)),
    "evaluation.labels": ("evaluation.metric", ("labels",)),
    "evaluation.sandbox": ("evaluation.metric", ("unit_tests", "auto")),
    "serving.temperature": ("serving.do_sample", (True,)),
    "serving.top_k": ("serving.do_sample", (True,)),
    "serving.top_p": ("serving.do_sample", (True,)),
    "serving.seed": ("serving.do_sample", (True,)),
}


def check(draft: Draft) -> None:
    """Report what is refused; note, and drop where nothing reads it, what has no effect."""
    for key in list(draft.settings):
        try:
            _check(draft, key)
        except Broken:
            continue


def _check(draft: Draft, key: str) -> None:
    value = draft.value(key)
    reason = REFUSED.get(key)
    if reason and value and not draft.is_default(key):
        draft.wrong(key, f"{_shown(value)} cannot be honoured: {reason}")
    elif not isinstance(value, list | dict) and (reason := REFUSED_VALUES.get((key, value))):
        draft.wrong(key, f"{value} cannot be honoured: {reason}")
    elif key in NO_EFFECT and not draft.is_default(key):
        draft.notice(key, f"has no effect: {NO_EFFECT[key]}")
        draft.drop(key)
    elif key in FIXED and value not in (None, FIXED[key][0]):
        draft.notice(key, f"has no effect: {FIXED[key][1]}")
        draft.drop(key)
    elif key in OF_METHODS and value is not None:
        _only_when(draft, key, "finetuning.full_finetune", (False,))
        if not draft.value("finetuning.full_finetune"):
            _only_when(draft, key, "finetuning.peft", OF_METHODS[key])
    elif key in ONLY_WHEN and value is not None:
        _only_when(draft, key, *ONLY_WHEN[key])


def _only_when(draft: Draft, key: str, switch: str, values: tuple[Any, ...]) -> None:
    if draft.value(switch) not in values:
        draft.notice(key, f"has no effect: {switch} is {_shown(draft.value(switch))}")


def _shown(value: Any) -> str:
    """The value as it stands in a recipe, if it is short."""
    if isinstance(value, list | dict):
        return "this"
    return str(value).lower() if isinstance(value, bool) else shorten(str(value))
