"""What is trained beside a frozen base, in fp32: LoRA layers, or one of peft's methods that learn a prompt.

Loading and merging are in `modeling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from neuralbot.arguments import VIRTUAL_TOKENS, FinetuningArguments
from neuralbot.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

# The attention's projections as the families call them; of a family that peft knows no usual layers of, the first
# that it has get LoRA.
_ATTENTION = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",))


def add_adapter(
    model: PreTrainedModel, finetuning: FinetuningArguments, seed: int, new_tokens: Sequence[int] = ()
) -> PeftModel:
    """`model` frozen, with what `finetuning.peft` trains in fp32 whatever the base's dtype; the same `seed`, the same
    start.

    new_tokens: lora trains their rows in the embeddings and the output layer too.
    Raises ModelError when the model cannot be trained so.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    config = _lora(model, finetuning, new_tokens) if finetuning.peft == "lora" else _prompt(model, finetuning)
    config.revision = getattr(model.config, "_commit_hash", None)  # of a base from the hub, whose branches move
    try:
        adapted: PeftModel = get_peft_model(model, config)
    except (ValueError, KeyError) as error:
        raise ModelError(_cannot(model, finetuning, error)) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft makes those of llama_adapter in the base's dtype
            parameter.data = parameter.data.float()
    return adapted


def check(model: PreTrainedModel, finetuning: FinetuningArguments, new_tokens: Sequence[int] = ()) -> tuple[str, ...]:
    """What `add_adapter` will do other than the recipe says. Raises ModelError for a family it will refuse."""
    from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG as GATED

    family = model.config.model_type
    if finetuning.virtual_tokens and family == "mpt":
        raise ModelError(_cannot(model, finetuning, "its attention takes padding for distance"))
    if new_tokens and not finetuning.full_finetune and model.get_output_embeddings().bias is not None:
        raise ModelError(  # peft computes the output layer without it
            f"the output layer of {family} has a bias, with which LoRA cannot train rows of data.special_tokens: "
            "set finetuning.full_finetune to true, or leave the tokens out"
        )
    if finetuning.full_finetune or finetuning.peft != "llama_adapter":
        return ()
    if family not in GATED:
        raise ModelError(_cannot(model, finetuning, f"it knows {', '.join(GATED)}"))
    layers, wanted = model.config.num_hidden_layers, finetuning.adapter_layers
    if wanted <= layers:
        return ()
    return (f"finetuning.adapter_layers={wanted}: the model has {layers} layers, and each gets an adapter",)


def _lora(model: PreTrainedModel, finetuning: FinetuningArguments, new_tokens: Sequence[int]) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=finetuning.lora_rank,
        lora_alpha=finetuning.lora_alpha,
        lora_dropout=finetuning.lora_dropout,
        target_modules="all-linear" if finetuning.lora_all_linear else _lora_targets(model, finetuning),
        bias="none",
        trainable_token_indices=_rows_of(model, new_tokens),
    )


def _rows_of(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """The tokens, for each layer that has rows of its own for them; peft finds an output layer that is tied."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    owners = (embeddings,) if head.weight is embeddings.weight else (embeddings, head)
    return {name: list(tokens) for name, module in model.named_modules() if module in owners} if tokens else None


def _lora_targets(model: PreTrainedModel, finetuning: FinetuningArguments) -> list[str] | None:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    present = set(_linear_layers(model))
    found = next((list(names) for names in _ATTENTION if present.issuperset(names)), None)
    return finetuning.lora_target_modules or USUAL.get(model.config.model_type) or found


def _prompt(model: PreTrainedModel, finetuning: FinetuningArguments) -> PeftConfig:
    from peft import AdaptionPromptConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    if finetuning.peft == "llama_adapter":
        layers = min(finetuning.adapter_layers, model.config.num_hidden_layers)
        return AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_layers=layers, adapter_len=finetuning.adapter_len)
    shape = {"num_layers": model.config.num_hidden_layers, "num_virtual_tokens": finetuning.num_virtual_tokens}
    if finetuning.peft == "prefix":
        return PrefixTuningConfig(task_type="CAUSAL_LM", **shape, **_cached(model))
    shape |= {"token_dim": model.get_input_embeddings().embedding_dim}
    shape |= {"num_attention_heads": model.config.num_attention_heads}
    if finetuning.peft == "prompt":
        return PromptTuningConfig(task_type="CAUSAL_LM", **shape)
    return PromptEncoderConfig(task_type="CAUSAL_LM", **shape, encoder_hidden_size=finetuning.ptun_hidden_size)


def _cached(model: PreTrainedModel) -> dict[str, int]:
    """The shape of a token's keys. Seen, not read in the config: peft knows few of the names that it has there."""
    import torch

    with torch.no_grad():
        cache = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    _, heads, _, width = cache.past_key_values.layers[0].keys.shape
    return {"num_attention_heads": heads, "token_dim": heads * width}


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all layers that can get LoRA."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)})


def _cannot(model: PreTrainedModel, finetuning: FinetuningArguments, error: object) -> str:
    family = model.config.model_type
    if finetuning.peft != "lora":
        others = ("lora",) if family == "mpt" else ("lora", *VIRTUAL_TOKENS)
        return f"{finetuning.peft} cannot train {family} ({error}); set finetuning.peft to {' or '.join(others)}"
    targets = _lora_targets(model, finetuning)
    at = "all linear layers" if finetuning.lora_all_linear else targets or "its usual layers (peft knows none)"
    return (
        f"LoRA cannot be added to {family} at {at} ({error}): its linear layers are called "
        f"{', '.join(_linear_layers(model))}; set finetuning.lora_target_modules to some of them, or "
        "finetuning.lora_all_linear to true"
    )


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    total = sum(p.numel() for p in model.parameters())
    return sum(p.numel() for p in model.parameters() if p.requires_grad), total
