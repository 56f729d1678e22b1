"""OpenVINO GenAI's own pipeline on the exported files of neuralbot: with neuralbot's settings, or with its own.

Whoever calls OpenVINO without a chatbot: one thread, ids in and out, no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count as numbers
from pathlib import Path
from typing import Any

from benchmarks.generation.job import Answer, Job, Prompt, Stream, run
from neuralbot import hardware
from neuralbot.engines import openvino_engine, openvino_process


def make(job: Job) -> Answer:
    import openvino_genai as genai

    pipeline = openvino_process.load(_settings(job))
    number = numbers()

    def answer(prompts: Sequence[Prompt], count: int) -> list[Stream]:
        config = genai.GenerationConfig(max_new_tokens=count, ignore_eos=True)
        streams = [Stream() for _ in prompts]
        handles = [pipeline.add_request(next(number), _tensor(prompt.ids), config) for prompt in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle, stream in zip(handles, streams, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        for token in output.generated_ids:
                            stream.add(token)
        return streams

    return answer


def _settings(job: Job) -> dict[str, Any]:
    group = 0 if job.kept == "bf16" else openvino_engine.ACTIVATION_GROUP
    computed = "bf16" if hardware.probe().has_bf16 else "f32"
    exported = openvino_engine.Exported(Path(job.stored), None, 0, frozenset(), computed, group)
    settings = openvino_engine.settings(exported)
    if job.engine == "defaults":
        # The cache's size has to be given; reused beginnings are measured.
        return settings | {"properties": {}}
    return settings | {"properties": settings["properties"] | job.changes}


def _tensor(ids: Sequence[int]) -> Any:
    import numpy as np
    from openvino import Tensor

    return Tensor(np.array([ids], dtype=np.int64))


if __name__ == "__main__":
    run(make)
