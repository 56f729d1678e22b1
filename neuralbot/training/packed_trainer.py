"""The fast trainer: the rows of one optimizer step go through the model as packs, without padding.

What the plain Trainer does with `gradient_accumulation_steps` small batches, this one does at once: the same rows, the
same order, the same sum of gradients, in larger matrix products. Logging, schedules, evaluation, saving are unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from neuralbot import hardware, kernels
from neuralbot.data.packing import Pack, pack
from neuralbot.data.tokenized import IGNORED, Row
from neuralbot.kernels.frozen import can_prepack
from neuralbot.kernels.quantized import FourBitLinear
from neuralbot.training.packed_model import PackedModel
from neuralbot.training.trainer import Trainer

# Tokens that go through the model at once. More would only need more memory: products are at full speed from about 700.
# A four-bit base is chosen for its memory, so there activations are kept small too.
TOKENS = 2048
TOKENS_FOUR_BIT = 768
SHARE_FOR_COPIES = 16  # one part of so many of the memory


class PackCollator:
    """Rows to packs of at most `tokens` tokens (a longer row is a pack of its own), and their labels for counting."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        labels = [torch.tensor(row["labels"]) for row in rows]
        padded = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return {"labels": padded, "packs": [pack(group) for group in self._groups(rows)]}

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Neighbours in the order of their tokens, so that rows with the same beginning meet in one pack."""
        groups: list[list[Row]] = []
        room = 0
        for row in sorted(rows, key=lambda row: row["input_ids"]):
            length = len(row["input_ids"])
            if length > room:
                groups.append([])
                room = self.tokens
            groups[-1].append(row)
            room -= length
        return groups


class PackedTrainer(Trainer):
    """`Trainer` over a PackedModel. Batches are what PackCollator makes."""

    def __init__(self, *, model: PreTrainedModel, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        checkpointing, smoothing = self.args.gradient_checkpointing, self.args.label_smoothing_factor
        self.packed = PackedModel(
            model, kernels.best(), checkpointing=checkpointing, prepack=prepacks(model), smoothing=smoothing
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with hardware.freed_memory_kept():
            return super().train(*args, **kwargs)

    def release(self) -> None:
        del self.packed
        super().release()

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        model.train()
        packs: list[Pack] = inputs["packs"]
        count = _targets(packs) if num_items_in_batch is None else float(num_items_in_batch)
        total = torch.zeros(())
        for one in packs:
            loss = self.packed.loss(one, count)
            self.accelerator.backward(loss)
            total += loss.detach()
            self.tokens += one.real_tokens
            self.computed_tokens += len(one.ids)
        self.target_tokens += int(_targets(packs))
        return self.checked(total)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        packs: list[Pack] = inputs["packs"]
        count = _targets(packs)
        with torch.no_grad():
            return sum((self.packed.loss(one, count, training=False) for one in packs), torch.zeros(())), None, None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        # Forward, and the gradient towards the input: two products of two operations for each frozen weight.
        parameters: int = self.model.num_parameters(exclude_embeddings=True)
        return 4 * parameters * sum(len(one.ids) for one in inputs["packs"])


def _targets(packs: Sequence[Pack]) -> float:
    return float(sum(one.target_weights.sum() for one in packs))


def tokens_at_once(model: nn.Module) -> int:
    """How many tokens fit into one pack for this model."""
    return TOKENS_FOUR_BIT if any(isinstance(module, FourBitLinear) for module in model.modules()) else TOKENS


def prepacks(model: nn.Module) -> bool:
    """Whether the base is copied into oneDNN's blocks: a bf16 one whose copies take little of the memory."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    base = [layer.weight for layer in layers if not layer.weight.requires_grad]
    if any(weight.dtype != torch.bfloat16 for weight in base) or not can_prepack():
        return False
    copies = 2 * sum(weight.nbytes for weight in base)
    return copies <= hardware.probe().memory_bytes // SHARE_FOR_COPIES


def merge_accumulation(arguments: TrainingArguments) -> None:
    """One batch for each optimizer step: what would be accumulated goes through the model together."""
    arguments.per_device_train_batch_size *= arguments.gradient_accumulation_steps
    arguments.gradient_accumulation_steps = 1
