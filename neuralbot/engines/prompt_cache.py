"""Reads prompts in blocks, and keeps the keys and values of the blocks for the next prompt that begins alike.

Blocks have one length and begin at its multiples, whatever was known before. So what is kept is, to the bit, what would
be computed again, in every precision: an answer does not depend on what was asked earlier. This is why the tokens of
an answer are not kept, which were computed one by one: the next prompt reads them in its blocks.

What is kept is never written to: several threads may begin with it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from neuralbot import hardware
from neuralbot.engines.forward import Forward
from neuralbot.engines.virtual_tokens import Layers, VirtualTokens, fill

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 128  # tokens
MOST_KEPT = 16  # beginnings; they share the memory
_SHARE = 16  # of the memory, that part at most


class PromptCache:
    """What one model has read of prompts. virtual: what stands before each of them."""

    def __init__(self, forward: Forward, virtual: VirtualTokens | None = None) -> None:
        self._forward = forward
        self._virtual = virtual or VirtualTokens(forward.model, [])
        self._kept = _Kept(_memory_bytes(forward.model.device) // _SHARE)
        self.in_blocks = reads_in_blocks(forward.model)

    @torch.inference_mode()
    def begin(self, ids: Sequence[int], cache: DynamicCache) -> DynamicCache:
        """The empty `cache`, with the virtual tokens and the whole blocks of `ids` in it; one id at least is left."""
        whole = list(ids[: (len(ids) - 1) // BLOCK * BLOCK]) if self.in_blocks else []
        found = self._kept.find(whole)
        before = self._virtual.count
        if found.ids:
            fill(cache, found.cut(before), 1)
        else:
            self._virtual.fill(cache, 1)
        for start in range(len(found.ids), len(whole), BLOCK):
            self._forward(torch.tensor([whole[start : start + BLOCK]], device=self._forward.model.device), cache)
            if layers := _whole_layers(cache, before + start + BLOCK):
                found = _Beginning(whole[: start + BLOCK], layers)
        self._kept.add(found)
        return cache


@dataclass(frozen=True)
class _Beginning:
    """Ids of whole blocks, with the keys and values of at least those."""

    ids: list[int]
    layers: Layers

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for layer in self.layers for tensor in layer)

    def cut(self, before: int) -> Layers:
        """The keys and values of its ids and of the `before` tokens that stand before each text."""
        end = before + len(self.ids)
        return [(keys[..., :end, :], values[..., :end, :]) for keys, values in self.layers]


class _Kept:
    """Beginnings, the one used last at the end; the first goes where they are too many, or too large together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._all: list[_Beginning] = []

    def find(self, ids: list[int]) -> _Beginning:
        """The longest known beginning of `ids`, which may be empty."""
        with self._lock:
            found = max(self._all, key=lambda kept: _common(kept.ids, ids), default=_Beginning([], []))
        return _Beginning(ids[: _common(found.ids, ids)], found.layers)

    def add(self, new: _Beginning) -> None:
        """Takes the place of those that it continues. One that is too large for the memory is not kept."""
        if not new.ids or new.bytes > self._most_bytes:
            return
        with self._lock:
            longer = next((kept for kept in self._all if _common(kept.ids, new.ids) == len(new.ids)), new)
            self._all = [kept for kept in self._all if _common(kept.ids, longer.ids) < len(kept.ids)]
            self._all.append(longer)
            while len(self._all) > MOST_KEPT or sum(kept.bytes for kept in self._all) > self._most_bytes:
                self._all.pop(0)


def reads_in_blocks(model: PreTrainedModel) -> bool:
    """Whether reading a text in parts is reading it: not where a model's places depend on the length of what it is
    given at once, nor where it keeps a state instead of keys and values.
    """
    if model._is_stateful:
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers) and not (
        _rope_types(model) & {"dynamic", "longrope"}
    )


def _rope_types(model: PreTrainedModel) -> set[str | None]:
    """Several where kinds of layers differ."""
    parameters: dict[str, Any] = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    of_kinds = [values for values in parameters.values() if isinstance(values, dict)]
    return {values.get("rope_type") for values in of_kinds or [parameters]}


def _whole_layers(cache: DynamicCache, count: int) -> Layers | None:
    """The keys and values of all `count` tokens; None where a layer with a window has forgotten some."""
    layers: Layers = [(layer.keys, layer.values) for layer in cache.layers]
    return layers if all(keys.shape[-2] == count for keys, _ in layers) else None


def _common(first: list[int], second: list[int]) -> int:
    """How many ids at their beginning, in whole blocks, are the same."""
    end = 0
    while end < len(first) and first[end : end + BLOCK] == second[end : end + BLOCK]:
        end += BLOCK
    return end


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return hardware.probe().memory_bytes
