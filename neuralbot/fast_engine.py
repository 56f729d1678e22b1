"""PipelineConfig, or the name of a model -> the OpenVINO engine, or why the torch engine has to answer.

Imports neither torch nor the model's own code where the model is exported already: the second start is a quick one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neuralbot import hardware, precision
from neuralbot.calibration import ANY_ROWS, Calibration
from neuralbot.conversation import ensure_chat_template
from neuralbot.engines import export
from neuralbot.engines.export import Spec, Unsupported
from neuralbot.engines.export_cache import Entry, Facts
from neuralbot.engines.openvino_engine import ACTIVATION_GROUP, Exported, Mode, OpenVinoEngine
from neuralbot.engines.openvino_worker import Crash
from neuralbot.engines.protocol import end_ids
from neuralbot.errors import ModelError, ResourceError
from neuralbot.merging import UNMERGED
from neuralbot.modeling import Parts, load_tokenizer, parts_of, peft_type, read_serving
from neuralbot.quantization.rows import RECIPE
from neuralbot.training.records import read_json
from neuralbot.training.run_folder import MANIFEST

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.engines.protocol import Engine
    from neuralbot.neural_chat.config import PipelineConfig

logger = logging.getLogger(__name__)


ENGINES = ("auto", "openvino", "torch")
LOOKUP_GAINS = ("summarization",)  # benchmarks/results/prompt-lookup.json

T = TypeVar("T")


class NotOffered(Exception):
    """Why the torch engine has to answer."""


def where_it_runs(engine: str, device: str, load: Callable[[], T], notices: list[str]) -> T | None:
    """`load()`; None where the torch engine is to answer, with a notice if that is no choice of the user.

    engine: auto (then NEURALBOT_ENGINE counts), openvino or torch. Raises ModelError where openvino was asked for and
    cannot answer, and for what is none of these.
    """
    wanted = hardware.wanted_engine() if engine == "auto" else engine
    if wanted not in ENGINES:
        raise ModelError(f"engine={wanted!r} is not known: expected {', '.join(ENGINES)}")
    if wanted == "torch" or (wanted == "auto" and (device != "cpu" or export.missing())):
        return None
    try:
        if device != "cpu":
            raise NotOffered(f"it is for processors, not for device={device!r}")
        return load()
    except NotOffered as error:
        if wanted == "openvino":
            raise ModelError(f"engine='openvino' cannot answer: {error}") from error
        notices.append(f"the torch engine answers: {error}")
        return None


def load_plain(name: str, *, token: str | None = None) -> OpenVinoEngine:
    """The engine of a run or model as it is, in bfloat16 where the processor has it; its chat template is untouched.

    Raises NotOffered, and ModelError for what no engine can do.
    """
    form = _form(None, name)
    tokenizer = _mergeable(name, None, token).load_tokenizer(token=token)
    return _engine(Spec(name, form.kept, token=token), form, tokenizer)


def load(
    config: PipelineConfig, peft_path: str | None, reference: Callable[[], Engine]
) -> tuple[OpenVinoEngine, dict[str, Any], list[str]]:
    """The engine, the settings stored with the run, and what was adapted.

    reference: makes the torch engine of the same config. Raises NotOffered, and ModelError for what no engine can do.
    """
    name, token = config.model_name_or_path, config.hf_access_token
    form = _form(config.optimization_config, name)
    parts = _mergeable(name, peft_path, token)
    tokenizer = parts.load_tokenizer(config.tokenizer_name_or_path, token=token)
    style = ensure_chat_template(tokenizer, config.task or "chat")
    notices = list(form.notices)
    chosen = _calibration(form, parts.home, notices)
    named = (peft_path, config.tokenizer_name_or_path)
    spec = Spec(name, form.kept, *named, form.group_size, form.symmetric, chosen, token=token)
    draft = _draft(config, spec, tokenizer) if config.assistant_model else None
    others = None if export.exported_folder(name) else reference
    mode: Mode = "draft" if draft else "lookup" if _looks_up(config, parts.home) else "plain"
    engine = _engine(spec, form, tokenizer, mode, draft, others)
    if config.task and style == "tokenizer":
        notices.append(f"PipelineConfig(task={config.task!r}) has no effect: the model brings its own chat template")
    return engine, read_serving(parts.home), notices


def _calibration(form: precision.Exported, home: Path, notices: list[str]) -> Calibration | None:
    """A run has rows of its own: better ones than those that ITREX's configs name where nobody chose."""
    chosen = form.calibration
    if chosen is None or chosen.data not in (None, ANY_ROWS):
        return chosen
    if not (home / RECIPE).is_file():
        return replace(chosen, data=ANY_ROWS)
    notices.append(f"{chosen.method} is calibrated on {chosen.rows} rows that {home} was trained on")
    return replace(chosen, data=None)


def _looks_up(config: PipelineConfig, home: Path) -> bool:
    """Whether tokens are guessed from the prompt: by itself only where that was measured to gain."""
    if config.prompt_lookup is not None:
        return config.prompt_lookup
    manifest = home / MANIFEST
    task = config.task or (read_json(manifest).get("task") if manifest.is_file() else None)
    return task in LOOKUP_GAINS


def _form(optimization_config: Any, name: str) -> precision.Exported:
    if (library := export.missing()) is not None:
        raise NotOffered(f"{library} is not installed ({export.INSTALL})")
    form = precision.for_openvino(optimization_config)
    if form is None:
        raise NotOffered(f"OpenVINO has no layers for this {type(optimization_config).__name__}")
    if optimization_config is None and (folder := export.exported_folder(name)) is not None:
        kept = export.kept_in(folder)
        return replace(form, kept=kept, computed="f32" if kept == "fp32" else form.computed)
    return form


def _mergeable(name: str, peft_path: str | None, token: str | None) -> Parts:
    if peft_path and export.exported_folder(name):
        raise ModelError(f"{name} is exported: peft_path={peft_path} cannot go on top; give the model it was made from")
    parts = parts_of(name, peft_path=peft_path, token=token)
    if parts.adapter is not None and peft_type(parts.adapter) in UNMERGED:
        raise NotOffered(f"the adapter of {name} cannot be merged into its base")
    return parts


def _engine(
    spec: Spec,
    form: precision.Exported,
    tokenizer: PreTrainedTokenizerBase,
    mode: Mode = "plain",
    draft: Entry | None = None,
    reference: Callable[[], Engine] | None = None,
) -> OpenVinoEngine:
    entry = _exported(spec)
    exported = Exported(
        entry.folder,
        entry.facts["context_length"],
        entry.facts["vocabulary"],
        end_ids(entry.facts["eos_token_id"], tokenizer),
        form.computed,
        _activation_group(entry.facts, form),
    )
    folder = None if draft is None else draft.folder
    try:
        return OpenVinoEngine(exported, tokenizer, mode=mode, draft=folder, reference=reference)
    except Crash as error:
        raise NotOffered(f"{error}: it does not run on this processor") from error
    except ResourceError as error:
        raise NotOffered(str(error)) from error


def _activation_group(facts: Facts, form: precision.Exported) -> int:
    """No larger than a group of weights: OpenVINO has no products for that."""
    if form.kept not in ("int8", "int4"):
        return 0
    weights = facts.get("group_size") or form.group_size
    return min(ACTIVATION_GROUP, weights) if form.kept == "int4" and weights > 0 else ACTIVATION_GROUP


def _exported(spec: Spec) -> Entry:
    try:
        return export.exported(spec, _say)
    except (Unsupported, ResourceError) as error:
        raise NotOffered(str(error)) from error


def _draft(config: PipelineConfig, main: Spec, tokenizer: PreTrainedTokenizerBase) -> Entry:
    name = str(config.assistant_model)
    if load_tokenizer(name, token=config.hf_access_token).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"assistant_model={name} has another vocabulary than {config.model_name_or_path}: give a smaller model of "
            "the same family"
        )
    return _exported(Spec(name, main.precision, group_size=main.group_size, symmetric=main.symmetric, token=main.token))


def _say(text: str) -> None:
    logger.warning("for the OpenVINO engine, once: %s", text)
