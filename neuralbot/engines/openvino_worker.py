"""One thread that owns a continuous-batching pipeline of OpenVINO GenAI: it alone adds requests and steps it.

Callers hand in a Request and read its tokens from a queue of its own. A request joins and leaves between two steps, so
that many share each pass over the weights.

An exception in a step leaves the pipeline unusable for all that are in it. So a new one is built, those requests that
may be to blame are told, and the others are made again from their start: a request with its seed gives the same tokens
again, and what its caller has already is checked and left out.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from neuralbot.errors import GenerationError, NeuralbotError

if TYPE_CHECKING:
    import openvino_genai

logger = logging.getLogger(__name__)

# What a queue holds: the tokens of a step with their logarithmic probabilities; why it failed; None at the end.
Item = tuple[list[int], list[float]] | NeuralbotError | None


class Request:
    """A prompt on its way through the pipeline. config: a GenerationConfig with a seed, so that it can be repeated.

    may_fail: whether what the caller asked for can break a step before its first token, as a grammar can.
    """

    def __init__(self, prompt_ids: list[int], config: openvino_genai.GenerationConfig, *, may_fail: bool) -> None:
        self.prompt_ids = prompt_ids
        self.config = config
        self.may_fail = may_fail
        self.items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.handle: openvino_genai.GenerationHandle | None = None
        self._cancelled = False
        self._sent: list[int] = []
        self._repeated = 0

    @property
    def suspect(self) -> bool:
        return self.may_fail and not self._sent

    def join(self, handle: openvino_genai.GenerationHandle) -> None:
        self.handle, self._repeated = handle, 0
        if self._cancelled:
            handle.cancel()

    def cancel(self) -> None:
        """From any thread. The step that runs is its last one."""
        self._cancelled = True
        if self.handle is not None:
            self.handle.cancel()
        self.items.put(None)

    def deliver(self) -> bool:
        """Pass on what the last step gave; whether that was the end."""
        from openvino_genai import GenerationStatus

        assert self.handle is not None
        if self._cancelled:
            return True
        while self.handle.can_read():
            for output in self.handle.read().values():
                self._send(output.generated_ids, output.generated_log_probs)
        status = self.handle.get_status()
        if status == GenerationStatus.RUNNING:
            return False
        full = GenerationError("the key/value cache is full: fewer or shorter requests at once, or more memory")
        self.items.put(full if status == GenerationStatus.IGNORED else None)
        return True

    def _send(self, ids: list[int], logprobs: list[float]) -> None:
        known = self._sent[self._repeated : self._repeated + len(ids)]
        self._repeated += len(known)
        if known != ids[: len(known)]:
            self.cancel()
            self.items.put(GenerationError("the engine had to start anew and answers otherwise: ask again"))
        elif fresh := ids[len(known) :]:
            self._sent += fresh
            self._repeated += len(fresh)
            self.items.put((fresh, logprobs[len(known) :]))


class Worker:
    """The thread and its pipeline. build: makes the pipeline, in this thread first and anew where a step failed."""

    def __init__(self, build: Callable[[], openvino_genai.ContinuousBatchingPipeline]) -> None:
        self._build = build
        self._pipeline: Any = build()
        self._arriving: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._live: list[Request] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="neuralbot-openvino", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Request:
        """Lets it take part from the next step on. Raises GenerationError where the thread has ended."""
        with self._lock:
            if self._closed:
                raise GenerationError("the engine is closed: build the chatbot anew")
            self._arriving.put(request)
        return request

    def close(self) -> None:
        """Ends the thread after the step that runs; requests on their way fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._arriving.put(None)
        self._thread.join()

    def _run(self) -> None:
        reason: NeuralbotError = GenerationError("the engine was closed while it answered")
        try:
            while self._admit_arrived():
                if self._pipeline.has_non_finished_requests():
                    self._step()
        except BaseException as error:  # nobody would read it, and the callers would wait for ever
            logger.exception("the engine's thread ended")
            reason = GenerationError(f"the engine ended: {error}; build the chatbot anew")
        with self._lock:
            self._closed = True
        for request in (*self._live, *self._waiting()):
            request.items.put(reason)
        self._live.clear()
        self._pipeline = None

    def _admit_arrived(self) -> bool:
        """Waits only where there is nothing to do; False: the engine is to end."""
        if not self._pipeline.has_non_finished_requests() and not self._admit(self._arriving.get()):
            return False
        while True:
            try:
                if not self._admit(self._arriving.get_nowait()):
                    return False
            except queue.Empty:
                return True

    def _admit(self, request: Request | None) -> bool:
        if request is None:
            return False
        import numpy as np
        from openvino import Tensor

        ids = Tensor(np.array([request.prompt_ids], dtype=np.int64))
        try:
            request.join(self._pipeline.add_request(next(self._numbers), ids, request.config))
        except RuntimeError as error:
            request.items.put(refused(error))
        else:
            self._live.append(request)
        return True

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            self._recover(error)
        else:
            self._live = [request for request in self._live if not request.deliver()]

    def _recover(self, error: RuntimeError) -> None:
        failed = [request for request in self._live if request.suspect] or self._live
        again = [request for request in self._live if request not in failed]
        logger.warning(
            "a step failed (%s): %d of %d requests are made again", _plain(error), len(again), len(self._live)
        )
        for request in failed:
            request.items.put(refused(error))
        for request in self._live:
            request.handle = None
        self._live, self._pipeline = [], None  # two pipelines at once may be more than the memory holds
        self._pipeline = self._build()
        for request in again:
            self._admit(request)

    def _waiting(self) -> Iterator[Request]:
        while True:
            try:
                request = self._arriving.get_nowait()
            except queue.Empty:
                return
            if request is not None:
                yield request


def refused(error: RuntimeError) -> GenerationError:
    return GenerationError(f"the engine cannot make this answer: {_plain(error)}")


def _plain(error: RuntimeError) -> str:
    """OpenVINO's reason without the place in its source that stands before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rpartition("Check failed: ")[2][:300]
