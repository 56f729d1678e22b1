"""Whether OpenVINO runs on this processor: asked of another process, because the answer may be a crash.

There are reports of some processors on which it ends with a signal when it compiles a model. The answer is kept for
each processor, version and precision.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from neuralbot import hardware
from neuralbot.engines import export_cache

_LIMIT_S = 600
_CRASHES = {-number for number in (signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)}


def crash(folder: Path, computed: str, say: Callable[[str], None]) -> str | None:
    """How OpenVINO crashes when it computes the exported model in `folder`; None: it does not."""
    kept = export_cache.cache_folder() / f"check-{_key(computed)}.json"
    try:
        known: str | None = json.loads(kept.read_text(encoding="utf-8"))["crash"]
    except (OSError, ValueError, KeyError, TypeError):
        say("trying OpenVINO once on this processor")
        known, final = _tried(folder, computed)
        if final:
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps({"crash": known, "cpu": hardware.probe().cpu}), encoding="utf-8")
            part.replace(kept)
    return known


def _tried(folder: Path, computed: str) -> tuple[str | None, bool]:
    """The crash, and whether that is to be remembered: want of memory is not."""
    command = [sys.executable, "-m", "neuralbot.engines.openvino_check", str(folder), computed]
    try:
        status = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_LIMIT_S
        ).returncode
    except subprocess.TimeoutExpired:
        return f"it gave no answer within {_LIMIT_S} s", False
    if status >= 0:  # what it raises, it raises in this process too
        return None, status == 0
    return f"it ended with {signal.Signals(-status).name}", status in _CRASHES


def _key(computed: str) -> str:
    machine = hardware.probe()
    facts = [machine.cpu, machine.isa, sorted(hardware.cpu_flags()), version("openvino"), version("openvino-genai")]
    return hashlib.sha256(json.dumps([*facts, computed]).encode()).hexdigest()[:20]


def _main(folder: str, computed: str) -> None:
    from neuralbot.engines.openvino_engine import Exported, OpenVinoEngine
    from neuralbot.engines.protocol import Sampling

    exported = Exported(Path(folder), None, 2**31, frozenset(), "bf16" if computed == "bf16" else "f32")
    engine = OpenVinoEngine(exported, None)
    list(engine.stream([1] * 8, Sampling(max_new_tokens=4)))
    engine.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
