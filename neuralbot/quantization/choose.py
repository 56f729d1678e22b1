"""A model and rows of ids -> integers for its linear layers, by neural-compressor or AutoRound.

The model is left as what OpenVINO will compute: the weights that the integers stand for, and, where the algorithm moved
factors out of them, the norms that took these. The output layer and the embeddings are not touched.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from neuralbot import quantized_base
from neuralbot.errors import ModelError
from neuralbot.quantization import folding
from neuralbot.quantization.integers import Integers, group_size

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from neuralbot.calibration import Calibration, Method

INSTALL = "pip install 'neuralbot[quantize]'"
_LIBRARY: dict[str, str] = {"autoround": "auto-round"}
_TEQ_RATE = 1e-3
_ITERATIONS = 50  # AutoRound's own 200 take four times as long

Say = Callable[[str], None]


@dataclass(frozen=True)
class Form:
    """What every weight becomes. group_size: inputs that share a scale, halved until they divide a row; -1: a row."""

    bits: int
    group_size: int
    symmetric: bool


def library(method: Method) -> str:
    return _LIBRARY.get(method, "neural-compressor-pt")


def missing(method: Method) -> str | None:
    """The library that `method` needs, if it is not installed."""
    try:
        version(library(method))
    except PackageNotFoundError:
        return library(method)
    return None


def require(method: Method) -> None:
    """Raises ModelError where the library of `method` is not installed."""
    if (name := missing(method)) is not None:
        raise ModelError(f"{method} needs {name}, which is not installed: {INSTALL}")


def choose(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], form: Form, settings: Calibration, say: Say
) -> dict[str, Integers]:
    """Name of each linear layer -> its integers; `say` is told of each block of layers. Changes `model`, see above.

    The model is in float32. Raises ModelError for a model, or a library, with which the algorithm cannot be used.
    """
    import torch

    require(settings.method)
    if settings.method == "teq" and form.bits != 4:
        raise ModelError(
            f"teq with {form.bits} bits cannot be honoured: neural-compressor rounds to 4 whatever is asked; use int4, "
            "or awq, gptq or autoround"
        )
    if settings.method == "autoround" and form.bits == 8 and not form.symmetric:
        raise ModelError(
            "autoround with 8 bits and zero points cannot be honoured: AutoRound keeps 8 bits symmetric; use gptq, or "
            "AutoRoundConfig(bits=8, sym=True)"
        )
    _require_linear(model, settings.method)
    torch.manual_seed(0)
    batches = [torch.tensor([list(ids)]) for ids in rows]
    by = _by_auto_round if settings.method == "autoround" else _by_neural_compressor
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # both libraries leave folders behind
        found = by(model, batches, form, settings, say)
    for name, chosen in found.items():
        _put_back(model, name, chosen)
    return found


def _require_linear(model: PreTrainedModel, method: str) -> None:
    """Raises ModelError where most weights of the blocks are not in plain linear layers."""
    names = _names(model)
    held = sum(model.get_submodule(name).weight.numel() for name in names)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embedded = sum({id(end.weight): end.weight.numel() for end in ends if end is not None}.values())
    if 2 * held < sum(weight.numel() for weight in model.parameters()) - embedded:
        raise ModelError(
            f"{method} cannot be used for {model.config.model_type}: most of its weights are not in linear layers of "
            "their own; leave the method out"
        )


def _names(model: PreTrainedModel) -> list[str]:
    from torch import nn

    return sorted(name for name in quantized_base.linear_layers(model) if type(model.get_submodule(name)) is nn.Linear)


def _by_neural_compressor(
    model: PreTrainedModel, batches: Sequence[Tensor], form: Form, settings: Calibration, say: Say
) -> dict[str, Integers]:
    from neural_compressor.torch import quantization as library

    kind = {"rtn": "RTNConfig", "gptq": "GPTQConfig", "awq": "AWQConfig", "teq": "TEQConfig"}[settings.method]
    options = _FIXED[settings.method] | dict(settings.options)
    if settings.method == "awq":
        options["absorb_layer_dict"] = folding.in_block(model, "awq")
    elif settings.method == "teq":
        options["absorb_to_layer"] = folding.in_model(model, "teq")
    config = _config(getattr(library, kind), model, form, options)
    prepared = library.prepare(model, config, example_inputs=batches[0])
    if settings.method == "teq":
        _train_factors(prepared, batches, say)
        converted = library.convert(prepared)
    else:
        with _told_of_blocks(prepared, settings.method, say):
            if settings.method != "rtn":
                for batch in batches:
                    prepared(batch)
            converted = library.convert(prepared)
    model.is_quantized = False  # else transformers would refuse to convert what are plain weights again
    kept = {name: layer for name, layer in converted.named_modules() if type(layer).__name__ == "INCWeightOnlyLinear"}
    return {name: _unpacked(layer, form.bits) for name, layer in kept.items()}


# What we set of each config besides bits, groups and symmetry.
_FIXED: dict[str, dict[str, Any]] = {
    "rtn": {"use_layer_wise": False, "model_path": "."},  # without a path it looks for the model on the hub
    "gptq": {"percdamp": 0.01, "block_size": 128, "model_path": "."},
    "awq": {"folding": True, "model_path": "."},
    "teq": {},
}


def _config(kind: Any, model: PreTrainedModel, form: Form, options: Mapping[str, Any]) -> Any:
    """The library's config: each linear layer with groups that divide its rows, all else left alone."""
    config = kind(dtype="fp32", **options)
    for name in _names(model):
        size = group_size(model.get_submodule(name).in_features, form.group_size)
        own = kind(dtype="int", bits=form.bits, use_sym=form.symmetric, group_size=size, **options)
        config.set_local(f"{re.escape(name)}$", own)
    return config


def _unpacked(layer: Any, bits: int) -> Integers:
    import torch

    found = layer.unpack()
    values, zeros = (found[key].to(torch.uint8) for key in ("int_weight", "zp"))
    return Integers(values.contiguous(), zeros.contiguous(), found["scales"].to(torch.float16).contiguous(), bits)


def _train_factors(model: PreTrainedModel, batches: Sequence[Tensor], say: Say) -> None:
    """TEQ's factors are trained on the loss of the rows, by whoever uses the library."""
    import torch

    factors = list(model._trained_alphas.values())
    optimizer = torch.optim.Adam(factors, lr=_TEQ_RATE)
    began = time.monotonic()
    for place, batch in enumerate(batches, 1):
        with torch.enable_grad():
            model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if place % max(1, len(batches) // 8) == 0:
            left = (time.monotonic() - began) / place * (len(batches) - place)
            say(f"teq: {place} of {len(batches)} rows, about {left:,.0f} s left")


def _by_auto_round(
    model: PreTrainedModel, batches: Sequence[Tensor], form: Form, settings: Calibration, say: Say
) -> dict[str, Integers]:
    import torch
    from auto_round import AutoRound, SignRoundConfig

    names = _names(model)
    sizes = {name: group_size(model.get_submodule(name).in_features, form.group_size) for name in names}
    options = {"iters": _ITERATIONS} | dict(settings.options)
    rounding = SignRoundConfig(bits=form.bits, group_size=form.group_size, sym=form.symmetric, **options)
    lines = _lines(batches)
    rounder = AutoRound(
        model,
        tokenizer="Placeholder",  # the rows are ids already
        dataset=[{"input_ids": line, "attention_mask": torch.ones_like(line)} for line in lines],
        nsamples=len(lines),
        seqlen=lines[0].shape[1],
        batch_size=8,
        alg_configs=rounding,
        layer_config={name: {"group_size": size} for name, size in sizes.items()},
        device_map="cpu",
        amp=False,  # in bfloat16 the integers could not be read back exactly
        enable_torch_compile=False,  # takes longer than a small model's calibration
    )
    with _told_of_blocks(model, "autoround", say):
        rounder.quantize()
    return {name: _read_back(model.get_submodule(name), sizes[name], form.bits) for name in names}


def _lines(batches: Sequence[Tensor]) -> list[Tensor]:
    """All rows in lines of the longest one's length: AutoRound learns from lines of one length."""
    import torch

    longest = max(batch.shape[1] for batch in batches)
    whole = torch.cat(list(batches), dim=1)
    return list(torch.split(whole[:, : whole.shape[1] // longest * longest], longest, dim=1))


def _read_back(layer: Any, size: int, bits: int) -> Integers:
    """AutoRound leaves the weight that its integers stand for, with their scales and zero points."""
    import torch

    outputs, inputs = layer.weight.shape
    scales = layer.scale.float().reshape(outputs, -1)
    zero = torch.as_tensor(layer.zp, dtype=torch.float32)
    zeros = zero.expand_as(scales) if zero.dim() == 0 else zero.reshape(outputs, -1)
    exact = layer.weight.detach().float().view(outputs, scales.shape[1], -1) / scales[..., None] + zeros[..., None]
    values = exact.round().clamp(0, 2**bits - 1).view(outputs, inputs)
    return Integers(values.to(torch.uint8), zeros.round().to(torch.uint8), scales.to(torch.float16), bits)


@contextlib.contextmanager
def _told_of_blocks(model: PreTrainedModel, method: str, say: Say) -> Iterator[None]:
    """Says when the algorithm comes to a block of layers: they take turns, and each is run many times."""
    from torch import nn

    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    began, furthest = time.monotonic(), -1

    def hook(number: int) -> Callable[..., None]:
        def tell(*_: Any) -> None:
            nonlocal furthest
            if number > furthest:
                furthest = number
                left = (time.monotonic() - began) / max(number, 1) * (len(blocks) - number)
                guess = f", about {left:,.0f} s left" if number else ""
                say(f"{method}: block {number + 1} of {len(blocks)}{guess}")

        return tell

    hooks = [block.register_forward_pre_hook(hook(number)) for number, block in enumerate(blocks)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _put_back(model: PreTrainedModel, name: str, chosen: Integers) -> None:
    """A plain layer with the weight that the integers stand for, in the place of the library's own."""
    import torch
    from torch import nn

    bias = model.get_submodule(name).bias
    outputs, inputs = chosen.values.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(chosen.weight(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(torch.float32), requires_grad=False)
    model.set_submodule(name, layer)
