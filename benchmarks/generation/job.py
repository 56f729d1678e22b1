"""What the programs of this folder share: the job they read, what is measured, the result they write.

    python -m benchmarks.generation.genai JOB.json RESULT.json

A program makes a function that answers prompts side by side and says when each token came; all else is the same for
all. No prompt is asked twice, for some engines remember what they have read. Standard library only, since a peer may
have an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.job import memory, versions

_STARTED = time.perf_counter()  # this module is the first that a program imports
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Prompt:
    """The same prompt twice: turns as [role, text] for a chatbot, ids for who takes ids."""

    turns: list[list[str]]
    ids: list[int]


@dataclass(frozen=True)
class Prompts:
    """singles: answered one after the other. many: at once. cold, warm: two questions below one long system prompt."""

    warm_up: Prompt
    singles: list[Prompt]
    many: list[Prompt]
    cold: Prompt
    warm: Prompt

    @classmethod
    def read(cls, path: Path) -> Prompts:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lists = {"singles", "many"}
        return cls(
            **{
                name: [Prompt(**each) for each in value] if name in lists else Prompt(**value)
                for name, value in content.items()
            }
        )


@dataclass(frozen=True)
class Job:
    """One measurement of one method.

    model: folder of the checkpoint. stored: what the method's weights are read from, where that is not the
    checkpoint. kept: the precision of the weights. many_tokens: 0 where a method has no way to answer several at once.
    changes: properties of OpenVINO other than neuralbot's.
    """

    model: str
    prompts: str
    kept: str
    engine: str
    stored: str
    threads: int
    new_tokens: int
    many_tokens: int
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stream:
    """One answer: its ids, and when each of them came."""

    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def add(self, token: int) -> None:
        self.ids.append(token)
        self.times.append(time.perf_counter())


Answer = Callable[[Sequence[Prompt], int], list[Stream]]


def measure(answer: Answer, job: Job) -> dict[str, Any]:
    """All that is measured. `answer` makes so many tokens for each of the prompts, whatever tokens these are."""
    load_s = time.perf_counter() - _STARTED
    prompts = Prompts.read(Path(job.prompts))
    answer([prompts.warm_up], WARM_UP_TOKENS)
    singles = [_asked(answer, [prompt], job.new_tokens) for prompt in prompts.singles]
    many = _asked(answer, prompts.many, job.many_tokens)[1] if job.many_tokens else []
    cold, warm = (_first_token_s(*_asked(answer, [prompt], 2)) for prompt in (prompts.cold, prompts.warm))
    return {
        "load_s": round(load_s, 2),
        "prefill_tokens_per_s": [
            round(len(prompt.ids) / _first_token_s(start, streams), 2)
            for prompt, (start, streams) in zip(prompts.singles, singles, strict=True)
        ],
        "decode_tokens_per_s": [rate_together(streams) for _, streams in singles],
        "many_tokens_per_s": rate_together(many) if many else None,
        "cold_first_token_s": round(cold, 4),
        "warm_first_token_s": round(warm, 4),
        "answers": [streams[0].ids for _, streams in singles],
        "peak_bytes": sum(memory("VmHWM", process) for process in ("self", *_children())),
        "versions": versions(),
    }


def _children() -> list[str]:
    """An engine may have a process of its own."""
    return [number for task in Path("/proc/self/task").iterdir() for number in (task / "children").read_text().split()]


def rate_together(streams: Sequence[Stream]) -> float | None:
    """Tokens per second of all streams while all of them decode: from the last first token to the first last one.

    None where one ended before another began, as those of a tiny model do.
    """
    start, end = max(stream.times[0] for stream in streams), min(stream.times[-1] for stream in streams)
    if end <= start:
        return None
    tokens = sum(start < moment <= end for stream in streams for moment in stream.times)
    return round(tokens / (end - start), 2)


def _asked(answer: Answer, prompts: Sequence[Prompt], count: int) -> tuple[float, list[Stream]]:
    start = time.perf_counter()
    streams = answer(prompts, count)
    short = [len(stream.ids) for stream in streams if len(stream.ids) != count]
    if short:
        raise ValueError(f"an answer has {short[0]} tokens where {count} were asked for")
    return start, streams


def _first_token_s(start: float, streams: Sequence[Stream]) -> float:
    return streams[0].times[0] - start


def run(make: Callable[[Job], Answer]) -> None:
    """The main program: the job of the command line in, what was measured out."""
    job_path, result_path = map(Path, sys.argv[1:])
    job = Job(**json.loads(job_path.read_text(encoding="utf-8")))
    result_path.write_text(json.dumps(measure(make(job), job)), encoding="utf-8")
