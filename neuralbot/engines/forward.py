"""One pass of a causal language model over the ids that its key/value cache has not seen."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


class Forward:
    """Calls a model with those of its inputs that it knows; threads take turns."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.lock = threading.Lock()
        # Older families know no `position_ids` or `logits_to_keep`.
        unwrapped: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._accepted = frozenset(inspect.signature(unwrapped.forward).parameters)

    def __call__(
        self,
        ids_BT: Tensor,
        cache: DynamicCache,
        *,
        keep: int = 1,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """float32 logits of the last `keep` ids, (B, keep, V)."""
        inputs: dict[str, Any] = {"input_ids": ids_BT, "position_ids": positions}
        inputs |= {"logits_to_keep": keep, "attention_mask": mask}
        with self.lock:
            output = self.model(
                **{name: value for name, value in inputs.items() if name in self._accepted and value is not None},
                past_key_values=cache,
                use_cache=True,
            )
        logits: Tensor = output.logits[:, -keep:].float()
        return logits
