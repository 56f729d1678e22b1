"""Assisted generation: a small model drafts several tokens, and the large one reads them all in one pass.

The large model picks the token of each place as it would without help; the draft counts as long as it is the same. So
the ids are those of plain decoding, also where they are drawn: only rounding differs, as it does between batch sizes.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import NamedTuple

import torch
from transformers import DynamicCache

from neuralbot.engines.forward import Forward
from neuralbot.engines.picking import Picked, Picker, check_numbers, generator
from neuralbot.engines.prompt_cache import PromptCache
from neuralbot.engines.protocol import Sampling
from neuralbot.modeling import context_length

FIRST_DRAFT, LONGEST_DRAFT = 5, 20


class Model(NamedTuple):
    """A model, how many virtual tokens it starts from, and what it has read of prompts."""

    forward: Forward
    prompts: PromptCache
    before: int = 0


def decode(
    model: Model, assistant: Model, prompt: list[int], budget: int, sampling: Sampling, end_ids: frozenset[int]
) -> Generator[Picked]:
    """The answer's tokens, one by one; the end token is left out."""
    answer = _Answer(_Reader(model), _Reader(assistant), prompt, sampling, end_ids)
    while budget > 0:
        for picked in answer.step(budget):
            if picked.token in end_ids:
                return
            yield picked
            budget -= 1


class _Answer:
    """The ids so far, and what each model has read of them."""

    def __init__(
        self, model: _Reader, assistant: _Reader, prompt: list[int], sampling: Sampling, end_ids: frozenset[int]
    ) -> None:
        self.ids = list(prompt)
        self._end_ids = end_ids
        self._model = model
        self._assistant = assistant
        self._picker = Picker(sampling, end_ids, len(prompt))
        # The draft is worth most where it follows the same rules; what is forbidden is left to the large model.
        rules = replace(sampling, do_sample=False, num_return_sequences=1, bad_words_ids=None, logit_bias=())
        self._drafter = Picker(rules, end_ids, len(prompt))
        self._generator = generator(None if sampling.greedy else sampling.seed, model.device)
        self._length = FIRST_DRAFT

    @torch.inference_mode()
    def step(self, budget: int) -> list[Picked]:
        """The next tokens, at least one and at most `budget`; those behind an end token do not count."""
        draft = self._draft(min(self._length, budget - 1))
        logits_TV = self._model.read([*self.ids, *draft], keep=len(draft) + 1)
        tokens: list[Picked] = []
        for row_V, drafted in zip(logits_TV, [*draft, None], strict=True):
            ids_BT = torch.tensor([self.ids], device=row_V.device)
            tokens += self._picker.pick(ids_BT, row_V[None], [self._generator])
            self.ids.append(tokens[-1].token)
            if self.ids[-1] != drafted:
                break
        self._length = min(self._length + 2, LONGEST_DRAFT) if len(tokens) > len(draft) else max(self._length - 1, 1)
        # The last token has been read by none; what was drafted behind it is forgotten.
        self._model.forget_from(len(self.ids) - 1)
        self._assistant.forget_from(len(self.ids) - 1)
        return tokens

    def _draft(self, length: int) -> list[int]:
        room = self._assistant.context_length
        length = length if room is None else min(length, room - len(self.ids))
        draft: list[int] = []
        while len(draft) < length and not (draft and draft[-1] in self._end_ids):
            ids = [*self.ids, *draft]
            logits_BV = self._assistant.read(ids)[:, : self._model.vocabulary]
            check_numbers(logits_BV, "assistant_model")
            ids_BT = torch.tensor([ids], device=logits_BV.device)
            draft += [picked.token for picked in self._drafter.pick(ids_BT, logits_BV, [self._generator])]
        return draft


class _Reader:
    """A model with the cache of what it has read, behind the virtual tokens that it may start from."""

    def __init__(self, model: Model) -> None:
        self._forward, self._prompts, self._before = model
        self._forward.model.eval()
        self.device = self._forward.model.device
        self._cache: DynamicCache | None = None
        self.context_length = context_length(self._forward.model.config)
        self.vocabulary = self._forward.model.config.get_text_config().vocab_size

    def read(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Reads the ids that are new; float32 logits of the last `keep`, (keep, V)."""
        if self._cache is None:
            # Without the config: layers with a window would forget what they have to be taken back to.
            self._cache = self._prompts.begin(ids[: len(ids) - keep + 1], DynamicCache())
        new = torch.tensor([ids[self._cache.get_seq_length() - self._before :]], device=self.device)
        return self._forward(new, self._cache, keep=keep)[0]

    def forget_from(self, length: int) -> None:
        if self._cache is not None and self._cache.get_seq_length() > length + self._before:
            self._cache.crop(length + self._before)
