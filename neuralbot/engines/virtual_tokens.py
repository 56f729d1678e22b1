"""What an adapter that learned a prompt puts before each text, as keys and values: an engine starts from them.

Adapters of prefix tuning are such keys and values; those of prompt tuning and p-tuning are embeddings, which go
through the model once. After that nothing of the adapter is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import DynamicCache, PreTrainedModel

Layers = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (1, heads, count, width)


class VirtualTokens:
    """layers: none of them without such an adapter."""

    def __init__(self, model: PreTrainedModel, layers: Layers) -> None:
        self._config = model.config
        self._layers = layers
        self.count = layers[0][0].shape[-2] if layers else 0

    def cache(self, rows: int) -> DynamicCache:
        """A new key/value cache for that many rows, in which the tokens stand."""
        return self.fill(self.empty_cache(), rows)

    def empty_cache(self) -> DynamicCache:
        """One of the kind that the model wants, without the tokens."""
        from transformers import DynamicCache

        return DynamicCache(config=self._config)

    def fill(self, cache: DynamicCache, rows: int) -> DynamicCache:
        """The empty `cache`, with the tokens in it."""
        return fill(cache, self._layers, rows)


def fill(cache: DynamicCache, layers: Layers, rows: int) -> DynamicCache:
    """The empty `cache`, with a copy of `layers` for each of the rows."""
    for place, (keys, values) in enumerate(layers):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), place)
    return cache


@torch.inference_mode()
def without_adapter(model: PreTrainedModel | PeftModel) -> tuple[PreTrainedModel, VirtualTokens]:
    """The model that runs, and what it starts from."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model, VirtualTokens(model, [])
    base: PreTrainedModel = model.eval().get_base_model()
    if not model.active_peft_config.is_prompt_learning:
        return base, VirtualTokens(base, [])
    prompt = model.get_prompt(batch_size=1)
    if isinstance(prompt, Tensor):
        prompt = base(inputs_embeds=prompt.to(base.dtype), use_cache=True).past_key_values
    return base, VirtualTokens(base, [(layer.keys, layer.values) for layer in prompt.layers])
