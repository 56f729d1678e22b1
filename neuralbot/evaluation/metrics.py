"""From answers to the scores of a metric: by row, and over all rows.

Not done here: the scores of texts (`scores`), running code (`unit_tests`), what needs no answers (`by_likelihood`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neuralbot.evaluation import scores, unit_tests

if TYPE_CHECKING:
    from neuralbot.arguments import EvaluationArguments
    from neuralbot.evaluation.questions import Question

MAIN_SCORE = {
    "exact_match": "exact_match", "f1": "f1", "rouge": "rougeL", "bleu": "bleu", "contains": "contains",
    "unit_tests": "pass_at_1", "labels": "accuracy", "loss": "loss",
}  # fmt: skip
BY_LIKELIHOOD = ("labels", "loss")  # no answer is generated
LOWER_IS_BETTER = ("loss", "perplexity")
PASS_AT = (1, 10, 100)  # and the number of samples itself

Interval = tuple[float, float]


@dataclass(frozen=True)
class Attempt:
    """One answer with its main score in 0..1; `detail`: why a test failed, or the likelihoods of the labels."""

    answer: str
    correct: float
    detail: str = ""


@dataclass(frozen=True)
class Scored:
    """attempts: of each question. rows: score -> its value for each question, the mean over its attempts.

    totals: scores over all questions with their interval, where that is not the mean of the rows. weights: of the
    rows in the mean; None: all equal.
    """

    attempts: list[list[Attempt]]
    rows: dict[str, list[float]]
    totals: dict[str, tuple[float, Interval]] = field(default_factory=dict)
    weights: list[float] | None = None
    notices: tuple[str, ...] = ()


def score_answers(
    metric: str,
    answers: Sequence[Sequence[str]],
    questions: Sequence[Question],
    settings: EvaluationArguments,
    on_progress: Callable[[int], None],
) -> Scored:
    """Scores the answers to each question; `on_progress` gets the number of answers whose code was run."""
    flat = [text for texts in answers for text in texts]
    asked = [question for question, texts in zip(questions, answers, strict=True) for _ in texts]
    values, details = _score(metric, flat, asked, settings, on_progress)
    main = values[MAIN_SCORE[metric]]
    attempts = [Attempt(*one) for one in zip(flat, main, details, strict=True)]
    size = settings.samples
    groups = range(0, len(flat), size)
    rows = {name: [scores.mean(each[start : start + size]) for start in groups] for name, each in values.items()}
    if metric == "unit_tests":
        rows |= _pass_at(size, [round(sum(main[start : start + size])) for start in groups])
    totals = scores.translation_totals(flat, [one.expected for one in asked]) if metric == "bleu" else {}
    return Scored([attempts[start : start + size] for start in groups], rows, totals)


def _score(
    metric: str,
    answers: list[str],
    questions: Sequence[Question],
    settings: EvaluationArguments,
    on_progress: Callable[[int], None],
) -> tuple[dict[str, list[float]], list[str]]:
    """The scores of each answer by name, and what there is to say about it."""
    expected = [question.expected for question in questions]
    if metric == "unit_tests":
        tests = [question.tests for question in questions]
        verdicts = unit_tests.run_all(
            answers, tests, settings.timeout_s, sandbox=settings.sandbox, on_progress=lambda done, total: on_progress(1)
        )
        details = [f"{verdict.status}: {verdict.message}".removesuffix(": ") for verdict in verdicts]
        return {"pass_at_1": [float(verdict.status == "passed") for verdict in verdicts]}, details
    by_metric: dict[str, Callable[[], dict[str, list[float]]]] = {
        "exact_match": lambda: {"exact_match": scores.exact_match(answers, expected)},
        "contains": lambda: {"contains": scores.contains(answers, expected)},
        "f1": lambda: scores.squad(answers, expected),
        "rouge": lambda: scores.rouge(answers, expected),
        "bleu": lambda: scores.translation(answers, expected),
    }
    return by_metric[metric](), [""] * len(answers)


def _pass_at(samples: int, passed: Sequence[int]) -> dict[str, list[float]]:
    sizes = sorted({k for k in (*PASS_AT, samples) if k <= samples})
    return {f"pass_at_{k}": [scores.pass_at_k(samples, count, k) for count in passed] for k in sizes}
