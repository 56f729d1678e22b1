"""What tuning changed: scores before and after, whether the difference can be chance, and answers that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuralbot.evaluation.compare import Change, Comparison, compare
from neuralbot.evaluation.metrics import LOWER_IS_BETTER
from neuralbot.evaluation.questions import spread
from neuralbot.evaluation.results import side
from neuralbot.report import words
from neuralbot.report.run import Record, Run

_SHOWN = 3  # answers of a kind
_TIMES = ("before", "after")


@dataclass(frozen=True)
class Measured:
    """A score; text: as it is read, with its 95 % interval as `spread`. point, low, high: 0..1 of the axis."""

    text: str
    spread: str
    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One score before and after tuning; None where it was not measured."""

    name: str
    before: Measured | None
    after: Measured | None


@dataclass(frozen=True)
class Answer:
    text: str
    score: str


@dataclass(frozen=True)
class Sample:
    """A question with the answers that there are."""

    prompt: str
    expected: str
    before: Answer | None
    after: Answer | None


@dataclass(frozen=True)
class Samples:
    """Some of a kind of questions: `total` is how many there are of it."""

    kind: str
    total: int
    shown: tuple[Sample, ...]


@dataclass(frozen=True)
class Outcome:
    """scores: the main one first. about: what was asked and what the score means. verdict: the paired test, in words.

    counts: how many answers got better and worse.
    """

    scores: tuple[Score, ...]
    about: str
    verdict: str
    counts: str
    samples: tuple[Samples, ...]
    harness: tuple[Sequence[str], ...]
    notices: tuple[str, ...]


def outcome(run: Run) -> Outcome:
    """Raises DataError, KeyError or TypeError for files that are not what a run writes."""
    results = run.results
    main, found = results.get("main_score"), results.get("after") or results.get("before")
    compared = _compared(run.samples, results)
    return Outcome(
        scores=(*(_scores(results, main) if found and main else ()), *_losses(results.get("metrics", {}))),
        about=_about(results, found) if found else "",
        verdict=_verdict(compared) if compared else "",
        counts=_counts(compared) if compared else "",
        samples=(*_changed(compared), *_no_better(run.samples, str(main)))
        if compared
        else _answered("At even distances", run.samples, str(main)),
        harness=tuple(_harness(results.get("lm_eval") or {})),
        notices=tuple((found or {}).get("notices", ())),
    )


# --- scores ---


def _scores(results: Record, main: str) -> list[Score]:
    sides = [results.get(when) or {} for when in _TIMES]
    names = {name: None for one in sides for name in one.get("scores", {})}
    return [_score(name, sides) for name in sorted(names, key=lambda name: name != main)]


def _score(name: str, sides: Sequence[Record]) -> Score:
    values = [one["scores"][name] if name in one.get("scores", {}) else None for one in sides]
    known = [one.get("intervals", {}).get(name) for one in sides]
    intervals = [None if interval is None or None in interval else interval for interval in known]
    ends = [end for interval in intervals if interval for end in interval]
    top = max([1.0, *(value for value in (*values, *ends) if value is not None)])
    pairs = zip(values, intervals, strict=True)
    before, after = (None if value is None else _measured(name, value, interval, top) for value, interval in pairs)
    return Score(words.score_name(name), before, after)


def _measured(name: str, value: float, interval: Sequence[float] | None, top: float) -> Measured:
    low, high = interval or (value, value)
    said = f"{words.score(name, low)} to {words.score(name, high)}" if interval else ""
    return Measured(words.score(name, value), said, value / top, low / top, high / top)


def _losses(metrics: Mapping[str, float]) -> list[Score]:
    """What was measured on the validation rows; without intervals."""
    found = []
    for key, name in (("eval_loss", "held-out loss"), ("perplexity", "perplexity")):
        values = [metrics.get(f"{key}_before"), metrics.get(key)]
        top = max([1e-9, *(value for value in values if value is not None)])
        before, after = (None if value is None else _measured(key, value, None, top) for value in values)
        found += [Score(name, before, after)] if before or after else []
    return found


def _about(results: Record, found: Record) -> str:
    meaning = words.METRIC_MEANING.get(str(results.get("metric")), "")
    asked = f"{words.count(found['n'])} questions that were not trained on, {words.how_answered(found)}"
    return f"{asked}. {words.score_name(str(results.get('main_score')))}: {meaning}."


def _harness(found: Record) -> list[Sequence[str]]:
    """Task, measure, before, after; deviations stand behind their value."""
    before, after = found.get("before") or {}, found.get("after") or {}
    return [
        (task, measure, *(_with_deviation(one.get(task, {}), measure) for one in (before, after)))
        for task, measures in after.items()
        for measure in measures
        if not measure.endswith("_stderr")
    ]


def _with_deviation(measures: Mapping[str, float], measure: str) -> str:
    value, deviation = measures.get(measure), measures.get(f"{measure}_stderr")
    if value is None:
        return "not measured"
    return f"{value:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


# --- before against after ---


def _compared(samples: Sequence[Record], results: Record) -> Comparison | None:
    both = [row for row in samples if row.get("before") and row.get("after")]
    if not both or not results.get("main_score"):
        return None
    before, after = (side(both, when) for when in _TIMES)
    return compare(before, after)


def _verdict(found: Comparison) -> str:
    unit, scale, form = (" points", 100, "+.1f") if "%" in words.score(found.score, 0) else ("", 1, "+.3f")
    change, low, high = (format(scale * value, form) for value in (found.difference, *found.interval))
    said = f"{change}{unit} (95 % interval {low} to {high}), p = {found.p:.4f}"
    how = f"paired permutation test, {words.count(found.n)} questions"
    verdict = found.verdict.replace("the second is", "the tuned model is")
    return f"Question by question: {said} ({how}): {verdict}."


def _counts(found: Comparison) -> str:
    better, worse = len(found.better), len(found.worse)
    same = found.n - better - worse
    return f"{words.count(better)} answers got better, {words.count(worse)} worse, {words.count(same)} score the same."


def _changed(found: Comparison) -> tuple[Samples, ...]:
    kinds = (("Better", found.better), ("Worse", found.worse))
    return tuple(
        Samples(kind, len(changes), tuple(_sample(change, found.score) for change in spread(changes, _SHOWN)))
        for kind, changes in kinds
        if changes
    )


def _sample(change: Change, score: str) -> Sample:
    pairs = zip(change.answers, change.values, strict=True)
    before, after = (Answer(text, words.score(score, value)) for text, value in pairs)
    return Sample(change.prompt, change.expected, before, after)


def _no_better(samples: Sequence[Record], main: str) -> tuple[Samples, ...]:
    """Answers that are as wrong as before."""
    if main in LOWER_IS_BETTER:
        return ()
    both = (row for row in samples if row["before"] and row["after"])
    return _answered(
        "No better", [row for row in both if row["before"]["correct"] == row["after"]["correct"] < 1], main
    )


def _answered(kind: str, samples: Sequence[Record], main: str) -> tuple[Samples, ...]:
    shown = tuple(
        Sample(row["prompt"], row["expected"], *(_answer(row.get(when), main) for when in _TIMES))
        for row in spread(samples, _SHOWN)
    )
    return (Samples(kind, len(samples), shown),) if shown else ()


def _answer(found: Mapping[str, Any] | None, main: str) -> Answer | None:
    return Answer(found["answer"], words.score(main, found["correct"])) if found else None
