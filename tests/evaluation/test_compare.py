"""Paired comparison: real differences are found, chance is not called one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from neuralbot.errors import DataError
from neuralbot.evaluation.compare import compare, p_value


def side(values: list[float], *, name: str = "exact_match", start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"question {place + start}", "expected": "x", "row": place + start, "answer": f"answer {value}",
         "correct": value, "scores": {name: value, "other": 1 - value}}
        for place, value in enumerate(values)
    ]  # fmt: skip


def two_runs(draw: random.Random, rate: float, *, lost: int, won: int) -> tuple[list[float], list[float]]:
    """200 rows: of the first side's answers some right ones are lost and some wrong ones won."""
    first = [float(draw.random() < rate) for _ in range(200)]
    second = list(first)
    for old, count in ((1.0, lost), (0.0, won)):
        for place in draw.sample([place for place, value in enumerate(first) if value == old], count):
            second[place] = 1 - old
    return first, second


@pytest.mark.parametrize("seed", range(20))
def test_five_points_on_200_rows_are_found(seed: int) -> None:
    draw = random.Random(seed)
    lost = draw.randint(0, 4)
    first, second = two_runs(draw, 0.7, lost=lost, won=lost + 10)
    found = compare(side(first), side(second))
    assert found.difference == pytest.approx(0.05)
    assert found.significant and found.verdict == "the second is better"
    assert found.interval[0] < 0.05 < found.interval[1]
    assert (len(found.better), len(found.worse), found.n) == (lost + 10, lost, 200)
    back = compare(side(second), side(first))
    assert back.significant and back.verdict == "the second is worse"


def test_two_seeds_of_one_run_are_called_different_as_seldom_as_chance_allows() -> None:
    """Each row has a chance of its own to be answered rightly, the same under both seeds."""
    draw = random.Random(0)
    called = 0
    for _ in range(100):
        chances = [draw.choice((0.05, 0.5, 0.95, 1.0)) for _ in range(200)]
        first, second = ([float(draw.random() < chance) for chance in chances] for _ in range(2))
        called += compare(side(first), side(second)).significant
    assert called <= 10  # 5 are expected


def test_the_same_answers_differ_in_nothing() -> None:
    values = [float(place % 3 == 0) for place in range(200)]
    found = compare(side(values), side(values))
    assert (found.difference, found.p, found.interval, found.better, found.worse) == (0.0, 1.0, (0.0, 0.0), (), ())
    assert found.verdict == "no difference is shown: this much comes about by chance"


def test_p_is_exact_for_few_differences() -> None:
    assert p_value([1.0] * 10, range(10)) == pytest.approx(2 / 2**10)
    assert p_value([1.0] * 5 + [0.0] * 100, range(105)) == pytest.approx(2 / 2**5)
    assert p_value([1.0, -1.0], [0, 1]) == 1.0
    assert p_value([3.0, 1.0], [0, 1]) == 0.5


def test_p_by_draws_is_close_to_the_exact_one() -> None:
    draw = np.random.default_rng(1)
    for _ in range(10):
        differences = list(draw.normal(0.4, 1, 20))
        signs = np.array(np.meshgrid(*[[-1, 1]] * 20)).reshape(20, -1)
        exact = float(np.mean(np.abs(differences @ signs) >= abs(sum(differences)) * (1 - 1e-12)))
        assert p_value(differences, range(20)) == pytest.approx(exact, abs=0.02)


def test_questions_of_one_conversation_count_as_one() -> None:
    first, second = side([0.0] * 12), side([1.0] * 12)
    assert compare(first, second).p == pytest.approx(2 / 2**12)
    for rows in (first, second):
        for place, row in enumerate(rows):
            row["row"] = place // 6
    assert compare(first, second).p == pytest.approx(0.5)


def test_a_lower_loss_is_better() -> None:
    found = compare(side([2.0] * 12, name="loss"), side([1.5] * 12, name="loss"))
    assert (found.difference, found.verdict) == (-0.5, "the second is better")
    assert (len(found.better), len(found.worse)) == (12, 0)


def test_the_changes_are_told_the_largest_first() -> None:
    found = compare(side([0.0, 0.0, 1.0, 0.5]), side([0.25, 1.0, 0.0, 0.5]))
    assert [(change.prompt, change.values) for change in found.better] == [
        ("question 1", (0.0, 1.0)), ("question 0", (0.0, 0.25)),
    ]  # fmt: skip
    (worse,) = found.worse
    assert (worse.prompt, worse.expected, worse.answers) == ("question 2", "x", ("answer 1.0", "answer 0.0"))
    assert compare(side([0.0]), side([1.0]), "other").difference == -1.0


def test_only_shared_questions_count_and_equal_ones_are_paired_in_order() -> None:
    first, second = side([1.0, 0.0, 1.0]), side([1.0, 1.0], start=1)
    found = compare(first, second)
    assert (found.n, found.difference) == (2, 0.5)
    assert found.notices == ("left out, as only one side has them: 1 questions of the first, 0 of the second",)
    for rows in (first, second):
        for row in rows:
            row["prompt"] = "the same"
    second[1] |= {"correct": 0.0, "scores": {"exact_match": 0.0}}
    assert compare(first, second).difference == 0.0  # 1 and 0 beside 1 and 0
    assert compare(first, second).better == compare(first, second).worse == ()


@pytest.mark.parametrize(
    ("first", "second", "score", "message"),
    [
        (side([1.0]), side([1.0], name="rougeL"), None, r"different metrics \(exact_match and rougeL\)"),
        (side([1.0]), side([1.0], start=5), None, "share no question"),
        ([], side([1.0]), None, "share no question"),
        (side([1.0]), side([1.0]), "f1", "no score 'f1' in both; expected one of exact_match, other"),
    ],
)
def test_what_cannot_be_compared_is_said(first: Any, second: Any, score: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare(first, second, score)
