"""A model of the Llama family with LoRA, run on packs: the loss at the targets, and its gradients for the adapters.

It shares all weights with the transformers model it is made of, which stays usable. `unsupported` says why a model is
not for it; the plain path (`finetuning.kernels: reference`) trains every model.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from neuralbot.data.packing import Pack
from neuralbot.kernels.quantized import freeze
from neuralbot.training.packed_layer import Kept, Line, PackedLayer

FAMILIES = ("llama", "mistral", "qwen2")
LOGITS = 2**24  # logits made at once: 32 MiB in bf16


def unsupported(model: Any, longest_row: int) -> str | None:
    """Why `model` cannot be run on packs of rows up to that long; None if it can."""
    if not hasattr(model, "peft_config"):
        return "it trains LoRA adapters, and this run trains all weights"
    if model.peft_type != "LORA":
        return f"it trains LoRA adapters, and this run trains one of the kind {model.peft_type.value}"
    causal = model.get_base_model()
    config = causal.config
    if config.model_type not in FAMILIES:
        return f"it knows the families {', '.join(FAMILIES)}, and this model is {config.model_type}"
    attention = causal.model.layers[0].self_attn
    window = getattr(config, "sliding_window", None)
    if attention.head_dim % 16:
        return f"its attention heads are {attention.head_dim} wide, not a multiple of 16"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if getattr(config, "attention_dropout", 0.0):
        return "it has dropout in its attention"
    if window is not None and getattr(config, "use_sliding_window", True) and window < longest_row:
        return f"its attention sees {window} tokens, fewer than the longest row ({longest_row})"
    return _other_training(model)


def _other_training(model: Any) -> str | None:
    """What is trained beside plain LoRA matrices inside the decoder layers."""
    adapted = [
        part for layer in model.get_base_model().model.layers for part in layer.modules() if hasattr(part, "lora_A")
    ]
    if any(part.lora_variant for part in adapted):
        return "its adapters are of a variant of LoRA"
    plain = {id(matrix.weight) for part in adapted for side in (part.lora_A, part.lora_B) for matrix in side.values()}
    trained = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) not in plain
    ]
    return f"more than LoRA in its layers is trained: {', '.join(trained[:3])}" if trained else None


class PackedModel:
    """`loss(pack, denominator)` of a peft model; its backward fills the adapters' gradients.

    smoothing: how much of each target is spread over all tokens in training.
    """

    def __init__(
        self,
        model: Any,
        kernels: ModuleType,
        *,
        checkpointing: bool = False,
        prepack: bool = False,
        smoothing: float = 0.0,
    ) -> None:
        causal = model.get_base_model()
        self.kernels, self.checkpointing, self.smoothing = kernels, checkpointing, smoothing
        self.embedding = causal.get_input_embeddings().weight.detach()
        self.rotary = causal.model.rotary_emb
        self.layers = [PackedLayer(layer, kernels, prepack=prepack) for layer in causal.model.layers]
        self.norm = causal.model.norm.weight.detach().float(), float(causal.model.norm.variance_epsilon)
        self.head = freeze([causal.get_output_embeddings()], kernels, prepack=prepack)

    def loss(self, pack: Pack, denominator: float, *, training: bool = True) -> Tensor:
        """The sum of the targets' cross entropies, divided by `denominator`; a float32 scalar."""
        places, rows = torch.unique(pack.target_places, return_inverse=True)
        cos, sin = self.rotary(torch.empty(0, dtype=torch.float32), pack.positions[None])
        line = Line(pack.segments, cos[0].contiguous(), sin[0].contiguous())
        x = nn.functional.embedding(pack.ids, self.embedding)
        for layer in self.layers:
            last = layer is self.layers[-1]
            parameters = layer.parameters
            x = _apply(_Layer, x, layer, line, places if last else None, training, self.checkpointing, *parameters)
        smoothing = self.smoothing if training else 0.0
        return _apply(_TargetLoss, x, self, rows, pack.target_labels, pack.target_weights / denominator, smoothing)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    out: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: PackedLayer, line: Line, places: Tensor | None, training: bool,
        checkpointing: bool, *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.call = layer, line, places, training
        random = torch.get_rng_state() if checkpointing else None
        z, kept = layer.forward(x, line, places, training)
        ctx.kept = (x, random) if checkpointing else kept
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        layer, line, places, training = ctx.call
        kept = ctx.kept if isinstance(ctx.kept, Kept) else _again(layer, line, places, training, *ctx.kept)
        ctx.kept = None
        dx, grads = layer.backward(dz.contiguous(), kept, line, places, ctx.needs_input_grad[0])
        return dx, None, None, None, None, None, *grads


def _again(layer: PackedLayer, line: Line, places: Tensor | None, training: bool, x: Tensor, random: Tensor) -> Kept:
    """The forward pass once more, with the dropout it had."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random)
        return layer.forward(x, line, places, training)[1]


class _TargetLoss(torch.autograd.Function):
    """The loss and, since its factor is known, at once its gradient: logits live only for some rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, model: PackedModel, rows: Tensor, labels: Tensor, weights: Tensor, smoothing: float
    ) -> Tensor:
        kernels, (norm, eps) = model.kernels, model.norm
        h, rstd = kernels.rms_norm(x, norm, eps)
        dh = torch.zeros_like(h, dtype=torch.float32) if x.requires_grad else None
        total = torch.zeros(())
        parts = -(-len(rows) * sum(model.head.sizes) // LOGITS)
        for part in torch.tensor_split(torch.arange(len(rows)), parts):
            at = rows[part]
            logits = model.head.forward(h[at])
            if smoothing:
                # Against a smoothed target: the plain cross entropy, and this part of how far its logit is ahead.
                ahead = logits.gather(1, labels[part, None]).squeeze(1).float() - logits.mean(1, dtype=torch.float32)
                total += smoothing * ahead.dot(weights[part])
            total += kernels.cross_entropy(logits, labels[part], weights[part]).dot(weights[part])
            if smoothing:
                moved = (smoothing * weights[part, None]).to(logits.dtype)
                logits.sub_(moved / logits.shape[1]).scatter_add_(1, labels[part, None], moved)
            if dh is not None:
                dh.index_add_(0, at, model.head.backward(logits).float())
        if dh is not None:
            ctx.dx = kernels.rms_norm_backward(dh.to(x.dtype), x, norm, rstd, None)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.dx * grad.to(ctx.dx.dtype), None, None, None, None, None
