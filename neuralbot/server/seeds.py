"""The seeds of several answers to one request."""

from __future__ import annotations

from dataclasses import replace

from neuralbot.engines.protocol import Sampling


def several(sampling: Sampling, count: int) -> list[Sampling]:
    """For `count` answers: of the seed and those that follow it; without a seed each is drawn anew."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=(sampling.seed + place) % 2**63) for place in range(count)]
