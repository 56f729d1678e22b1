"""Loads a base whose linear layers are quantized one by one as they are read: the whole of it is never in memory.

The output layer and the embeddings keep the dtype of the computation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot import hardware, modeling
from neuralbot.errors import ModelError
from neuralbot.progress import Show, unseen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from neuralbot.kernels.quantized import Quantize


_TRIM_BYTES = 32 * 2**20


def load_quantized(
    source: str,
    dtype: torch.dtype,
    quantize: Quantize,
    *,
    config: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    show: Show = unseen,
) -> PreTrainedModel:
    """The causal language model `source`, each linear layer but the output layer as `quantize` makes it.

    config: whose config it gets, if not its own. show: the progress. Raises ModelError, also when the files do
    not hold exactly the model's tensors.
    """
    folder = modeling.local_folder(source, weights=True, revision=revision, token=token, cache_dir=cache_dir)
    modeling.check_folder(folder, source)
    read = modeling.load_config(config or str(folder), token=token, cache_dir=cache_dir)
    model = modeling.loading(f"the model {source}", lambda: _skeleton(read, dtype))
    linear = linear_layers(model)
    places = _places(model)
    missing, freed = set(places), 0
    with show("loading the model") as report:
        for stored, tensor in _tensors(folder):
            freed += tensor.nbytes
            if (
                freed > _TRIM_BYTES
            ):  # what tensors leave behind is too scattered to be used again: half the file and more
                hardware.return_freed_memory()
                freed = 0
            # Some were saved without the output layer, and so without the name of what is under it.
            name = stored if stored in places else f"{model.base_model_prefix}.{stored}"
            if name not in places:
                if _is_constant(model, stored):
                    continue
                raise _mismatch(source, f"it has a tensor {stored}, which {model.config.model_type} does not know")
            _put(model, places[name], tensor.to(dtype), source)
            missing -= set(places[name])
            report(len(places) - len(missing), len(places))
            owner = name.rpartition(".")[0]
            if owner in linear and not any(other.rpartition(".")[0] == owner for other in missing):
                model.set_submodule(owner, quantize(_as_linear(model.get_submodule(owner))))
    if missing:
        raise _mismatch(source, f"it lacks {len(missing)} tensors ({', '.join(sorted(missing)[:5])})")
    model.name_or_path = model.config.name_or_path = str(folder)  # also where the config is from elsewhere
    modeling.note_origin(model, source, folder)
    hardware.return_freed_memory()
    return model.eval()


def quantize_layers(model: PreTrainedModel, quantize: Quantize) -> None:
    """The same for a model in memory: replaces each linear layer that is not quantized yet, one by one."""
    for name in linear_layers(model):
        model.set_submodule(name, quantize(_as_linear(model.get_submodule(name))))


def count_layers(model: PreTrainedModel) -> tuple[int, int]:
    """How many linear layers are quantized, and how many are not; the output layer does not count."""
    from neuralbot.kernels.quantized import QuantizedLinear

    kept = sum(isinstance(module, QuantizedLinear) for module in model.modules())
    return kept, len(linear_layers(model))


def _skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model without memory for its weights."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return model


def linear_layers(model: PreTrainedModel) -> set[str]:
    """All but the output layer. Not every subclass of nn.Linear is one in what it computes."""
    head = model.get_output_embeddings()
    kinds = ("Linear", "FalconLinear", "Conv1D")
    return {name for name, module in model.named_modules() if type(module).__name__ in kinds and module is not head}


def _as_linear(layer: Any) -> nn.Linear:
    """GPT-2's layers are linear ones whose weights stand the other way round."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not isinstance(layer, Conv1D):
        linear: nn.Linear = layer
        return linear
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, bias=False, device="meta")
    linear.weight = nn.Parameter(layer.weight.t().contiguous(), requires_grad=False)
    linear.bias = layer.bias
    return linear


def left_whole(model: PreTrainedModel) -> int:
    """How many linear layers of a quantized base are as they were. Raises ModelError if none is quantized."""
    quantized, whole = count_layers(model)
    if not quantized:
        raise ModelError(
            f"none of the {whole} linear layers of {model.config.model_type} can be quantised to 4 bits: the width of "
            "their input is no multiple of 64. Set finetuning.bits to 8, or leave out finetuning.qlora"
        )
    return whole


def _places(model: PreTrainedModel) -> dict[str, list[str]]:
    """Each parameter's name -> all names of the same (tied) parameter."""
    model.tie_weights()
    by_identity: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    return {name: names for names in by_identity.values() for name in names}


def _is_constant(model: PreTrainedModel, name: str) -> bool:
    """Whether older versions of transformers stored this tensor, which is computed today."""
    constants = [*(model._keys_to_ignore_on_load_unexpected or ()), *_CONSTANTS]
    return any(re.search(pattern, name) for pattern in constants)


_CONSTANTS = (r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$")


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors files, one at a time.

    A file is opened for each tensor anew and the tensor copied, or all pages of the file would stay in memory.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
            for name in names:
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(name).clone()
                yield name, tensor
        except SafetensorError as error:
            raise ModelError(f"{path} cannot be read: {error}; get the model again") from error


def _put(model: PreTrainedModel, names: list[str], tensor: Tensor, source: str) -> None:
    from torch import nn

    expected = model.get_parameter(names[0]).shape
    if tensor.shape != expected:
        raise _mismatch(source, f"{names[0]} is {list(tensor.shape)} and should be {list(expected)}")
    parameter = nn.Parameter(tensor, requires_grad=False)
    for name in names:
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner).register_parameter(own, parameter)


def _mismatch(source: str, what: str) -> ModelError:
    return ModelError(
        f"the model {source} cannot be quantised as it is read: {what}. Load it in bf16: leave out finetuning.qlora, "
        "or give a chatbot MixedPrecisionConfig()"
    )
