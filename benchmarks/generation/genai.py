"""OpenVINO GenAI's own pipeline on the exported files of neuralbot, with the settings that neuralbot gives it.

Whoever calls OpenVINO without a chatbot: one thread, ids in and out, no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count as numbers
from typing import Any

from benchmarks.generation.job import Answer, Job, Prompt, Stream, run
from neuralbot import hardware
from neuralbot.engines import telemetry


def make(job: Job) -> Answer:
    telemetry.hide()
    import openvino_genai as genai

    machine = hardware.probe()
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.cache_size = max(1, machine.memory_bytes // 2**33)
    computed = "bf16" if machine.has_bf16 else "f32"
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": computed,
        "KV_CACHE_PRECISION": computed if job.kept == "bf16" else "u8",
        "INFERENCE_NUM_THREADS": job.threads,
    }
    pipeline = genai.ContinuousBatchingPipeline(job.stored, scheduler, "CPU", properties)
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


def _tensor(ids: Sequence[int]) -> Any:
    import numpy as np
    from openvino import Tensor

    return Tensor(np.array([ids], dtype=np.int64))


if __name__ == "__main__":
    run(make)
