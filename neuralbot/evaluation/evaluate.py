"""Puts the held-out questions to a model and scores it: the one loop, from rows to an Evaluation.

Not done here: writing files (`training.run_folder`, `eval_commands`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from neuralbot.conversation import Conversation
from neuralbot.errors import DataError
from neuralbot.evaluation import scores
from neuralbot.evaluation.answers import answer
from neuralbot.evaluation.by_likelihood import score_labels, score_loss
from neuralbot.evaluation.metrics import BY_LIKELIHOOD, MAIN_SCORE, Interval, Scored, score_answers
from neuralbot.evaluation.questions import Question, collect_questions, nothing_to_ask, resolve_metric, skipped, spread
from neuralbot.evaluation.results import Evaluation, Sample

if TYPE_CHECKING:
    from neuralbot.arguments import EvaluationArguments
    from neuralbot.engines.protocol import Engine

Progress = Callable[[int, int], None]  # steps done, steps in all


def evaluate(
    engine: Engine,
    conversations: Sequence[Conversation],
    settings: EvaluationArguments,
    task: str,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Answers and scores the questions of `conversations` (`settings.max_samples` of them, evenly spread).

    A prompt that the engine refuses (too long) scores 0 and is named in `notices`. Metric "none" asks nothing.
    Raises DataError if no row fits the metric, ResourceError if code cannot be run safely.
    """
    start = time.monotonic()
    metric = resolve_metric(settings.metric, task, conversations)
    if metric == "none":
        return Evaluation("none", {}, {}, 0, 0.0)
    chosen = spread(conversations, settings.max_samples)
    questions = collect_questions(chosen, metric)
    if not questions:
        raise DataError(nothing_to_ask(metric, len(chosen)))
    scored = _scored(engine, metric, chosen, questions, settings, on_progress)
    groups = [question.conversation for question in questions]
    found = {name: _over_all(name, scored, groups, settings.seed) for name in scored.rows}
    generated = metric not in BY_LIKELIHOOD and settings.samples > 1
    return Evaluation(
        metric=metric,
        scores={name: value for name, (value, _) in found.items()},
        intervals={name: interval for name, (_, interval) in found.items()},
        n=len(questions),
        seconds=time.monotonic() - start,
        samples=_samples(questions, scored, MAIN_SCORE[metric]),
        notices=(*skipped(metric, chosen, questions), *scored.notices),
        drawn=_drawn(settings) if generated else None,
    )


def _scored(
    engine: Engine,
    metric: str,
    rows: Sequence[Conversation],
    questions: Sequence[Question],
    settings: EvaluationArguments,
    on_progress: Progress | None,
) -> Scored:
    report = on_progress or (lambda done, total: None)
    if metric == "loss":
        return score_loss(engine, [rows[question.conversation] for question in questions], settings, report)
    if metric == "labels":
        return score_labels(engine, questions, settings, report)
    steps = _Steps(report, len(questions) * settings.samples * (2 if metric == "unit_tests" else 1))
    answers, notices = answer(engine, questions, settings, steps.add)
    scored = score_answers(metric, answers, questions, settings, steps.add)
    return replace(scored, notices=(*scored.notices, *notices))


class _Steps:
    """Counts finished steps for the caller's progress display."""

    def __init__(self, report: Progress, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, count: int) -> None:
        self._done += count
        self._report(self._done, self._total)


def _over_all(name: str, scored: Scored, groups: Sequence[int], seed: int) -> tuple[float, Interval]:
    if name in scored.totals:
        return scored.totals[name]
    values, weights = scored.rows[name], scored.weights
    interval = scores.bootstrap_interval(values, weights=weights, groups=groups, seed=seed)
    return scores.mean(values, weights), interval


def _samples(questions: Sequence[Question], scored: Scored, main: str) -> tuple[Sample, ...]:
    found, names = [], sorted(scored.rows, key=lambda name: name != main)
    for place, (question, attempts) in enumerate(zip(questions, scored.attempts, strict=True)):
        first, correct = attempts[0], scores.mean([attempt.correct for attempt in attempts])
        values = {name: scored.rows[name][place] for name in names}
        found.append(
            Sample(
                prompt=question.shown,
                expected=question.expected,
                answer=first.answer,
                correct=correct,
                detail=first.detail,
                row=question.conversation,
                scores=values,
                attempts=tuple(attempts),
            )
        )
    return tuple(found)


def _drawn(settings: EvaluationArguments) -> dict[str, float]:
    names = ("samples", "temperature", "top_p", "seed")
    return {name: getattr(settings, name) for name in names}
