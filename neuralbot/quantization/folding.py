"""Which norms and layers stand before which linear layers, where a factor can move from one to the other.

AWQ and TEQ multiply the inputs of a weight by factors and divide what comes before by the same. That is exact only
where what comes before is a plain product: true of the layers named here, in the families named here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuralbot.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),  # it is multiplied with the gate, number by number
}


def in_block(model: PreTrainedModel, method: str) -> dict[str, tuple[str, ...]]:
    """Name of a norm or layer -> the linear layers that it feeds, as in each block. Raises ModelError."""
    if (kind := model.config.model_type) not in FAMILIES:
        raise ModelError(
            f"{method} cannot be used for {kind}: it moves factors between layers, which is known to be exact only "
            f"for {', '.join(FAMILIES)}; use gptq or autoround"
        )
    return _NORMS


def in_model(model: PreTrainedModel, method: str) -> dict[str, list[str]]:
    """The same for all blocks, with whole names."""
    blocks = range(model.config.num_hidden_layers)
    return {
        f"model.layers.{block}.{before}": [f"model.layers.{block}.{name}" for name in after]
        for block in blocks
        for before, after in in_block(model, method).items()
    }
