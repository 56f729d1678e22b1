"""Loads models: base -> adapter -> merge -> precision, in this one order.

`seedling` is the model inside the package; any other name is a local folder or a Hugging Face name. Only safetensors
are read and code that comes with a model is never run, whatever its files ask for. This module does not render
prompts (conversation), generate (engines) or train (training).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from neuralbot import hub, vocabulary
from neuralbot.arguments import ModelArguments, ServingArguments
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import ModelError
from neuralbot.merging import UNMERGED, merged

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SEEDLING = "seedling"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_CONFIG = "base_config"  # folder of the base's config, in a run for which model.config_name named another one
SERVING = "serving.json"
EXPORTED = "openvino_model.xml"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer, with what was stored beside it."""

    model: PreTrainedModel | PeftModel  # the latter where an adapter cannot be merged
    tokenizer: PreTrainedTokenizerBase
    serving: dict[str, Any]  # the run's ServingArguments by name; empty where none are stored
    base_name: str


def hide_loading_bars() -> None:
    """Leave out transformers' bars for reading and writing weights; those for downloads stay. For commands."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    enable_progress_bars()


def resolve_model(name: str) -> str:
    """Where `name` is loaded from: the embedded model's folder, a local folder, or the hub name unchanged.

    Raises ModelError for a path that is not there and for text that cannot be a hub name.
    """
    if name == SEEDLING:
        return str(Path(__file__).parent / SEEDLING)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return str(path.resolve())
    if name and path.exists():
        raise ModelError(f"{name} is a file: expected a folder with a model, {SEEDLING!r}, or a Hugging Face name")
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or (name.count("/") == 1 and path.parent.is_dir())
    if is_path:
        raise ModelError(f"there is no folder {name}{_nearest(path)}; expected a run folder or a model folder")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise ModelError(
            f"{name!r} is no model: expected a run folder, a model folder, {SEEDLING!r}, or a Hugging Face name "
            "such as mistralai/Mistral-7B-v0.1"
        )
    return name


def local_folder(
    source: str,
    *,
    weights: bool,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
) -> Path:
    """The folder that `source` is loaded from; what a Hugging Face name stands for is downloaded into the cache.

    weights: the weights too, not only config and tokenizer. Raises ModelError.
    """
    place = resolve_model(source)
    if Path(place).is_dir():
        return Path(place)
    with hub.in_plain_words("model", source, revision, ModelError):
        return loading(
            f"the model {source}",
            lambda: hub.download_model(source, weights=weights, revision=revision, token=token, cache_dir=cache_dir),
        )


def note_origin(model: PreTrainedModel, source: str, folder: Path) -> None:
    """Let adapters of a downloaded model name the hub's name and commit, not the folder of the cache."""
    if resolve_model(source) != str(folder):
        model.name_or_path = model.config.name_or_path = source
        model.config._commit_hash = folder.name


def load_tokenizer(
    source: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model or run. Raises ModelError."""
    folder = local_folder(source, weights=False, revision=revision, token=token, cache_dir=cache_dir)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{source} has no tokenizer: expected one of {', '.join(TOKENIZER_FILES)} in it",
            code=ErrorCodes.ERROR_TOKENIZER_NOT_FOUND,
        )
    load: Any
    if _is_plain(folder):
        with _torch_left_out():
            from transformers import PreTrainedTokenizerFast

        load = PreTrainedTokenizerFast.from_pretrained
    else:
        from transformers import AutoTokenizer

        load = AutoTokenizer.from_pretrained
    tokenizer: PreTrainedTokenizerBase = loading(
        f"the tokenizer of {source}", lambda: load(str(folder), trust_remote_code=False)
    )
    return tokenizer


@contextlib.contextmanager
def _torch_left_out() -> Iterator[None]:
    """For the import of a tokenizer's class: there, torch is needed for GGUF files only, and it takes a second."""
    name = "transformers.modeling_gguf_pytorch_utils"
    if name in sys.modules or "torch" in sys.modules:
        yield
        return

    def load_gguf_checkpoint(*args: Any, **kwargs: Any) -> Any:
        return importlib.import_module(name).load_gguf_checkpoint(*args, **kwargs)

    later: Any = ModuleType(name)
    later.load_gguf_checkpoint = load_gguf_checkpoint
    sys.modules[name] = later
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def _is_plain(folder: Path) -> bool:
    """Whether its class is the general one, which is there in half the time that AutoTokenizer takes to be imported."""
    settings = folder / "tokenizer_config.json"
    kind = read_json(settings).get("tokenizer_class") if settings.is_file() else None
    return kind in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file()


def row_limit(args: ModelArguments, max_seq_length: int, virtual_tokens: int = 0) -> int:
    """`max_seq_length`, or what `virtual_tokens` leave of the model's context if that is shorter; reads no weights.

    Raises ModelError.
    """
    source, revision = (
        args.config_name or args.model_name_or_path or "",
        None if args.config_name else args.model_revision,
    )
    config = load_config(source, revision=revision, token=args.token, cache_dir=args.cache_dir)
    context = context_length(config) or max_seq_length + virtual_tokens
    if virtual_tokens >= context - 1:
        raise ModelError(
            f"finetuning.num_virtual_tokens={virtual_tokens} leaves no room for a text: {source} reads {context} "
            "tokens at once; lower it"
        )
    return min(max_seq_length, context - virtual_tokens)


def load_config(
    source: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> PreTrainedConfig:
    """The config of a model; reads no weights. Raises ModelError."""
    folder = local_folder(source, weights=False, revision=revision, token=token, cache_dir=cache_dir)
    check_config(folder, source)
    from transformers import AutoConfig

    config: PreTrainedConfig = loading(
        f"the config of {source}", lambda: AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    )
    return config


def keep_config(args: ModelArguments, run: Path) -> None:
    """Put the config that `args.config_name` names into a run with an adapter: serving reads the base with it."""
    source = local_folder(args.config_name or "", weights=False, token=args.token, cache_dir=args.cache_dir)
    (run / BASE_CONFIG).mkdir(exist_ok=True)
    shutil.copyfile(source / "config.json", run / BASE_CONFIG / "config.json")


def context_length(config: PreTrainedConfig) -> int | None:
    """The most tokens a model reads at once, answer included; None where its config names no limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config.get_text_config(), name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def load_base(
    source: str,
    dtype: torch.dtype | Literal["auto"],
    *,
    config: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
) -> PreTrainedModel:
    """A causal language model with its weights in `dtype` ("auto": as stored), on the CPU, in evaluation mode.

    config: whose config it gets, if not its own. Raises ModelError, also when a tensor is missing or has another shape
    than the config says.
    """
    folder = local_folder(source, weights=True, revision=revision, token=token, cache_dir=cache_dir)
    from transformers import AutoModelForCausalLM

    check_folder(folder, source)
    other = {"config": load_config(config, token=token, cache_dir=cache_dir)} if config else {}
    options = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True, **other}
    model, report = loading(
        f"the model {source}", lambda: AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, **options)
    )
    # transformers fills missing tensors with random numbers and only warns: such a model answers nonsense.
    if missing := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ModelError(
            f"the model {source} is incomplete: {len(missing)} tensors are missing or have another shape than "
            f"{config or 'its config.json'} says ({', '.join(missing[:10])}); get the model again"
        )
    note_origin(model, source, folder)
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_for_chat(
    source: str,
    dtype: torch.dtype,
    *,
    peft_path: str | None = None,
    tokenizer_source: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    load_plain: Callable[..., PreTrainedModel] | None = None,
) -> LoadedModel:
    """What a chatbot runs: a run folder (adapter or full), or a model with the adapter in `peft_path`, if given.

    Adapters are merged into their base, but those that learned a prompt (see `merging`). The tokenizer is the one
    named, else the adapter's, else the model's. load_plain: reads a model without an adapter, in place of `load_base`.
    Raises ModelError.
    """
    parts = parts_of(source, peft_path=peft_path, token=token, cache_dir=cache_dir)
    tokenizer = parts.load_tokenizer(tokenizer_source, token=token, cache_dir=cache_dir)
    if parts.adapter is None:
        model = (load_plain or load_base)(parts.base, dtype, token=token, cache_dir=cache_dir)
    else:
        model = _with_adapter(parts.adapter, parts.base, dtype, parts.revision, token, cache_dir)
    return LoadedModel(model, tokenizer, read_serving(parts.home), parts.base)


@dataclass(frozen=True)
class Parts:
    """Where what a chatbot runs lies; home: the folder of the run, with tokenizer and settings."""

    home: Path
    base: str
    revision: str | None = None
    adapter: Path | None = None

    def load_tokenizer(
        self, source: str | None = None, *, token: str | None = None, cache_dir: str | None = None
    ) -> PreTrainedTokenizerBase:
        """The one of `source`, else the run's, else the base's. Raises ModelError."""
        has_tokenizer = any((self.home / name).is_file() for name in TOKENIZER_FILES)
        return load_tokenizer(
            source or (str(self.home) if has_tokenizer else self.base),
            revision=None if source else self.revision,
            token=token,
            cache_dir=cache_dir,
        )


def parts_of(
    source: str, *, peft_path: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> Parts:
    """What `source`, with the adapter in `peft_path`, is made of; downloads what is on the hub. Raises ModelError."""
    place = local_folder(source, weights=True, token=token, cache_dir=cache_dir)
    adapter = local_folder(peft_path, weights=True, token=token, cache_dir=cache_dir) if peft_path else None
    if (place / ADAPTER_CONFIG).is_file():
        if adapter:
            raise ModelError(f"{source} is an adapter: peft_path={peft_path} cannot go on top of it; give one of them")
        adapter = place
    elif adapter is None:
        return Parts(place, source)
    base, revision = base_of(adapter) if adapter == place else (source, None)
    return Parts(adapter, base, revision, adapter)


def _with_adapter(
    adapter: Path, base_name: str, dtype: torch.dtype, revision: str | None, token: str | None, cache_dir: str | None
) -> PreTrainedModel | PeftModel:
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{adapter} is no adapter: it has no {ADAPTER_CONFIG}")
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"the adapter in {adapter} has no {ADAPTER_WEIGHTS}{_pickle_advice(adapter)}")
    # As stored, so that merging rounds once; an adapter that is not merged is read in the dtype of its base.
    base_dtype: torch.dtype | Literal["auto"] = dtype if peft_type(adapter) in UNMERGED else "auto"
    try:
        config = str(adapter / BASE_CONFIG) if (adapter / BASE_CONFIG).is_dir() else None
        place = {"revision": revision, "token": token, "cache_dir": cache_dir}
        base = load_base(base_name, base_dtype, config=config, **place)
    except ModelError as error:
        raise ModelError(f"the base of the adapter in {adapter} cannot be loaded: {error}") from error
    return merged(_attach(base, adapter, base_name), dtype)


def _attach(base: PreTrainedModel, adapter: Path, base_name: str) -> PeftModel:
    """`base` with the adapter's layers; every tensor of the adapter finds its place, or ModelError."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    what, mismatch = f"the adapter in {adapter}", f"the adapter in {adapter} does not fit the base {base_name}"
    config = loading(what, lambda: PeftConfig.from_pretrained(str(adapter)))
    stored = loading(what, lambda: _tensor_shapes(adapter / ADAPTER_WEIGHTS))
    _fit_vocabulary(base, stored)
    trained = getattr(config, "trainable_token_indices", None) or []  # a list, or one for each layer
    for tokens in trained.values() if isinstance(trained, dict) else [trained]:
        vocabulary.grow(base, max(tokens, default=-1) + 1)
    model = loading(
        mismatch, lambda: PeftModel.from_pretrained(base, str(adapter), config=config, torch_device="cpu"), says=""
    )
    if config.peft_type not in UNMERGED and not hasattr(model, "merge_and_unload"):
        raise ModelError(f"{what} is of the kind {config.peft_type.value}, which cannot be served; LoRA adapters can")
    # peft only warns about tensors that find no place, and would answer with the untuned base.
    expected = {
        name: list(tensor.shape)
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    whole = {name: list(tensor.shape) for name, tensor in model.state_dict().items()} | expected
    wrong = {name for name, shape in expected.items() if stored.get(name) != shape}
    wrong |= {name for name, shape in stored.items() if whole.get(name) != shape}
    if wrong:
        names = ", ".join(sorted(wrong)[:5])
        raise ModelError(f"{mismatch}: {len(wrong)} tensors differ ({names}); give the base it was made for")
    return model


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def _fit_vocabulary(base: PreTrainedModel, stored: dict[str, list[int]]) -> None:
    """Give `base` as many token rows as an adapter that brings its own embeddings was trained with."""
    embeddings = base.get_input_embeddings()
    place = next(name for name, module in base.named_modules() if module is embeddings)
    rows = next((shape[0] for name, shape in stored.items() if name.endswith(f"{place}.weight")), None)
    if rows and rows != embeddings.weight.shape[0]:
        base.resize_token_embeddings(rows, mean_resizing=False)


def base_of(adapter: Path) -> tuple[str, str | None]:
    config = read_json(adapter / ADAPTER_CONFIG)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(f"{adapter / ADAPTER_CONFIG} names no base model: set base_model_name_or_path in it")
    # Stored as a path, so that plain peft finds it; the package may be installed elsewhere by now.
    if Path(name).parts[-2:] == ("neuralbot", SEEDLING):
        return SEEDLING, None
    return name, revision if isinstance(revision, str) else None


def peft_type(adapter: Path) -> str | None:
    """The kind of an adapter, by peft's name. Raises ModelError."""
    kind: str | None = read_json(adapter / ADAPTER_CONFIG).get("peft_type")
    return kind


def read_serving(folder: Path) -> dict[str, Any]:
    path = folder / SERVING
    if not path.is_file():
        return {}
    serving = read_json(path)
    known = {entry.name for entry in fields(ServingArguments)}
    if unknown := sorted(serving.keys() - known):
        raise ModelError(f"{path} has the unknown key {unknown[0]!r}; expected only {', '.join(sorted(known))}")
    return serving


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small file of a model or run. Raises ModelError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}; expected a JSON object") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}: expected a JSON object")
    return content


def check_folder(folder: Path, source: str) -> None:
    check_config(folder, source)
    if (folder / EXPORTED).is_file():
        raise ModelError(
            f"{source} is exported for OpenVINO, and only that engine answers with it: pip install "
            "'neuralbot[openvino]' and engine='auto', or give the model it was made from"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{source} has no *.safetensors{_pickle_advice(folder)}")


def check_config(folder: Path, source: str) -> None:
    if not (folder / "config.json").is_file():
        hint = "rebuild it with `python -m neuralbot.pretrain recipes/seedling.yaml`" if source == SEEDLING else (
            "expected a model folder (config.json, *.safetensors) or a finished run folder"
        )  # fmt: skip
        raise ModelError(
            f"{folder if source == SEEDLING else source} has no config.json; {hint}",
            code=ErrorCodes.ERROR_MODEL_CONFIG_NOT_FOUND,
        )


def _pickle_advice(folder: Path) -> str:
    if not any(any(folder.glob(pattern)) for pattern in PICKLES):
        return "; only this format is read: get the model again, or give another one"
    return (
        ", only pickled weights, which can run code when opened and are refused; where you trust them, "
        "load them once with transformers and write them anew with save_pretrained"
    )


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""


def loading(what: str, load: Callable[[], T], says: str = "cannot load ") -> T:
    """`load()`, with whatever the libraries raise about a bad model turned into one ModelError."""
    from safetensors import SafetensorError

    try:
        return load()
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{says}{what}: {reason[:600]}") from error
