"""The process that exports a model: `python -m neuralbot.engines.export_worker FOLDER`, its settings as JSON on stdin.

It answers in lines of JSON: {"say": text} for each step, and at the end {"facts": ...}, {"unsupported": why} or
{"error": class, "message": text}.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.calibration import Calibration
from neuralbot.engines import export_check, telemetry
from neuralbot.errors import DataError, ModelError, NeuralbotError, ResourceError
from neuralbot.modeling import EXPORTED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from neuralbot.modeling import LoadedModel
    from neuralbot.quantization.integers import Integers


_FULL = 2**20  # bytes that a failed write may leave free


def main() -> int:
    settings, folder = json.load(sys.stdin), Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print; only answers go to our reader

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers)

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        answer(**_exported(settings, folder, lambda text: answer(say=text)))
    except Exception as error:
        answer(**_told(error, folder))
    return 0


def _told(error: Exception, folder: Path) -> dict[str, str]:
    """Raises what nobody expects. For a full disk libraries raise all kinds of errors."""
    if isinstance(error, ModelError | DataError):
        return {"error": type(error).__name__, "message": str(error)}
    if _is_full(folder):
        message = f"the disk of {folder.parent} is full: see `neuralbot cache prune`, or set XDG_CACHE_HOME"
    elif isinstance(error, MemoryError):
        message = "the export needs more memory than there is"
    elif isinstance(error, OSError):
        message = f"the export cannot write: {error.strerror}"
    elif isinstance(error, NeuralbotError):
        message = str(error)
    else:
        raise error
    return {"error": "ResourceError", "message": message}


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < _FULL


def _exported(settings: dict[str, Any], folder: Path, say: Any) -> dict[str, Any]:
    telemetry.hide()
    from neuralbot import modeling

    precision = settings["precision"]
    say(f"reading {settings['source']}")
    modeling.hide_loading_bars()
    from peft import PeftModel

    loaded = modeling.load_for_chat(
        settings["source"],
        _dtype(settings),
        peft_path=settings["peft_path"],
        tokenizer_source=settings["tokenizer"],
        token=settings["token"],
    )
    if isinstance(loaded.model, PeftModel):
        return {"unsupported": f"{settings['source']} has an adapter that learned a prompt, which is no weight"}
    facts = _facts(loaded.model, settings)
    integers = _chosen(loaded, settings, say) if settings["calibration"] else {}
    known = export_check.reference(loaded.model, settings["source"])
    say(f"exporting {sum(weight.numel() for weight in loaded.model.parameters()) / 1e6:,.0f} million weights")
    try:
        _convert(loaded, folder)
    except (ValueError, NotImplementedError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return _unsupported(folder, facts, f"cannot be exported for OpenVINO: {reason}")
    del loaded
    _check(folder / EXPORTED)
    say("comparing its first tokens with the model's")
    if (why := export_check.differs(folder, known)) is not None:
        return _unsupported(folder, facts, f"does not run in OpenVINO: {why}")
    if precision in ("int8", "int4"):
        say(f"keeping the weights in {precision}")
        _compress(folder / EXPORTED, settings, integers)
        _check(folder / EXPORTED)
    return {"facts": facts}


def _unsupported(folder: Path, facts: dict[str, Any], why: str) -> dict[str, Any]:
    """What is remembered of the model. Raises ResourceError where it may be the disk's fault."""
    if _is_full(folder):
        raise ResourceError(why)
    return {"unsupported": f"{facts['source']} ({facts['model_type']}) {why}"}


def _dtype(settings: dict[str, Any]) -> torch.dtype:
    """float32 where the weights are to be rounded again, unless bfloat16 holds all that is stored."""
    import torch

    from neuralbot import modeling

    if settings["precision"] in ("fp32", "bf16"):
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[settings["precision"]]
    folder = modeling.local_folder(settings["source"], weights=False, token=settings["token"])
    if settings["calibration"] or settings["peft_path"] or (folder / modeling.ADAPTER_CONFIG).is_file():
        return torch.float32
    config = modeling.load_config(settings["source"], token=settings["token"])
    return torch.bfloat16 if config.dtype == torch.bfloat16 else torch.float32


def _facts(model: PreTrainedModel, settings: dict[str, Any]) -> dict[str, Any]:
    from neuralbot import modeling

    config = model.config
    return {
        "source": settings["source"],
        "precision": settings["precision"],
        "group_size": settings["group_size"] if settings["precision"] == "int4" else None,
        "method": settings["calibration"] and settings["calibration"]["method"],
        "model_type": config.model_type,
        "context_length": modeling.context_length(config),
        "vocabulary": config.get_text_config().vocab_size,
        "eos_token_id": getattr(model.generation_config, "eos_token_id", None),
    }


def _convert(loaded: LoadedModel, folder: Path) -> None:
    import torch
    from optimum.exporters.openvino import export_from_model
    from optimum.exporters.openvino.convert import export_tokenizer
    from optimum.intel import OVConfig

    half = loaded.model.dtype == torch.bfloat16
    export_from_model(
        loaded.model,
        folder,
        task="text-generation-with-past",
        ov_config=OVConfig(dtype="bf16" if half else "fp32"),
        preprocessors=[],
        patch_16bit_model=half,
    )
    # Only for answers by a grammar: all else comes and goes as ids.
    export_tokenizer(loaded.tokenizer, folder, task="text-generation-with-past")


def _chosen(loaded: LoadedModel, settings: dict[str, Any], say: Callable[[str], None]) -> dict[str, Integers]:
    """The integers that a calibration finds; the model becomes the one that they stand for."""
    from neuralbot import modeling
    from neuralbot.quantization import choose, rows

    calibration = Calibration(**settings["calibration"])
    home = modeling.parts_of(settings["source"], peft_path=settings["peft_path"], token=settings["token"]).home
    read = rows.token_rows(home, loaded.tokenizer, calibration, settings["token"])
    say(f"calibrating by {calibration.method} on {len(read)} rows, {sum(map(len, read)):,} tokens")
    bits = {"int8": 8, "int4": 4}[settings["precision"]]
    form = choose.Form(bits, settings["group_size"] if bits == 4 else -1, settings["symmetric"])
    return choose.choose(loaded.model, read, form, calibration, say)


def _compress(path: Path, settings: dict[str, Any], integers: dict[str, Integers]) -> None:
    """Writes what was chosen, and rounds all other weights: to 8 bits, or all but the two ends to 4."""
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

    from neuralbot.quantization import openvino_weights

    sign = "SYM" if settings["symmetric"] else "ASYM"
    mode = nncf.CompressWeightsMode[f"{settings['precision'].upper()}_{sign}"]
    options: dict[str, Any] = {}
    whole = openvino.Core().read_model(path)
    if integers:
        openvino_weights.write(whole, integers)
        mode = nncf.CompressWeightsMode.INT8_ASYM
    elif settings["precision"] == "int4":
        fallback = AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST)
        options = {"group_size": settings["group_size"], "ratio": 1.0, "advanced_parameters": fallback}
    model = nncf.compress_weights(whole, mode=mode, **options)
    small = path.with_name("compressed.xml")
    openvino.save_model(model, small, compress_to_fp16=False)
    del model, whole
    for suffix in (".xml", ".bin"):
        small.with_suffix(suffix).replace(path.with_suffix(suffix))


def _check(path: Path) -> None:
    """A full disk cuts the weights short, and OpenVINO does not say so when it writes."""
    import openvino

    with suppress(RuntimeError):
        openvino.Core().read_model(path)
        return
    raise ResourceError("the exported weights are incomplete: look at the disk")


if __name__ == "__main__":
    sys.exit(main())
