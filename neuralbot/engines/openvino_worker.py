"""Requests on their way through the process that owns the pipeline (openvino_process), and back.

Callers hand in a Request and read its tokens from a queue of its own; many share each pass over the weights.

Where a step fails, or the process dies, nothing in it can be used any more. So a new one is started, those requests
that may be to blame are told, and the others are made again from their start: a request with its seed gives the same
tokens again, and what its caller has already is checked and left out.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from neuralbot.errors import GenerationError, ModelError, NeuralbotError, ResourceError

logger = logging.getLogger(__name__)

# What a queue holds: the tokens of a step with their logarithmic probabilities; why it failed; None at the end.
Item = tuple[list[int], list[float]] | NeuralbotError | None
_CRASHES = {-number for number in (signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)}
_LAST_STEP_S = 30


class Crash(ModelError):
    """OpenVINO ended its process while it loaded a model: it does not run on this processor."""


class Request:
    """A prompt on its way. values: of GenerationConfig, with a seed, so that it can be repeated.

    may_fail: whether what the caller asked for can break a step before its first token, as a grammar can.
    """

    def __init__(self, prompt_ids: list[int], values: dict[str, Any], *, may_fail: bool) -> None:
        self.prompt_ids = prompt_ids
        self.values = values
        self.may_fail = may_fail
        self.items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.on_item: Callable[[], None] | None = None  # called from another thread
        self.number = -1
        self._sent: list[int] = []
        self._repeated = 0

    def put(self, item: Item) -> None:
        self.items.put(item)
        if self.on_item is not None:
            self.on_item()

    @property
    def suspect(self) -> bool:
        return self.may_fail and not self._sent

    def begin(self) -> list[Any]:
        """What the process is told; from its first token again where it was told before."""
        self._repeated = 0
        return [self.number, self.prompt_ids, self.values]

    def deliver(self, ids: list[int], logprobs: list[float]) -> None:
        """Pass on what a step gave. Raises GenerationError where a repeated answer differs."""
        known = self._sent[self._repeated : self._repeated + len(ids)]
        self._repeated += len(known)
        if known != ids[: len(known)]:
            raise GenerationError("the engine had to start anew and answers otherwise: ask again")
        if fresh := ids[len(known) :]:
            self._sent += fresh
            self._repeated += len(fresh)
            self.put((fresh, logprobs[len(known) :]))


class _Process:
    """The process of the pipeline, with the model loaded. Raises Crash, ResourceError, ModelError."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "neuralbot.engines.openvino_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is ours to answer: it would tear the process out of a step
        )
        self.pid = self._child.pid
        assert self._child.stdin is not None and self._child.stdout is not None
        self._input, self.steps = self._child.stdin, self._child.stdout
        try:
            self.tell(json.dumps(settings))
            self._check(json.loads(self.steps.readline() or "{}"), settings["folder"])
        except BaseException:
            self._child.kill()
            self._child.wait()
            raise

    def tell(self, line: str) -> None:
        with suppress(OSError):  # it is dead: who reads from it sees to that
            self._input.write(f"{line}\n")
            self._input.flush()

    def end(self) -> None:
        """Lets it finish the step that runs."""
        with suppress(OSError):
            self._input.close()
        try:
            self._child.wait(_LAST_STEP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()

    def why_ended(self) -> tuple[int, str]:
        """Its exit status, and that in words."""
        status = self._child.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return status, f"its process ended with {how}"

    def _check(self, answer: dict[str, Any], folder: str) -> None:
        if answer.get("ready"):
            return
        status, how = self.why_ended()
        if status == -signal.SIGKILL:
            raise ResourceError(
                f"OpenVINO cannot load {folder}: {how}; it needs more memory than there is, most likely"
            )
        error = Crash if status in _CRASHES else ModelError
        raise error(f"OpenVINO cannot load {folder}: {answer.get('refused', how)}")


class Worker:
    """The process, a thread that writes to it and one that reads from it. settings: see openvino_process.

    running: requests that the last step left unfinished. closed: it answers no more. Raises Crash, ResourceError where
    the memory is too small, and ModelError for what else OpenVINO cannot load.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.running = 0
        self._settings = settings
        self._live: dict[int, Request] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.closed = False
        # With the process that a line is for: what was meant for a dead one is not told to the next.
        self._outgoing: queue.SimpleQueue[tuple[_Process, str] | None] = queue.SimpleQueue()
        self._process = _Process(settings)
        self._reader = threading.Thread(target=self._read, name="neuralbot-openvino", daemon=True)
        for thread in (self._reader, threading.Thread(target=self._write, name="neuralbot-requests", daemon=True)):
            thread.start()

    def submit(self, request: Request) -> Request:
        """Lets it take part from the next step on. Raises GenerationError where the engine has ended."""
        with self._lock:
            if self.closed:
                raise GenerationError("the engine is closed: build the chatbot anew")
            request.number = next(self._numbers)
            self._live[request.number] = request
            self._tell(request.begin())
        return request

    def cancel(self, request: Request) -> None:
        """From any thread, also while memory is collected: takes no lock. The step that runs is its last one."""
        if self._live.pop(request.number, None) is not None:
            self._tell([request.number])
            request.put(None)

    def close(self) -> None:
        """Ends the process after the step that runs; requests on their way fail."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._outgoing.put(None)
        self._reader.join()

    def _tell(self, message: list[Any]) -> None:
        self._outgoing.put((self._process, json.dumps(message)))

    def _write(self) -> None:
        while (item := self._outgoing.get()) is not None:
            process, line = item
            process.tell(line)
        self._process.end()

    def _read(self) -> None:
        reason: NeuralbotError = GenerationError("the engine was closed while it answered")
        try:
            while (why := self._steps()) is not None:
                self._recover(why)
        except BaseException as error:  # nobody would read it, and the callers would wait for ever
            logger.error("the engine ended: %s", error)
            reason = GenerationError(f"the engine ended: {error}; build the chatbot anew")
        with self._lock:
            self.closed = True
        while self._live:
            self._live.popitem()[1].put(reason)

    def _steps(self) -> str | None:
        """Passes on what each step gave, till the process ends. Why it did; None: as it was told to."""
        why = ""
        for line in self._process.steps:
            step = json.loads(line)
            why = step.get("failed", why)
            self.running = step.get("requests", 0)
            for number, *result in step.get("tokens", ()):
                if (request := self._live.get(number)) is not None:
                    self._pass_on(request, *result)
                else:
                    self._tell([number])
        self.running = 0
        _, how = self._process.why_ended()
        with self._lock:
            return None if self.closed else why or how

    def _pass_on(self, request: Request, ids: list[int], logprobs: list[float], state: str | None) -> None:
        try:
            request.deliver(ids, logprobs)
        except GenerationError as error:
            self._tell([request.number])
            self._finish(request, error)
        else:
            if state is not None:
                self._finish(request, refused(state) if state else None)

    def _finish(self, request: Request, last: NeuralbotError | None) -> None:
        if self._live.pop(request.number, None) is not None:
            request.put(last)

    def _recover(self, why: str) -> None:
        started = _Process(self._settings)
        with self._lock:
            live = list(self._live.values())
            failed = [request for request in live if request.suspect] or live
            for request in failed:
                self._finish(request, refused(why))
            self._process = started
            if self.closed:
                started.end()
            again = list(self._live.values())
            for request in again:
                self._tell(request.begin())
        logger.warning("a step failed (%s): %d of %d requests are made again", why, len(again), len(live))


def refused(why: str) -> GenerationError:
    return GenerationError(f"the engine cannot make this answer: {why}")
