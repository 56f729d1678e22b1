"""The benchmark of pairs: the real command on a tiny model, and what it makes of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paired
from neuralbot.engines import export


def test_both_are_asked_by_turns(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if (name := export.missing()) is not None:
        pytest.skip(f"{name} is not installed")
    cache: Any = request.config.cache
    output, work = tmp_path / "result.json", str(cache.mkdir("generate-benchmark"))
    quick = ["--quick", "--kept", "int8", "--loads", "1", "--pairs", "3", "--threads", "1"]
    assert paired.main([*quick, "--work", work, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    assert content["settings"]["pairs"] == 3
    for name, count in (("prefill", 3), ("decode", 3), ("many", 1)):
        found = content["precisions"]["int8"][name]
        [ours], [raw] = found["neuralbot"], found["genai"]
        assert len(ours) == len(raw) == count
        assert all(rate > 0 for rate in ours + raw)
    readme = (paired.generate.RESULTS / "README.md").read_text()
    assert not [key for key in (*content, *found) if f"`{key}`" not in readme]


def rates(ours: list[float], raw: list[float]) -> paired.Rates:
    return {"neuralbot": ours, "genai": raw}


def test_the_ratio_is_that_of_pairs_not_of_medians() -> None:
    swinging = [10.0, 20.0, 30.0, 20.0, 10.0]
    found = paired.compared([rates([rate * 0.9 for rate in swinging], swinging)])
    assert found["ratio"] == 0.9
    assert found["interval"] == [0.9, 0.9]


def test_the_interval_is_that_of_loads() -> None:
    """However many pairs one load has: they all share where its weights lie."""
    loads = [rates([rate] * 9, [10.0] * 9) for rate in (9.0, 10.0, 11.0)]
    assert paired.compared(loads)["interval"] == [0.9, 1.1]
    assert paired._order(0) == ("neuralbot", "genai") and paired._order(1) == ("genai", "neuralbot")
