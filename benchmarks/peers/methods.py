"""The ways to finetune that are compared, and one run of one of them in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.job import Job
from neuralbot.errors import NeuralbotError, UsageError

ROOT = Path(__file__).resolve().parents[2]
OWN = "own"  # the Python that runs the benchmark
_ABSOLUTE = re.compile(r"(?:/[^/\s\"':]+)+/")
_TAIL = 30  # lines of a failed process that are shown
_TRL_PACKED = {"packing": True, "packing_strategy": "bfd", "max_length": 1024}
_ITREX_NOTE = "tokenizes the text itself; the adapter is trained in bf16; losses are means of the batches' means"


@dataclass(frozen=True)
class Method:
    """program: the module of benchmarks.peers. python: whose environment runs it. options: see the program."""

    program: str
    python: str = OWN
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


METHODS = {
    "hf": Method("hf_trainer"),
    "trl": Method("trl_sft", "trl"),
    "trl-packed": Method("trl_sft", "trl", _TRL_PACKED, note="a batch is 4 packs of rows, so there are fewer steps"),
    "itrex": Method("itrex", "itrex", note=_ITREX_NOTE),
    "itrex-concat": Method(
        "itrex", "itrex", {"dataset_concatenation": True},
        note=f"{_ITREX_NOTE}; rows are joined, attend to each other, and the end that fills no sequence is left out",
    ),
    "neuralbot-reference": Method("neuralbot_trainer", options={"kernels": "reference"}),
    "neuralbot": Method("neuralbot_trainer", options={"kernels": "fast"}),
    "neuralbot-int8": Method("neuralbot_trainer", options={"kernels": "fast", "qlora": True, "bits": 8}),
    "neuralbot-nf4": Method("neuralbot_trainer", options={"kernels": "fast", "qlora": True, "bits": 4}),
}  # fmt: skip


class MethodFailed(NeuralbotError):
    """A method's process ended without a result; the message holds the end of what it printed."""


def chosen(names: Sequence[str], pythons: Mapping[str, Path | None]) -> dict[str, Method]:
    """The methods of these names, once it is sure that each one's Python is there. Raises UsageError."""
    for name in names:
        if name not in METHODS:
            raise UsageError(f"--methods: there is no {name!r}; expected some of {', '.join(METHODS)}")
        kind = METHODS[name].python
        python = pythons[kind]
        if python is None or not os.access(python, os.X_OK):
            found = "is not given" if python is None else f"{python} is not there, or cannot be run"
            raise UsageError(
                f"the method {name} runs in an environment of its own, and --{kind}-python {found}; make one with "
                f"`python3 -m venv {kind} && {kind}/bin/pip install -r benchmarks/peers/{kind}-requirements.txt`, then "
                f"give --{kind}-python {kind}/bin/python"
            )
    return {name: METHODS[name] for name in dict.fromkeys(names)}


def run(method: Method, python: Path, job: Job, work: Path) -> dict[str, Any]:
    """Train once in a fresh process; what it measured. Raises MethodFailed."""
    job_path, result_path, log = (work / name for name in ("job.json", "result.json", "log.txt"))
    job_path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    command = [str(python), "-m", f"benchmarks.peers.{method.program}", str(job_path), str(result_path)]
    with log.open("wb") as stream:
        done = subprocess.run(
            command, cwd=work, env=environment(job.threads, work), stdin=subprocess.DEVNULL, stdout=stream,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    if done.returncode or not result_path.is_file():
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_TAIL:]
        raise MethodFailed("\n  ".join([f"its process ended with status {done.returncode}; it said last:", *said]))
    result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
    return result


def without_folders(text: str) -> str:
    """The text without the folders of this machine, which no committed file shows."""
    return _ABSOLUTE.sub(".../", text)


def environment(threads: int, work: Path) -> dict[str, str]:
    """The same for every process: so many threads, this checkout's modules, no network, caches in `work`."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "HF_HOME": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
