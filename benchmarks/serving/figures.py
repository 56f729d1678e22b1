"""What is made of answers and of /metrics: percentiles, goodput, how many waited, how late the event loop was."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.client import Answered

_LAG = re.compile(r'^neuralbot_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """In seconds: to the first token, and for each one after it on the mean. An answer within both is a good one."""

    first_token: float
    per_token: float


def replayed(answers: Sequence[Answered], limits: Limits) -> dict[str, Any]:
    """Figures of a replay; latencies are those of the answers that came whole."""
    done = [answer for answer in answers if not answer.error]
    first = [answer.first - answer.sent for answer in done]
    each = [(answer.last - answer.first) / (answer.tokens - 1) for answer in done]
    good = sum(a <= limits.first_token and b <= limits.per_token for a, b in zip(first, each, strict=True))
    seconds = max((answer.last for answer in done), default=0.0)
    return {
        "requests": len(answers),
        "failed": dict(Counter(answer.error for answer in answers if answer.error)),
        "seconds": round(seconds, 3),
        "tokens_per_s": _per_s(sum(answer.tokens for answer in done), seconds),
        "good": good,
        "goodput_requests_per_s": _per_s(good, seconds),
        "first_token_s": percentiles(first),
        "per_token_s": percentiles(each),
        "end_to_end_s": percentiles([answer.last - answer.sent for answer in done]),
        "waiting": waiting(done),
    }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p95 and p99: the least value that so many percent do not exceed."""
    ordered = sorted(values)
    return {
        f"p{share}": round(ordered[math.ceil(len(ordered) * share / 100) - 1], 5) if ordered else None
        for share in (50, 90, 95, 99)
    }


def waiting(answers: Sequence[Answered]) -> dict[str, float]:
    """Requests without their first token, on the mean over time and at most.

    Seen from outside, so that it means the same of every server.
    """
    changes = sorted([(answer.sent, 1) for answer in answers] + [(answer.first, -1) for answer in answers])
    now, most, area, last = 0, 0, 0.0, changes[0][0] if changes else 0.0
    start = last
    for moment, change in changes:
        area += now * (moment - last)
        now, last = now + change, moment
        most = max(most, now)
    return {"mean": round(area / (last - start), 3) if last > start else 0.0, "max": most}


def lag_p99_ms(before: str, after: str) -> float | None:
    """The 99th percentile of the event loop's lag between two texts of /metrics, as Prometheus' histogram_quantile."""
    counts = [late - early for late, early in zip(_buckets(after), _buckets(before), strict=True)]
    edges = [float(edge) for edge, _ in _LAG.findall(after)]
    if not counts or not counts[-1]:
        return None
    wanted, below, low = 0.99 * counts[-1], 0.0, 0.0
    for edge, count in zip(edges, counts, strict=True):
        if count >= wanted:
            high = low if math.isinf(edge) else low + (edge - low) * (wanted - below) / (count - below)
            return round(high * 1000, 3)
        below, low = count, edge
    return None


def compared(direct: Mapping[str, list[float]], http: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians of pairs: the first token of one stream, HTTP's less the engine's, and the ratio of the throughputs."""
    later = [own - other for own, other in zip(http["first_token_s"], direct["first_token_s"], strict=True)]
    ratios = [own / other for own, other in zip(http["tokens_per_s"], direct["tokens_per_s"], strict=True)]
    return {
        "first_token_difference_ms": round(statistics.median(later) * 1000, 3),
        "throughput_ratio": round(statistics.median(ratios), 4),
        "direct": {name: [round(value, 5) for value in values] for name, values in direct.items()},
        "http": {name: [round(value, 5) for value in values] for name, values in http.items()},
    }


def _buckets(text: str) -> list[float]:
    return [float(count) for _, count in _LAG.findall(text)]


def _per_s(count: float, seconds: float) -> float:
    return round(count / seconds, 3) if seconds else 0.0
