"""Two models on the same questions: how far apart they are, whether that can be chance, and which rows changed.

The rows are those of samples.jsonl. Differences are taken question by question, which finds much smaller ones than
two intervals side by side. Questions of one conversation count as one draw, as they depend on each other.

Not done here: reading files and printing (`eval_commands`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuralbot.errors import DataError
from neuralbot.evaluation import scores
from neuralbot.evaluation.metrics import LOWER_IS_BETTER, Interval

SIGNIFICANT = 0.05
_EXACT_UP_TO = 16  # differing conversations; 2 to this power are all the ways to exchange the sides
_DRAWS, _AT_ONCE = 10_000, 100


@dataclass(frozen=True)
class Change:
    """A question whose score differs: the answers and scores of both sides."""

    prompt: str
    expected: str
    answers: tuple[str, str]
    values: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """The second side against the first, by one score. difference: of the means, with its 95 % interval.

    p: how often a difference as large would come up if the sides were exchanged by chance in each conversation.
    better, worse: the questions that changed, the largest change first.
    """

    score: str
    values: tuple[float, float]
    difference: float
    interval: Interval
    p: float
    n: int
    better: tuple[Change, ...]
    worse: tuple[Change, ...]
    notices: tuple[str, ...]

    @property
    def significant(self) -> bool:
        """Whether the difference is called real."""
        return self.p < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """What can be said, in words."""
        if not self.significant:
            return "no difference is shown: this much comes about by chance"
        lower = self.score in LOWER_IS_BETTER
        return f"the second is {'better' if (self.difference < 0) == lower else 'worse'}"


Rows = Sequence[Mapping[str, Any]]


def compare(first: Rows, second: Rows, score: str | None = None, seed: int = 0) -> Comparison:
    """Compares the answers of two sides, each a list of {prompt, expected, row, answer, correct, scores}.

    score: its name; None: the main score of the metric, which is the first of `scores`. Questions that only one side
    has are left out, and counted.
    Raises DataError if the sides were scored by different metrics, share no question, or have no such score.
    """
    names = _common_scores(first, second)
    if score is not None and score not in names:
        raise DataError(f"there is no score {score!r} in both; expected one of {', '.join(names)}")
    pairs, notices = _pairs(first, second)
    values = np.array([[_value(one, score) for one in pair] for pair in pairs])
    differences = values[:, 1] - values[:, 0]
    groups = [pair[0].get("row", place) for place, pair in enumerate(pairs)]
    name = score or (names[0] if names else "score")
    sign = -1 if name in LOWER_IS_BETTER else 1
    order = np.argsort(-np.abs(differences), kind="stable")
    return Comparison(
        score=name,
        values=(float(values[:, 0].mean()), float(values[:, 1].mean())),
        difference=float(differences.mean()),
        interval=scores.bootstrap_interval(list(differences), groups=groups, seed=seed),
        p=p_value(list(differences), groups, seed),
        n=len(pairs),
        better=tuple(_change(pairs[at], values[at]) for at in order if sign * differences[at] > 0),
        worse=tuple(_change(pairs[at], values[at]) for at in order if sign * differences[at] < 0),
        notices=tuple(notices),
    )


def p_value(differences: Sequence[float], groups: Sequence[int], seed: int = 0) -> float:
    """The two-sided p of the paired permutation test over groups; exact for few that differ, else by 10,000 draws."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group, weights=np.asarray(differences, dtype=np.float64))
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    seen = abs(sums.sum()) * (1 - 1e-12)  # equal sums may differ in the last bit
    if len(sums) <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(sums))))
        return float(np.mean(np.abs(signs @ sums) >= seen))
    draw = np.random.default_rng(seed)
    hits = 0
    for _ in range(_DRAWS // _AT_ONCE):
        signs = draw.choice((-1.0, 1.0), (_AT_ONCE, len(sums)))
        hits += int(np.sum(np.abs(signs @ sums) >= seen))
    return (hits + 1) / (_DRAWS + 1)


def _common_scores(first: Rows, second: Rows) -> list[str]:
    names = [list(rows[0].get("scores", {})) if rows else [] for rows in (first, second)]
    if names[0] and names[1] and names[0][0] != names[1][0]:
        raise DataError(
            f"the sides were scored by different metrics ({names[0][0]} and {names[1][0]}); score both by the same"
        )
    return [name for name in names[0] if name in names[1]]


def _pairs(first: Rows, second: Rows) -> tuple[list[tuple[Mapping[str, Any], Mapping[str, Any]]], list[str]]:
    """The questions that both sides have, in the order of the first; equal questions are paired in their order."""
    waiting: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in reversed(second):
        waiting.setdefault((row["prompt"], row["expected"]), []).append(row)
    pairs = []
    for row in first:
        if same := waiting.get((row["prompt"], row["expected"])):
            pairs.append((row, same.pop()))
    if not pairs:
        raise DataError("the two share no question: both have to be evaluated on the same rows")
    left, right = len(first) - len(pairs), len(second) - len(pairs)
    notices = [f"left out, as only one side has them: {left} questions of the first, {right} of the second"]
    return pairs, notices if left or right else []


def _value(row: Mapping[str, Any], score: str | None) -> float:
    return float(row["correct"] if score is None else row["scores"][score])


def _change(pair: tuple[Mapping[str, Any], Mapping[str, Any]], values: Any) -> Change:
    old, new = pair
    return Change(old["prompt"], old["expected"], (old["answer"], new["answer"]), (float(values[0]), float(values[1])))
