"""The benchmark of the server: the real command on the seedling, and what it makes of answers and of /metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serve
from benchmarks.serving import figures, trace
from benchmarks.serving.client import Answered
from neuralbot.errors import UsageError

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:47.6805900,39,3
2023-11-16 18:15:50.6805900,20,1
"""


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    (tmp_path / "trace.csv").write_text(TRACE)
    return tmp_path / "trace.csv"


def test_cost_and_replay_of_a_real_server(tmp_path: Path, trace_file: Path) -> None:
    trace_file.write_text(TRACE + "".join(f"2023-11-16 18:15:5{second},30,5\n" for second in range(1, 10)))
    output = tmp_path / "result.json"
    options = ["--quick", "--engine", "torch", "--threads", "1", "--rate", "20", "--trace", str(trace_file)]
    assert serve.main([*options, "--output", str(output), "--debug"]) == 0
    content = json.loads(output.read_text())
    cost, replay = content["overhead"], content["replay"]["neuralbot"]
    for way in ("direct", "http"):
        for values in cost[way].values():
            assert len(values) == 2 and all(value > 0 for value in values)
    assert 0 < cost["throughput_ratio"] < 2 and cost["event_loop_lag_p99_ms"] > 0
    assert replay["requests"] == 12 and not replay["failed"]
    assert 0 < replay["first_token_s"]["p50"] <= replay["end_to_end_s"]["p50"] <= replay["end_to_end_s"]["p99"]
    assert content["trace"]["file"] == "trace.csv" and str(tmp_path) not in output.read_text()
    readme = (serve.RESULT.parent / "README.md").read_text()
    assert not [key for key in (*content, *cost, *replay) if f"`{key}`" not in readme]


def test_arrivals_are_scaled_and_cut(trace_file: Path) -> None:
    found = trace.read(trace_file, 3, rate=1.0, context=60)
    assert [arrival.at for arrival in found] == [0.0, 0.5, 2.0]
    assert [(arrival.prompt_tokens, arrival.new_tokens) for arrival in found] == [(30, 30), (39, 3), (20, 2)]
    with pytest.raises(UsageError, match="has 3 requests"):
        trace.read(trace_file, 4, rate=1.0, context=60)
    trace_file.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="ContextTokens"):
        trace.read(trace_file, 1, rate=1.0, context=60)


def test_only_answers_within_both_limits_are_good() -> None:
    answers = [
        Answered(sent=0.0, first=1.0, last=2.0, tokens=11),
        Answered(sent=0.0, first=3.0, last=4.0, tokens=11),  # begins late
        Answered(sent=1.0, first=2.0, last=4.0, tokens=11),  # goes on slowly
        Answered(sent=1.0, first=1.0, last=1.0, tokens=0, error="status 503"),
    ]
    found = figures.replayed(answers, figures.Limits(first_token=1.0, per_token=0.1))
    assert (found["good"], found["requests"], found["failed"]) == (1, 4, {"status 503": 1})
    assert found["goodput_requests_per_s"] == 0.25 and found["tokens_per_s"] == 8.25
    assert found["first_token_s"] == {"p50": 1.0, "p90": 3.0, "p95": 3.0, "p99": 3.0}
    assert found["waiting"] == {"mean": round(5 / 3, 3), "max": 2}  # two until 2.0, one until 3.0


def test_the_cost_is_that_of_pairs() -> None:
    direct = {"first_token_s": [1.0, 2.0, 3.0], "tokens_per_s": [10.0, 20.0, 30.0]}
    http = {"first_token_s": [1.01, 2.01, 3.01], "tokens_per_s": [9.0, 18.0, 27.0]}
    found = figures.compared(direct, http)
    assert (found["first_token_difference_ms"], found["throughput_ratio"]) == (10.0, 0.9)


def lag(*counts: int) -> str:
    edges: list[Any] = ["0.01", "0.05", "+Inf"]
    name = "neuralbot_event_loop_lag_seconds_bucket"
    return "".join(f'{name}{{le="{edge}"}} {count}.0\n' for edge, count in zip(edges, counts, strict=True))


def test_lag_counts_only_what_came_between() -> None:
    assert figures.lag_p99_ms(lag(0, 5, 5), lag(100, 105, 105)) == 9.9
    assert figures.lag_p99_ms(lag(0, 0, 0), lag(98, 100, 100)) == 30.0
    assert figures.lag_p99_ms(lag(0, 0, 0), lag(0, 0, 100)) == 50.0  # above the last edge: not told how far
    assert figures.lag_p99_ms(lag(1, 1, 1), lag(1, 1, 1)) is None


def test_what_cannot_be_measured_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--quick"]) == 2
    assert "--output" in capsys.readouterr().err
    assert serve.main(["--llama-python", "python"]) == 2
    assert "--trace FILE" in capsys.readouterr().err
