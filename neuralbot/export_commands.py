"""`neuralbot export RUN --to openvino|safetensors`: a run as one model, ahead of the first start that would make it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from neuralbot.calibration import METHODS, ROWS, Calibration
from neuralbot.engines import export
from neuralbot.errors import ResourceError, UsageError


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit status. Raises NeuralbotError."""
    parser = argparse.ArgumentParser(prog="neuralbot export", description="Write a run or model as one model.")
    parser.add_argument("model", help="a run folder, a model folder, 'seedling' or a Hugging Face name")
    parser.add_argument(
        "--to",
        choices=("openvino", "safetensors"),
        default="openvino",
        help="openvino: for its engine (default)",
    )
    parser.add_argument(
        "--precision",
        choices=export.PRECISIONS,
        default="bf16",
        help="of the weights (default: bf16); int8 and int4 for openvino",
    )
    parser.add_argument(
        "--group-size", type=int, default=export.GROUP_SIZE, metavar="N", help="int4: weights that share a scale"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="int8 and int4: chosen by what the model computes on rows (default: each weight is rounded by itself)",
    )
    parser.add_argument("--data", metavar="FILE", help="rows for --method (default: those that the run was trained on)")
    parser.add_argument(
        "--rows", type=int, default=ROWS, metavar="N", help="how many of them --method uses (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write it here (default: into the cache)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    spec = export.Spec(
        options.model,
        options.precision,
        group_size=_group_size(options.group_size),
        calibration=_calibration(options),
        token=os.environ.get("HF_TOKEN"),
    )
    if options.output is not None and options.output.exists():
        raise UsageError(f"{options.output} is there already: name a new folder")
    if options.to == "safetensors":
        _safetensors(spec, options.output)
        return 0
    entry = export.exported(spec, _say)
    if options.output is None:
        print(f"{entry.folder}: {entry.size_bytes / 1e6:,.0f} MB; chatbots of {options.model} will use it")
    else:
        _filled(options.output, lambda part: _servable(spec, entry.folder, part))
    return 0


def _servable(spec: export.Spec, folder: Path, part: Path) -> None:
    """The exported model with the tokenizer and the settings of its run: a chatbot is built from it alone."""
    from neuralbot import modeling

    shutil.copytree(folder, part, dirs_exist_ok=True)
    parts = modeling.parts_of(spec.source, token=spec.token)
    parts.load_tokenizer(token=spec.token).save_pretrained(part)
    _copy_settings(parts.home, part)


def _copy_settings(folder: Path, part: Path) -> None:
    from neuralbot.modeling import SERVING

    if (folder / SERVING).is_file():
        shutil.copyfile(folder / SERVING, part / SERVING)


def _safetensors(spec: export.Spec, output: Path | None) -> None:
    if output is None:
        raise UsageError("--to safetensors needs a folder to write to: add --output FOLDER")
    if spec.precision not in ("fp32", "bf16"):
        raise UsageError(f"--to safetensors --precision {spec.precision} is not offered: expected fp32 or bf16")
    from neuralbot import modeling

    modeling.hide_loading_bars()
    import torch

    dtype = torch.float32 if spec.precision == "fp32" else torch.bfloat16
    _say(f"reading {spec.source}")
    loaded = modeling.load_for_chat(spec.source, dtype, token=spec.token)
    if hasattr(loaded.model, "peft_config"):
        raise UsageError(f"{spec.source} has an adapter that learned a prompt: it cannot be merged; use the run itself")

    def write(part: Path) -> None:
        loaded.model.save_pretrained(part)
        loaded.tokenizer.save_pretrained(part)
        _copy_settings(modeling.local_folder(spec.source, weights=False), part)

    _filled(output, write)


def _filled(output: Path, write: Callable[[Path], object]) -> None:
    """The folder with what `write` puts into it, or no folder. Raises ResourceError."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        try:
            write(part)
            part.chmod(0o755)
            part.rename(output)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except (OSError, shutil.Error) as error:
        raise ResourceError(f"{output} cannot be written: {error}") from error
    size = sum(path.stat().st_size for path in output.iterdir())
    print(f"{output}: {size / 1e6:,.0f} MB")


def _calibration(options: argparse.Namespace) -> Calibration | None:
    if options.method is None:
        if options.data is not None:
            raise UsageError("--data has no effect without --method: name a method, or leave it out")
        return None
    if options.precision not in ("int8", "int4"):
        raise UsageError(f"--method {options.method} is for int8 and int4: add --precision int4")
    if options.rows < 1:
        raise UsageError(f"--rows={options.rows} cannot be used: expected 1 or more")
    return Calibration(options.method, options.data, options.rows)


def _group_size(value: int) -> int:
    if value != -1 and (value < 32 or value & (value - 1)):
        raise UsageError(f"--group-size={value} cannot be used: expected -1 (a row) or a power of two from 32 on")
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
