"""What an evaluation found, and the two files that keep it: results.json and samples.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from neuralbot.evaluation.metrics import MAIN_SCORE, Attempt, Interval


@dataclass(frozen=True)
class Sample:
    """One question with its answer; `correct` is the row's main score, `detail` why a test failed.

    row: number of the test row that it comes from. scores: all its scores, the main one first. attempts: every answer,
    where several were drawn; `answer` is the first, and `correct` the mean of theirs.
    """

    prompt: str
    expected: str
    answer: str
    correct: float
    detail: str = ""
    row: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Scores over `n` questions, each with its 95 % interval. drawn: how answers were drawn; None: the likeliest."""

    metric: str
    scores: dict[str, float]
    intervals: dict[str, Interval]
    n: int
    seconds: float
    samples: tuple[Sample, ...] = ()
    notices: tuple[str, ...] = ()
    drawn: dict[str, float] | None = None

    @property
    def main(self) -> str:
        """The name of the score that stands for all of them."""
        return MAIN_SCORE.get(self.metric, "")

    @property
    def main_score(self) -> float:
        """Its value; 0.0 where nothing was asked."""
        return self.scores.get(self.main, 0.0)

    @property
    def interval(self) -> Interval:
        """Its interval; (0.0, 0.0) where nothing was asked."""
        return self.intervals.get(self.main, (0.0, 0.0))

    def describe(self) -> str:
        """One line for people: the main score with its interval, the others, the number of questions."""
        if not self.n:
            return "nothing was scored"
        low, high = self.interval
        others = "".join(f", {name} {value:.3f}" for name, value in self.scores.items() if name != self.main)
        return f"{self.main} {self.main_score:.3f} (95 % interval {low:.3f} to {high:.3f}){others}, {self.n} questions"


def results_dict(task: str, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
    """The content of results.json."""
    metric = next((one.metric for one in (after, before) if one is not None), "none")
    return {
        "task": task,
        "metric": metric,
        "main_score": MAIN_SCORE.get(metric),
        "before": _result(before),
        "after": _result(after),
    }


def sample_rows(before: Evaluation | None, after: Evaluation | None) -> list[dict[str, Any]]:
    """The lines of samples.jsonl: each question once, with the answers before and after (None where not asked)."""
    asked = [one.samples if one is not None else () for one in (before, after)]
    count = max(len(samples) for samples in asked)
    rows = []
    for place in range(count):
        old, new = (samples[place] if place < len(samples) else None for samples in asked)
        known = new or old
        assert known is not None
        rows.append(
            {
                "prompt": known.prompt,
                "expected": known.expected,
                "row": known.row,
                "before": _answer_of(old),
                "after": _answer_of(new),
            }
        )
    return rows


def side(rows: Iterable[Mapping[str, Any]], which: str | None = None) -> list[dict[str, Any]]:
    """The questions of such lines with the answers of one side, as `compare` reads them; those without are left out.

    which: "before" or "after"; None: after tuning where there is an answer, else before.
    Raises KeyError or TypeError for lines that are none.
    """
    kept = [(row, row[which] if which else row["after"] or row["before"]) for row in rows]
    return [
        {"prompt": row["prompt"], "expected": row["expected"], "row": row.get("row", place)} | answer
        for place, (row, answer) in enumerate(kept)
        if answer is not None
    ]


def _answer_of(sample: Sample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    found = {"answer": sample.answer, "correct": sample.correct, "detail": sample.detail, "scores": sample.scores}
    return found | ({"attempts": [asdict(one) for one in sample.attempts]} if len(sample.attempts) > 1 else {})


def _result(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None or evaluation.metric == "none":
        return None
    return {
        "scores": evaluation.scores,
        "interval": list(evaluation.interval),
        "intervals": {name: list(interval) for name, interval in evaluation.intervals.items()},
        "n": evaluation.n,
        "seconds": round(evaluation.seconds, 3),
        "drawn": evaluation.drawn,
        "notices": list(evaluation.notices),
    }
