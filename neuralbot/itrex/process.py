"""Runs worker.py in the environment of the genuine package and gives back what it found, or raises what it says."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuralbot.errors import ModelError
from neuralbot.itrex import environment

_WORKER = Path(__file__).with_name("worker.py")
_LAST_LINES = 5


@contextmanager
def started(job: dict[str, Any], log: Path) -> Iterator[subprocess.Popen[str]]:
    """The worker at its job, with pipes to its standard input and output; what else it prints goes to `log`.

    Raises ModelError at the end of the block if the job failed, with what the package said.
    """
    with tempfile.TemporaryDirectory(prefix="itrex-") as folder, log.open("w", encoding="utf-8") as said:
        job_file, result_file = Path(folder) / "job.json", Path(folder) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = [str(environment.python()), "-P", str(_WORKER), str(job_file), str(result_file)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=_variables()
        )
        try:
            yield process
            process.communicate()
        finally:
            process.kill()
            process.wait()
        said.flush()
        job.update(result=_result(result_file, process.returncode, log))


def run(job: dict[str, Any], log: Path, on_line: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do the job and return its result; `on_line` is called with each object that the worker tells meanwhile."""
    with started(job, log) as process:
        assert process.stdout
        for line in process.stdout:
            on_line(json.loads(line))
    result: dict[str, Any] = job["result"]
    return result


def failure(told: dict[str, Any], log: Path) -> ModelError:
    """The error for what the worker says went wrong; the traceback goes to the log."""
    with log.open("a", encoding="utf-8") as said:
        said.write(told.get("traceback", ""))
    code = f" (its code {told['code']})" if told.get("code") else ""
    return ModelError(f"the engine itrex failed{code}: {told['error']}; more is in {log}")


def _result(path: Path, status: int, log: Path) -> dict[str, Any]:
    if not path.is_file():  # killed, most likely for memory
        last = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
        raise ModelError(f"the engine itrex ended with status {status} without a word; the end of {log}: {last}")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        raise failure(result, log)
    return result


def _variables() -> dict[str, str]:
    """Those of ours, without Python's, and with the old libraries kept from telling anybody about the run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"WANDB_DISABLED": "true", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
