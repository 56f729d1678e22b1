"""From the model's logits to the next token of each row, with the values of a Sampling.

Shape letters: B rows, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralbot.engines.protocol import Sampling
from neuralbot.errors import GenerationError


class Picker:
    """Picks a token a row as `generate` does; to be called under inference mode."""

    def __init__(self, sampling: Sampling, end_ids: frozenset[int]) -> None:
        self._scores = _scores(sampling, end_ids)
        self._greedy = sampling.greedy

    def pick(self, ids_BT: Tensor, logits_BV: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """One token a row, drawn with the row's own generator: so a batch draws what a stream draws.

        Raises GenerationError where none can be picked.
        """
        logits_BV = self._scores(ids_BT, logits_BV)
        if not bool(logits_BV.amax(dim=-1).isfinite().all()):
            raise GenerationError(
                "no token can be picked: the model's output is not a number (damaged weights, or a precision too low "
                "for it), or bad_words_ids forbids every token"
            )
        if self._greedy:
            return [int(token) for token in logits_BV.argmax(dim=-1)]
        shares_BV = logits_BV.softmax(dim=-1)
        drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(shares_BV, generators, strict=True)]
        return [int(token) for token in drawn]


def _scores(sampling: Sampling, end_ids: frozenset[int]) -> Any:
    """The chain that turns the model's logits into those a token is picked from, in the order `generate` uses."""
    from transformers import (
        LogitsProcessorList,
        NoBadWordsLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain: Any = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.bad_words_ids:
        chain.append(NoBadWordsLogitsProcessor([list(word) for word in sampling.bad_words_ids], sorted(end_ids)))
    if not sampling.greedy:
        chain.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            chain.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            chain.append(TopPLogitsWarper(float(sampling.top_p)))
    return chain


def generator(seed: int | None, device: torch.device, place: int = 0) -> torch.Generator:
    """The generator of the answer at `place` among several of one seed; None: another one each time."""
    own = torch.Generator(device=device)
    own.manual_seed(random_seed() if seed is None else (seed + place) % 2**63)
    return own


def random_seed() -> int:
    return torch.Generator().seed() % 2**63
