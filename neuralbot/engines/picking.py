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

Picked = tuple[int, float | None]  # a token, and its logarithmic probability where it was asked for


class Picker:
    """Picks a token a row as `generate` does; to be called under inference mode."""

    def __init__(self, sampling: Sampling, end_ids: frozenset[int]) -> None:
        self._scores = _scores(sampling, end_ids)
        self._greedy = sampling.greedy
        self._logprobs = sampling.logprobs

    def pick(self, ids_BT: Tensor, logits_BV: Tensor, generators: Sequence[torch.Generator]) -> list[Picked]:
        """One token a row, drawn with the row's own generator: so a batch draws what a stream draws.

        The logarithmic probabilities are the model's own, before `sampling` changes them. Raises GenerationError where
        no token can be picked.
        """
        check_numbers(logits_BV)
        scores_BV = self._scores(ids_BT, logits_BV)
        if not bool(scores_BV.amax(dim=-1).isfinite().all()):
            raise GenerationError("no token can be picked: bad_words_ids forbids every one; shorten it")
        if self._greedy:
            tokens_B = scores_BV.argmax(dim=-1)
        else:
            shares_BV = scores_BV.softmax(dim=-1)
            drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(shares_BV, generators, strict=True)]
            tokens_B = torch.cat(drawn)
        logprobs: list[Any] = [None] * len(tokens_B)
        if self._logprobs:
            logprobs = logits_BV.log_softmax(dim=-1).gather(1, tokens_B[:, None])[:, 0].tolist()
        return list(zip(tokens_B.tolist(), logprobs, strict=True))


def check_numbers(logits_TV: Tensor, model: str = "the model") -> None:
    """Raises GenerationError where one row or more is not made of numbers; -inf is one, for what is never said."""
    if not bool(logits_TV.amax(dim=-1).isfinite().all()):
        raise GenerationError(
            f"the output of {model} is not a number (NaN or infinite): its weights are damaged, or the precision is "
            "too low for it; get the model again, or try MixedPrecisionConfig('float32')"
        )


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
