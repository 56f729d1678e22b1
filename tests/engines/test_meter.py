"""The meter counts work, not waiting."""

from __future__ import annotations

import time

import pytest

from neuralbot.engines.meter import Meter


def test_only_work_counts() -> None:
    meter = Meter()
    for _ in range(2):
        with meter.working():
            time.sleep(0.02)
            meter.mark()
        time.sleep(0.2)
    duration = meter.duration_s
    assert 0.04 <= duration < 0.2
    time.sleep(0.01)
    assert meter.duration_s == duration
    assert meter.first_token_s is not None and meter.last_token_s is not None
    assert 0.02 <= meter.first_token_s < meter.last_token_s - 0.015 < duration


def test_time_before_an_error_counts() -> None:
    meter = Meter()
    with pytest.raises(ValueError), meter.working():
        time.sleep(0.02)
        raise ValueError
    assert meter.duration_s >= 0.02


def test_ids_are_counted_and_closed() -> None:
    closed = []

    def ids() -> object:
        try:
            yield from (4, 5, 6)
        finally:
            closed.append(True)

    meter = Meter()
    counted = meter.counted(ids())  # type: ignore[arg-type]
    assert meter.completion_tokens == 0
    with meter.working():
        assert [next(counted), next(counted)] == [4, 5]
    counted.close()  # type: ignore[attr-defined]
    assert (meter.completion_tokens, closed) == (2, [True])
    assert list(meter.at_once([1, 2, 3])) == [1, 2, 3] and meter.completion_tokens == 3
