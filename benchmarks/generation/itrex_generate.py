"""Intel's ITREX as its `build_chatbot` made a model ready in bf16: IPEX's layers, then transformers' `generate`.

Runs in the environment that `neuralbot itrex setup` makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import intel_extension_for_pytorch as ipex
import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from benchmarks.generation.job import Answer, Job, Prompt, Stream, run


class _Noted(BaseStreamer):  # type: ignore[misc]
    """`generate` hands it the prompts first, then the token of each step."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._prompt_came = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_came:
            self._stream.add(int(value))
        self._prompt_came = True

    def end(self) -> None:
        pass


def make(job: Job) -> Answer:
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model, torch_dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    model = ipex.optimize(model, dtype=torch.bfloat16, inplace=True, level="O1", auto_kernel_selection=True)

    def answer(prompts: Sequence[Prompt], count: int) -> list[Stream]:
        stream = Stream()
        ids = torch.tensor([prompts[0].ids])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, streamer=_Noted(stream)
            )
        return [stream]

    return answer


if __name__ == "__main__":
    run(make)
