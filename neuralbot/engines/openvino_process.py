"""The process that owns a pipeline of OpenVINO GenAI: `python -m neuralbot.engines.openvino_process`.

A process of its own for two reasons: GenAI's step holds Python's global lock, so that nothing else of a server would
run meanwhile; and where OpenVINO crashes, only this process ends. One thread does all: between two steps it reads what
has arrived, so a request joins or leaves within a step.

Lines of JSON. In: first the settings (see `load`), then [number, ids, values of the GenerationConfig] for a
request, [number] to cancel it, and the end of the file to stop. Out: {"ready": true} or {"refused": why}, then for each
step {"requests": so many are left, "tokens": [[number, ids, logarithmic probabilities, state], ...]}, and as the last
line {"failed": why} where a step failed. state: null while it runs, "" at its end, else why it failed.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from neuralbot.engines import telemetry
from neuralbot.engines.openvino_admission import Admission

if TYPE_CHECKING:
    import openvino_genai

_CHUNK = 2**20
_CACHE_FULL = "the key/value cache is full: fewer or shorter requests at once, or more memory"


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries may print; only answers go to our reader
    incoming = _Lines(0)
    settings = incoming.first()
    try:
        requests = _Requests(load(settings))
        _try_once(requests, settings["trial"])
    except (RuntimeError, MemoryError) as error:
        print(json.dumps({"refused": " ".join(str(error).split())[-300:]}), file=answers)
        return 1
    print(json.dumps({"ready": True}), file=answers)
    told = 0
    while requests.admit(incoming):
        try:
            requests.step()
        except RuntimeError as error:
            print(json.dumps({"failed": _plain(error)}), file=answers)
            return 1
        tokens, before, told = requests.made(), told, requests.unfinished
        if tokens or told != before:
            print(json.dumps({"requests": told, "tokens": tokens}), file=answers)
    return 0


class _Lines:
    """Lines of JSON from a descriptor, without waiting where there are none."""

    def __init__(self, descriptor: int) -> None:
        self.ended = False
        self._descriptor = descriptor
        self._part = b""

    def first(self) -> Any:
        while not self.ended:
            for line in self.arrived(wait=True):
                return line
        raise SystemExit(0)

    def arrived(self, *, wait: bool) -> Iterator[Any]:
        """The lines that are there; with `wait`, something is read first. One call must be used up before the next."""
        while not self.ended and (wait or select.select([self._descriptor], [], [], 0)[0]):
            wait = False
            chunk = os.read(self._descriptor, _CHUNK)
            self.ended = not chunk
            *lines, self._part = (self._part + chunk).split(b"\n")
            yield from map(json.loads, lines)


class _Requests:
    """Those in the pipeline by their number, what came of them since the last step, and those that wait to join."""

    def __init__(self, pipeline: openvino_genai.ContinuousBatchingPipeline) -> None:
        self.live: dict[int, openvino_genai.GenerationHandle] = {}
        self._pipeline: Any = pipeline
        self._admission = Admission()
        self._waiting: dict[int, tuple[list[int], dict[str, Any]]] = {}
        self._leaving: set[int] = set()
        self._cancelled: list[int] = []
        self._refused: list[list[Any]] = []

    @property
    def unfinished(self) -> int:
        return len(self.live) + len(self._waiting)

    def admit(self, incoming: _Lines) -> bool:
        """Takes what has arrived and waits where there is nothing to do; False: this process is to end."""
        while not incoming.ended:
            idle = not self._refused and not self._waiting and not self._pipeline.has_non_finished_requests()
            for line in incoming.arrived(wait=idle):
                self.take(*line)
            self.join()
            if not idle:
                return True
        return False

    def take(self, number: int, ids: list[int] | None = None, values: dict[str, Any] | None = None) -> None:
        if ids is not None and values is not None:
            self._waiting[number] = ids, values
        elif self._waiting.pop(number, None) is None and number in self.live:
            self._leaving.add(number)
            self._let_go()

    def join(self) -> None:
        """Hands those that may join to the pipeline."""
        import numpy as np
        from openvino import Tensor

        for number, (ids, values) in list(self._waiting.items()):
            if not self._admission.admit(number, ids):
                continue
            del self._waiting[number]
            try:
                tensor = Tensor(np.array([ids], dtype=np.int64))
                self.live[number] = self._pipeline.add_request(number, tensor, _config(values))
            except RuntimeError as error:
                self._admission.leave(number)
                self._refused.append([number, [], [], _plain(error)])

    def step(self) -> None:
        """A token for each of them, or a part of their prompts. Raises RuntimeError."""
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def made(self) -> list[list[Any]]:
        """After a step: what it gave."""
        tokens, self._refused = self._refused, []
        for number, handle in list(self.live.items()):
            ids, logprobs, state = _read(handle)
            self._admission.running[number].add(ids)
            if state is not None:
                del self.live[number]
                self._admission.leave(number)
            if (ids or state is not None) and number not in self._leaving:
                tokens.append([number, ids, logprobs, state])
        while self._cancelled:  # the pipeline lets go of them within a step
            self._admission.leave(self._cancelled.pop())
        self._let_go()
        return tokens

    def _let_go(self) -> None:
        """Cancels those that are to leave, once their prompts are read.

        GenAI keeps a block as filled before the step that fills its last part: a prompt left half read would leave a
        block behind that holds less than is said of it, for every prompt that begins alike.
        """
        for number in list(self._leaving):
            if number in self.live and not self._admission.running[number].made:
                continue
            self._leaving.remove(number)
            if (handle := self.live.pop(number, None)) is not None:
                handle.cancel()
                self._cancelled.append(number)


def _read(handle: openvino_genai.GenerationHandle) -> tuple[list[int], list[float], str | None]:
    from openvino_genai import GenerationStatus

    ids: list[int] = []
    logprobs: list[float] = []
    while handle.can_read():
        for output in handle.read().values():
            ids += output.generated_ids
            logprobs += output.generated_log_probs
    status = handle.get_status()
    if status == GenerationStatus.RUNNING:
        return ids, logprobs, None
    return ids, logprobs, _CACHE_FULL if status == GenerationStatus.IGNORED else ""


def load(settings: dict[str, Any]) -> openvino_genai.ContinuousBatchingPipeline:
    """settings: folder, properties of OpenVINO, scheduler (fields of SchedulerConfig), lookup, draft (a folder)."""
    telemetry.hide()
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    for name, value in settings["scheduler"].items():
        setattr(scheduler, name, value)
    properties = dict(settings["properties"])
    if settings["draft"]:
        properties["draft_model"] = openvino_genai.draft_model(settings["draft"], "CPU", **settings["properties"])
    elif settings["lookup"]:
        properties["prompt_lookup"] = True
    return openvino_genai.ContinuousBatchingPipeline(settings["folder"], scheduler, "CPU", properties)


def _try_once(requests: _Requests, values: dict[str, Any]) -> None:
    """If OpenVINO crashes here, then now; and a first answer is as quick as the next. Raises RuntimeError."""
    requests.take(0, [1] * 8, values)
    requests.join()
    try:
        while requests.unfinished:
            requests.step()
            requests.made()
    except RuntimeError as error:  # with logprobs asked for, it refuses logits that are not numbers
        raise RuntimeError(f"it makes no token, its weights may hold NaN ({_plain(error)})") from error


def _config(values: dict[str, Any]) -> openvino_genai.GenerationConfig:
    from openvino_genai import GenerationConfig, StructuredOutputConfig

    config = GenerationConfig()
    made = {"stop_token_ids": set, "structured_output_config": lambda form: StructuredOutputConfig(**form)}
    for name, value in values.items():
        setattr(config, name, made[name](value) if name in made else value)
    return config


def _plain(error: RuntimeError) -> str:
    """OpenVINO's reason without the place in its source that stands before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rpartition("Check failed: ")[2][:300]


if __name__ == "__main__":
    sys.exit(main())
