"""transformers' `generate` on the checkpoint in bf16; several prompts as one batch."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.generation.job import Answer, Job, Prompt, Stream, run  # first: it hides torchvision

import torch  # isort: skip
from transformers import AutoModelForCausalLM  # isort: skip
from transformers.generation import BaseStreamer  # isort: skip


class _Noted(BaseStreamer):
    """`generate` hands it the prompts first, then the tokens of each step."""

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = streams
        self._prompts_came = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompts_came:
            for stream, token in zip(self._streams, value.tolist(), strict=True):
                stream.add(token)
        self._prompts_came = True

    def end(self) -> None:
        pass


def make(job: Job) -> Answer:
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    def answer(prompts: Sequence[Prompt], count: int) -> list[Stream]:
        ids = torch.tensor([prompt.ids for prompt in prompts])
        streams = [Stream() for _ in prompts]
        mask, streamer = torch.ones_like(ids), _Noted(streams)
        model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, streamer=streamer)
        return streams

    return answer


if __name__ == "__main__":
    run(make)
