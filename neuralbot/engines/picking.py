"""From the model's logits to the next token of each row, with the values of a Sampling.

Shape letters: B rows, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralbot.engines.protocol import Sampling
from neuralbot.errors import GenerationError


class Picked(NamedTuple):
    """A token, with its logarithmic probability and the likeliest tokens with theirs, where they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Picker:
    """Picks a token a row as `generate` does; to be called under inference mode."""

    def __init__(self, sampling: Sampling, end_ids: frozenset[int], prompt_length: int = 0) -> None:
        self._scores = _scores(sampling, end_ids, prompt_length)
        self._greedy = sampling.greedy
        self._logprobs = sampling.logprobs
        self._top = sampling.top_logprobs

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
        if self._logprobs:
            return scored(logits_BV, tokens_B, self._top)
        return [Picked(token) for token in tokens_B.tolist()]


def scored(logits_TV: Tensor, tokens_T: Tensor, top: int) -> list[Picked]:
    """The tokens with their logarithmic probabilities, and those of the `top` likeliest at each place."""
    shares_TV = logits_TV.log_softmax(dim=-1)
    logprobs = shares_TV.gather(1, tokens_T[:, None])[:, 0].tolist()
    if not top:
        return [Picked(*one) for one in zip(tokens_T.tolist(), logprobs, strict=True)]
    values, ids = shares_TV.topk(min(top, shares_TV.shape[-1]), dim=-1)
    tops = [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [Picked(*one) for one in zip(tokens_T.tolist(), logprobs, tops, strict=True)]


def check_numbers(logits_TV: Tensor, model: str = "the model") -> None:
    """Raises GenerationError where one row or more is not made of numbers; -inf is one, for what is never said."""
    if not bool(logits_TV.amax(dim=-1).isfinite().all()):
        raise GenerationError(
            f"the output of {model} is not a number (NaN or infinite): its weights are damaged, or the precision is "
            "too low for it; get the model again, or try MixedPrecisionConfig('float32')"
        )


def _scores(sampling: Sampling, end_ids: frozenset[int], prompt_length: int) -> Any:
    """The chain that turns the model's logits into those a token is picked from, in the order `generate` uses.

    OpenAI's values, which `generate` has not, come first: they change what the model itself says.
    """
    from transformers import (
        LogitsProcessorList,
        NoBadWordsLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain: Any = LogitsProcessorList()
    if sampling.logit_bias:
        chain.append(_LogitBias(sampling.logit_bias))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chain.append(_UsedTokens(sampling.presence_penalty, sampling.frequency_penalty, prompt_length))
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


class _LogitBias:
    """Adds to the logits of single tokens, as OpenAI's logit_bias."""

    def __init__(self, bias: Sequence[tuple[int, float]]) -> None:
        self._ids = [token for token, _ in bias]
        self._values = [value for _, value in bias]

    def __call__(self, ids_BT: Tensor, scores_BV: Tensor) -> Tensor:
        changed_BV = scores_BV.clone()
        changed_BV[:, self._ids] += torch.tensor(self._values, dtype=changed_BV.dtype, device=changed_BV.device)
        return changed_BV


class _UsedTokens:
    """Takes from the logits of tokens that the answer holds: once (presence), and each time (frequency)."""

    def __init__(self, presence: float, frequency: float, prompt_length: int) -> None:
        self._presence = presence
        self._frequency = frequency
        self._prompt_length = prompt_length

    def __call__(self, ids_BT: Tensor, scores_BV: Tensor) -> Tensor:
        used_BT = ids_BT[:, self._prompt_length :]
        counts_BV = torch.zeros_like(scores_BV).scatter_add_(
            1, used_BT, torch.ones_like(used_BT, dtype=scores_BV.dtype)
        )
        return scores_BV - self._frequency * counts_BV - self._presence * (counts_BV > 0)


def generator(seed: int | None, device: torch.device, place: int = 0) -> torch.Generator:
    """The generator of the answer at `place` among several of one seed; None: another one each time."""
    own = torch.Generator(device=device)
    own.manual_seed(random_seed() if seed is None else (seed + place) % 2**63)
    return own


def random_seed() -> int:
    return torch.Generator().seed() % 2**63
