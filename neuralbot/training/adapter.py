"""What is trained: LoRA layers in fp32 on a frozen base, or every weight. Loading and merging are in `modeling`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from neuralbot.arguments import FinetuningArguments
from neuralbot.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_lora(model: PreTrainedModel, finetuning: FinetuningArguments, seed: int) -> PeftModel:
    """`model` frozen, with trainable LoRA layers in fp32 whatever the base's dtype; the same `seed`, the same start.

    Raises ModelError when a module named in lora_target_modules is not in the model.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    torch.manual_seed(seed)
    linear = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
    targets = finetuning.lora_target_modules or USUAL.get(model.config.model_type)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=finetuning.lora_rank,
        lora_alpha=finetuning.lora_alpha,
        lora_dropout=finetuning.lora_dropout,
        target_modules="all-linear" if finetuning.lora_all_linear else targets,
        bias="none",
        revision=getattr(model.config, "_commit_hash", None),  # of a base from the hub, whose branches move
    )
    try:
        adapted: PeftModel = get_peft_model(model, config)
    except ValueError as error:
        at = "all linear layers" if finetuning.lora_all_linear else targets or "its usual layers (peft knows none)"
        raise ModelError(
            f"LoRA cannot be added to {model.config.model_type} at {at} ({error}): its linear layers are called "
            f"{', '.join(linear)}; set finetuning.lora_target_modules to some of them, or finetuning.lora_all_linear "
            "to true"
        ) from error
    return adapted


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    total = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.parameters() if p.requires_grad), total
