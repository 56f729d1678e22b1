"""llama.cpp through llama-cpp-python's `Llama.generate`, one prompt at a time. It keeps what it read of the last one.

It has no interface for several prompts at once (abetlen/llama-cpp-python, issue 771).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from llama_cpp import Llama

from benchmarks.generation.job import Answer, Job, Prompt, Stream, run


def make(job: Job) -> Answer:
    model = Llama(job.stored, n_ctx=2048, n_threads=job.threads, n_threads_batch=job.threads, verbose=False)

    def answer(prompts: Sequence[Prompt], count: int) -> list[Stream]:
        [prompt], stream = prompts, Stream()
        for token in islice(model.generate(prompt.ids, temp=0.0), count):
            stream.add(token)
        return [stream]

    return answer


if __name__ == "__main__":
    run(make)
