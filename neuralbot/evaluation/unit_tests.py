"""Runs answers that are Python code against the tests of their rows, each in a process of its own.

The child is `sandbox.py`: no network, no files but Python's library, an empty environment, limits on time, memory,
processes and open files, and a filter that denies writing files, starting processes or threads, signals and sockets.
What it prints goes nowhere. The process group is killed at the time limit. An answer has passed when the child hands
back a random token that it can read after the last test, and when it fails the same tests made impossible.

A fresh interpreter takes about 25 ms and its namespaces about 10, so 200 rows take a few seconds by two workers:
nothing is kept warm, and no answer can leave anything behind for the next. Set order is fixed (hash seed 0), so that
a verdict repeats. What this does NOT protect against stands in `sandbox.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from neuralbot.errors import ResourceError
from neuralbot.evaluation import sandbox as child

_MAX_REPLY_BYTES = 4096
_FENCED = re.compile(r"(?ms)^[ \t]*```[ \t]*([^\s`]*)[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*\r?$|\Z)")
_PYTHON = ("python", "python3", "py", "")
_TRY_S = 30.0  # far more than a start takes, also on a busy machine

Sandbox = Literal["namespaces", "filter"]


@dataclass(frozen=True)
class Verdict:
    """What became of one answer. `error` means that its tests could not be used, not that the answer is wrong."""

    status: Literal["passed", "failed", "timeout", "error"]
    message: str = ""


def sandbox_problem() -> str | None:
    """Why answers cannot be run safely on this machine; None if they can."""
    if sys.platform != "linux":
        return f"the system is {platform.system()}, and the sandbox needs Linux (seccomp)"
    if platform.machine() not in child.MACHINES:
        return f"the processor is {platform.machine()!r}, and the sandbox knows {', '.join(child.MACHINES)}"
    return None


def run_all(
    answers: Sequence[str],
    tests: Sequence[str],
    timeout_s: float,
    *,
    sandbox: Sandbox = "namespaces",
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """Runs each answer (code, or text with one fenced code block) against its tests, `workers` at a time.

    `timeout_s` is wall time for one run of a row, start of the interpreter included. `sandbox`: see
    EvaluationArguments. `on_progress` gets rows done and rows. Raises ResourceError where answers cannot be run so.
    """
    require(sandbox)
    if len(answers) != len(tests):
        raise ValueError(f"{len(answers)} answers, but tests of {len(tests)} rows")
    verdicts: list[Verdict] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="unit-tests")
    try:
        for verdict in pool.map(partial(run, timeout_s=timeout_s, sandbox=sandbox), answers, tests):
            verdicts.append(verdict)
            if on_progress:
                on_progress(len(verdicts), len(answers))
    finally:
        pool.shutdown(cancel_futures=True)
    return verdicts


def require(sandbox: Sandbox) -> None:
    """Raises ResourceError if answers cannot be run in this sandbox on this machine; tries it with an empty answer."""
    if problem := sandbox_problem():
        raise _unsafe(problem)
    _run_once("", "assert True", _TRY_S, sandbox, child.HONEST)


def run(answer: str, tests: str, timeout_s: float, sandbox: Sandbox = "namespaces") -> Verdict:
    """Runs one answer against its tests in a child process, and against impossible ones if it passed; see `run_all`."""
    if not tests.strip():
        return Verdict("error", "the row has no tests")
    code = extract_code(answer)
    verdict = _run_once(code, tests, timeout_s, sandbox, child.HONEST)
    if verdict.status != "passed":
        return verdict
    if _run_once(code, tests, timeout_s, sandbox, child.IMPOSSIBLE).status == "passed":
        return Verdict("failed", "it tampers with the check: it also passes tests that no honest answer can pass")
    return verdict


def _run_once(code: str, tests: str, timeout_s: float, sandbox: Sandbox, kind: bytes) -> Verdict:
    token = secrets.token_bytes(32)
    with _child(kind + _job(code, tests) + token, timeout_s, sandbox) as (process, verdict_fd):
        reply, in_time = _listen(verdict_fd, time.monotonic() + timeout_s)
        if not in_time:
            return Verdict("timeout", f"still running after {timeout_s:g} s")
        return _verdict(reply, token, process)


def extract_code(answer: str) -> str:
    """The first fenced block marked python, py or nothing (to the end if it is not closed), else the whole text."""
    blocks = (block for block in _FENCED.finditer(answer) if block[1].lower() in _PYTHON)
    found = next(blocks, None)
    return found[2] if found else answer


def _job(answer: str, tests: str) -> bytes:
    parts = [text.encode("utf-8", "replace") for text in (answer, tests)]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@contextlib.contextmanager
def _child(job: bytes, timeout_s: float, sandbox: Sandbox) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running child that has its job, and the end of the pipe on which it will speak; killed at the end."""
    job_read, job_write = os.pipe()
    verdict_read, verdict_write = os.pipe()
    try:
        process = _start(job_read, verdict_write, math.ceil(timeout_s) + 1, sandbox)
    except OSError as error:
        os.close(job_write)
        os.close(verdict_read)
        raise ResourceError(f"cannot start {sys.executable} to run an answer: {error.strerror}") from error
    finally:
        os.close(job_read)
        os.close(verdict_write)
    try:
        with contextlib.suppress(BrokenPipeError), os.fdopen(job_write, "wb") as pipe:
            pipe.write(job)
        yield process, verdict_read
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(verdict_read)


def _start(job_fd: int, verdict_fd: int, cpu_s: int, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-s", "-P", "-S", "-B", str(Path(child.__file__))]
    return subprocess.Popen(
        [*program, str(job_fd), str(verdict_fd), str(cpu_s), sandbox],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
        pass_fds=(job_fd, verdict_fd),
    )


def _listen(fd: int, deadline: float) -> tuple[bytes, bool]:
    """What the child said until it closed its end or said too much; False if the time ran out first."""
    said = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(said) < _MAX_REPLY_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return said, False
        piece = os.read(fd, _MAX_REPLY_BYTES)
        if not piece:
            break
        said += piece
    return said, True


def _verdict(reply: bytes, token: bytes, process: subprocess.Popen[bytes]) -> Verdict:
    if reply[:1] != child.READY:
        reason = reply[1:].decode("utf-8", "replace") or "the child process ended before it was ready"
        raise _unsafe(reason)
    kind, text = reply[1:2], reply[2:].decode("utf-8", "replace")
    if reply[1:] == child.PASSED + token:
        return Verdict("passed")
    if kind == child.BROKEN:
        return Verdict("error", f"the tests of the row do not compile: {text}")
    if kind == child.FAILED:
        return Verdict("failed", text)
    return Verdict("failed", _how_it_ended(process))


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return "closed or flooded the pipe of the verdict and ran on"
    how = f"ended by a signal ({signal.strsignal(-status)})" if status < 0 else f"left with exit status {status}"
    return f"{how} before the tests were through"


def _unsafe(reason: str) -> ResourceError:
    return ResourceError(
        f"answers cannot be run safely on this machine: {reason}; choose another metric (evaluation.metric: "
        "exact_match, rouge or none), or, where their code may read your files, set evaluation.sandbox: filter"
    )
