"""What OpenVINO makes of an exported model, asked of another process, because the answer may be a crash.

There are reports of some processors on which it ends with a signal when it compiles a model. Whether it does is kept
for each processor, version and precision.
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
from typing import Any

from neuralbot import hardware
from neuralbot.engines import export_cache

_LIMIT_S = 600
_CRASHES = {-number for number in (signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)}


class Failed(Exception):
    """How a model fails in OpenVINO. final: whether it would again; want of memory or time may pass."""

    def __init__(self, how: str, *, final: bool) -> None:
        super().__init__(how)
        self.final = final


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


def answers(folder: Path, computed: str, prompts: list[list[int]], tokens: int) -> list[tuple[list[int], list[float]]]:
    """The greedy ids to each prompt with their logarithmic probabilities. Raises Failed."""
    done = _asked(folder, computed, json.dumps(prompts), str(tokens))
    if done.returncode:
        raise Failed(f"it raises {_last_line(done.stderr)}", final=True)
    return [(ids, logprobs) for ids, logprobs in json.loads(done.stdout)]


def _tried(folder: Path, computed: str) -> tuple[str | None, bool]:
    """The crash, and whether that is to be remembered; what it raises, it raises in this process too."""
    try:
        return None, _asked(folder, computed).returncode == 0
    except Failed as error:
        return str(error), error.final


def _asked(folder: Path, computed: str, *asked: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "neuralbot.engines.openvino_check", str(folder), computed, *asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"it gave no answer within {_LIMIT_S} s", final=False) from None
    if done.returncode < 0:
        raise Failed(f"it ended with {signal.Signals(-done.returncode).name}", final=done.returncode in _CRASHES)
    return done


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing"


def _key(computed: str) -> str:
    machine = hardware.probe()
    facts = [machine.cpu, machine.isa, sorted(hardware.cpu_flags()), version("openvino"), version("openvino-genai")]
    return hashlib.sha256(json.dumps([*facts, computed]).encode()).hexdigest()[:20]


def _main(folder: str, computed: str, prompts: str = "[[1, 1, 1, 1, 1, 1, 1, 1]]", tokens: str = "4") -> None:
    from neuralbot.engines.openvino_engine import Exported, OpenVinoEngine
    from neuralbot.engines.protocol import Sampling

    exported = Exported(Path(folder), None, 2**31, frozenset(), "bf16" if computed == "bf16" else "f32")
    engine: Any = OpenVinoEngine(exported, None)
    sampling = Sampling(max_new_tokens=int(tokens), logprobs=True)
    given = [engine.stream(prompt, sampling) for prompt in json.loads(prompts)]
    print(json.dumps([(list(answer), answer.logprobs) for answer in given]))
    engine.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
