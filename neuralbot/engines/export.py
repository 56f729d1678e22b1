"""A run or model -> a folder that the OpenVINO engine loads; kept, so that it is made once.

The work is done by another process (export_worker): it needs several times the memory of the result, and libraries
that are not to be in this process. What is kept depends on the files of the model, the settings and the libraries.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, get_args

from neuralbot.calibration import Calibration
from neuralbot.data.sources import files
from neuralbot.engines import export_cache
from neuralbot.engines.export_cache import Entry, Facts
from neuralbot.errors import DataError, GenerationError, ModelError, NeuralbotError, ResourceError
from neuralbot.modeling import ADAPTER_CONFIG, SERVING, base_of, local_folder
from neuralbot.precision import Kept
from neuralbot.quantization import choose
from neuralbot.quantization.rows import RECIPE

PRECISIONS: tuple[Kept, ...] = get_args(Kept)
LIBRARIES = ("openvino", "openvino-genai", "openvino-tokenizers", "optimum-intel", "nncf", "transformers", "torch")
INSTALL = "pip install 'neuralbot[openvino]'"
GROUP_SIZE = 128
_FORM = 3  # of what is kept; another number makes all anew
_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_RECORDS = {"results.json", SERVING}  # of a run: they change, and its weights do not
_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 3.2, "int4": 2.8}  # a weight, with what the compression is made from


@dataclass(frozen=True)
class Spec:
    """What is exported, and how. group_size: weights with a scale of their own, in int4; -1: a row.

    calibration: how the integers are chosen; None: each weight is rounded by itself. token: for the hub, no part of
    what is kept.
    """

    source: str
    precision: Kept = "bf16"
    peft_path: str | None = None
    tokenizer: str | None = None
    group_size: int = GROUP_SIZE
    symmetric: bool = False
    calibration: Calibration | None = None
    token: str | None = field(default=None, repr=False)


class Unsupported(GenerationError):
    """A model that OpenVINO cannot run; the message says why."""


def missing() -> str | None:
    """Which of the libraries is not installed; None: all are."""
    for name in LIBRARIES:
        try:
            version(name)
        except PackageNotFoundError:
            return name
    return None


def exported(spec: Spec, say: Callable[[str], None] = print) -> Entry:
    """The exported model of `spec`, made if it is not kept; `say` gets a line for each step.

    Raises DataError for rows that cannot be calibrated on, ModelError for a model that cannot be loaded, Unsupported
    for one that OpenVINO does not run, ResourceError where the disk or the memory is too small.
    """
    if (name := missing()) is not None:
        raise ModelError(f"{name} is not installed: {INSTALL}")
    if spec.calibration is not None:
        choose.require(spec.calibration.method)
    if (folder := exported_folder(spec.source)) is not None:
        return _as_it_is(folder, spec)
    entry = export_cache.recall_or_make(key(spec), lambda folder: _made(spec, folder, say), say)
    if (why := entry.facts.get("unsupported")) is not None:
        raise Unsupported(why)
    return entry


def exported_folder(name: str) -> Path | None:
    """Where `name` is a folder that `neuralbot export --output` wrote, that folder."""
    folder = Path(name).expanduser()
    return folder if name and (folder / export_cache.MANIFEST).is_file() else None


def kept_in(folder: Path) -> Kept:
    """The precision of the weights of an exported model. Raises ModelError."""
    try:
        kept = json.loads((folder / export_cache.MANIFEST).read_text(encoding="utf-8"))["facts"]["precision"]
        return PRECISIONS[PRECISIONS.index(kept)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder) from error


def _as_it_is(folder: Path, spec: Spec) -> Entry:
    entry = export_cache.intact(folder)
    if entry is None:
        raise _damaged(folder)
    if (kept := kept_in(folder)) != spec.precision:
        raise ModelError(
            f"{folder} is exported in {kept}, not in {spec.precision}: leave that choice out, or export the model anew"
        )
    return entry


def _damaged(folder: Path) -> ModelError:
    return ModelError(f"the exported model {folder} is damaged: its files are not those written; export it anew")


def key(spec: Spec) -> str:
    """A digest of the files, the settings and the libraries."""
    settings = {name: value for name, value in asdict(spec).items() if name not in ("source", "peft_path", "token")}
    settings["tokenizer"] = None
    if spec.precision != "int4":
        settings["group_size"] = None
    libraries, patterns = list(LIBRARIES), list(_PATTERNS)
    if spec.calibration is None:
        del settings["calibration"]
    else:
        libraries.append(choose.library(spec.calibration.method))
        patterns.append(RECIPE)
    row_files = _row_files(spec)
    if row_files:
        settings["calibration"]["data"] = None  # it is their content that counts
    state = hashlib.sha256(json.dumps([_FORM, settings, [version(name) for name in libraries]]).encode())
    for folder in _folders(spec):
        paths = {path for pattern in patterns for path in folder.glob(pattern)}
        for path in sorted(path for path in paths if path.name not in _RECORDS):
            state.update(f"{path.name} {export_cache.digest(path)}\n".encode())
    for path in row_files:
        state.update(f"{path.name} {export_cache.digest(path)}\n".encode())
    return state.hexdigest()[:40]


def _row_files(spec: Spec) -> list[Path]:
    """The files that a calibration names; those of a run are known by its manifest."""
    if spec.calibration is None or spec.calibration.data is None:
        return []
    path = Path(spec.calibration.data).expanduser()
    return files(path) if path.exists() else []


def _folders(spec: Spec) -> list[Path]:
    """All that the model is made of."""
    names = [name for name in (spec.source, spec.peft_path, spec.tokenizer) if name]
    folders = [local_folder(name, weights=name != spec.tokenizer, token=spec.token) for name in names]
    for folder in list(folders):
        if (folder / ADAPTER_CONFIG).is_file():
            base, revision = base_of(folder)
            folders.append(local_folder(base, weights=True, revision=revision, token=spec.token))
    return folders


def _made(spec: Spec, folder: Path, say: Callable[[str], None]) -> Facts:
    _require_room(spec, folder)
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "neuralbot.engines.export_worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(json.dumps(asdict(spec)).encode())
            worker.stdin.close()
            facts = _followed(worker.stdout, spec, say)
            status = worker.wait()
        finally:
            worker.kill()
            worker.wait()
        if facts is None:
            raise ResourceError(_ended(spec, status, log))
    return facts


def _followed(lines: IO[bytes], spec: Spec, say: Callable[[str], None]) -> Facts | None:
    """The facts that come at the end; None: the worker ended without them."""
    for line in lines:
        message = json.loads(line)
        if "say" in message:
            say(message["say"])
        elif "unsupported" in message:
            return {"source": spec.source, "unsupported": message["unsupported"]}
        elif "error" in message:
            kinds: tuple[type[NeuralbotError], ...] = (DataError, ModelError, ResourceError)
            raise next(kind for kind in kinds if kind.__name__ == message["error"])(message["message"])
        else:
            facts: Facts = message["facts"]
            return facts
    return None


def _ended(spec: Spec, status: int, log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    if status == -9:
        return f"the export of {spec.source} was killed, most likely for want of memory: use a machine with more"
    return f"the export of {spec.source} ended with status {status}: {lines[-1] if lines else 'it said nothing'}"


def _require_room(spec: Spec, folder: Path) -> None:
    stored = sum(path.stat().st_size for place in _folders(spec) for path in place.glob("*.safetensors"))
    needed = int(stored / 2 * _BYTES[spec.precision])  # stored in two bytes a weight; in four it is an overestimate
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"the export of {spec.source} needs about {needed / 1e9:.1f} GB in {folder.parent}, where "
            f"{free / 1e9:.1f} GB are free: see `neuralbot cache prune`, or set XDG_CACHE_HOME"
        )
