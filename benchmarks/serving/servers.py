"""The servers that are measured, each a process of its own: ours with its engine beside it, and llama.cpp's."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.peers import methods
from neuralbot.errors import NeuralbotError

_START_S = 600


class Own:
    """Our server at `url`; `direct` asks its engine without it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{self._line()}"

    def direct(self, prompts: Sequence[list[int]], new_tokens: int) -> list[list[float]]:
        """Seconds to each token of each prompt."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps([prompts, new_tokens])}\n")
        self._process.stdin.flush()
        times: list[list[float]] = json.loads(self._line())
        return times

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=60).text

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise NeuralbotError(f"the server ended with status {self._process.wait()}: its output is above")
        return line.strip()


@contextmanager
def own(model: str, engine: str, kept: str, slots: int, queue: int, threads: int, work: Path) -> Iterator[Own]:
    """Raises NeuralbotError where it does not start."""
    command = [sys.executable, "-m", "benchmarks.serving.program", model, engine, kept, str(slots), str(queue)]
    with subprocess.Popen(
        command,
        env=methods.environment(threads, work) | {"NEURALBOT_ENGINE": engine},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Own(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
        finally:
            process.kill()


@contextmanager
def llama_cpp(python: Path, model: Path, kept: str, context: int, threads: int, work: Path) -> Iterator[str]:
    """The address of llama.cpp's server over the same checkpoint. Raises NeuralbotError where it does not start."""
    environment = methods.environment(threads, work)
    folder = work / "gguf"
    folder.mkdir(exist_ok=True)
    command = [str(python), "-m", "benchmarks.generation.gguf_files", str(model), str(folder)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise NeuralbotError(f"llama.cpp cannot read {model}: {done.stderr.strip()[-1500:]}")
    port = _free_port()
    options: dict[str, Any] = {
        "model": folder / f"{kept}.gguf", "host": "127.0.0.1", "port": port, "n_ctx": context, "n_threads": threads,
        "n_threads_batch": threads, "interrupt_requests": "false", "verbose": "false",
    }  # fmt: skip
    command = [str(python), "-m", "llama_cpp.server"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with (work / "llama-server.log").open("w+b") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, Path(log.name))
            yield url
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/v1/models").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise NeuralbotError(f"llama.cpp's server does not start: {log.read_text(errors='replace').strip()[-1500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
