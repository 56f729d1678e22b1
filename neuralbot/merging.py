"""Adapters become a part of their base, for serving: the same answers with fewer products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# Kinds of adapters, by peft's names.
_VIRTUAL_TOKENS = ("P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING")
UNMERGED = (*_VIRTUAL_TOKENS, "ADAPTION_PROMPT")


def merged(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> PreTrainedModel | PeftModel:
    """`model` without its adapter layers, their effect added to its weights, in `dtype`; changes `model` itself.

    Merged because a separate adapter costs two more matrix products a layer and token; in fp32 because the sum is
    small beside the weight, and bf16 would round much of it away before the one rounding at the end. What an adapter
    puts before each text is no weight: a PeftModel stays one. The gated prompts of llama_adapter stay in the layers.
    """
    import torch
    from peft import PeftModel

    plain: Any = model
    if isinstance(model, PeftModel) and model.peft_type == "ADAPTION_PROMPT":
        plain = model.get_base_model()
    elif isinstance(model, PeftModel) and model.peft_type not in _VIRTUAL_TOKENS:
        is_lora = _is_plain_lora(model)
        plain = _merged_by_layer(model, dtype) if is_lora else model.to(torch.float32).merge_and_unload()
    result: PreTrainedModel | PeftModel = plain.to(dtype).eval()
    return result


def _is_plain_lora(model: PeftModel) -> bool:
    """Whether it has nothing but plain LoRA in linear layers, and rows of new tokens."""
    from peft.tuners import lora
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    layers = [layer for layer in tuned if not isinstance(layer, TrainableTokensLayer)]
    return all(type(x) is lora.Linear and not x.lora_variant and not any(x.lora_bias.values()) for x in layers) and all(
        type(module).__name__ != "ModulesToSaveWrapper" for module in model.modules()
    )


def _merged_by_layer(model: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """One layer at a time: the whole model in fp32 would be 28 GB for seven billion weights."""
    from peft.tuners import lora
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer):
            layer.base_layer.to(dtype)  # so that the new rows are rounded once
            layer.merge()
        elif isinstance(layer, lora.Linear):
            base = layer.get_base_layer()
            change = sum(layer.get_delta_weight(name).float() for name in layer.active_adapters)
            base.weight.data = (base.weight.float() + change).to(dtype)
    plain: PreTrainedModel = model.unload()
    return plain
