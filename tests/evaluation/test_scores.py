"""Scores against their definitions, their library, and each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralbot.evaluation import scores


def test_exact_match_drops_white_space_at_the_ends_only() -> None:
    answers = ["  42\n", "4 2", "Paris", "a  b", "", "é"]
    references = ["42", "42", "paris", "a b", "  ", "e\u0301"]
    assert scores.exact_match(answers, references) == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@settings(deadline=None)
@given(st.text())
def test_a_text_matches_and_contains_itself(text: str) -> None:
    assert scores.exact_match([text], [text]) == [1.0]
    assert scores.contains([text], [text]) == [1.0]


@settings(deadline=None)
@given(st.text(), st.text(), st.text(min_size=1))
def test_a_fact_between_spaces_is_contained(before: str, after: str, fact: str) -> None:
    assert scores.contains([f"{before} {fact} {after}"], [fact]) == [1.0] or not fact.strip()


@pytest.mark.parametrize(
    ("answer", "fact", "found"),
    [
        ("Her name is Ann.", "ann", True),
        ("Her name is Anna.", "Ann", False),
        ("Joann knows", "Ann", False),
        ("first Anna, then Ann", "Ann", True),
        ("It costs 13 euros", "3", False),
        ("about 3.5 km", "3", False),
        ("about 13,000 people", "13", False),
        ("It is 3.", "3", True),
        ("3, or so", "3", True),
        ("version 3.5.", "3.5", True),
        ("the red\n  bag", "red bag", True),
        ("STRASSE", "straße", True),
        ("Cafe\u0301 Nord", "café", True),
        ("Cafe\u0301", "cafe", False),
        ("hindi कि", "क", False),
        ("答案是东京。", "东京", True),
        ("答えはパリです", "パリ", True),
        ("Ответ: Москва!", "москва", True),
        ("подмосква", "москва", False),
        ("it costs $5", "$5", True),
        ("snake_case", "snake", False),
        ("something", "", False),
        (" ", "", True),
    ],
)
def test_contains_looks_for_whole_words(answer: str, fact: str, found: bool) -> None:
    assert scores.contains([answer], [fact]) == [float(found)]


VOCABULARY = ["the", "cat", "sat", "on", "a", "mat", "Café", "東京", "3.5", "runs", "running", "\n", ""]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=30)


@settings(deadline=None)  # the first call imports the library
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_rouge_is_the_library_s(pairs: list[tuple[list[str], list[str]]]) -> None:
    from rouge_score import rouge_scorer

    answers, references = [" ".join(answer) for answer, _ in pairs], [" ".join(reference) for _, reference in pairs]
    found = scores.rouge(answers, references)
    assert list(found) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for kind, values in found.items():
        library = rouge_scorer.RougeScorer([kind])
        assert values == [
            library.score(target=reference, prediction=answer)[kind].fmeasure
            for answer, reference in zip(answers, references, strict=True)
        ]


def test_rouge_by_hand() -> None:
    assert scores.rouge(["running"], ["runs"])["rouge1"] == [0.0]
    found = scores.rouge(["the cat sat"], ["the cat sat on the mat"])
    assert found["rouge1"] == [pytest.approx(2 * 1.0 * 0.5 / 1.5)]
    assert found["rouge2"] == [pytest.approx(2 * 1.0 * 0.4 / 1.4)]


@pytest.mark.parametrize("score", [scores.exact_match, scores.contains, scores.rouge])
def test_lists_of_different_lengths_are_refused(score: object) -> None:
    with pytest.raises(ValueError):
        score(["a", "b"], ["a"])  # type: ignore[operator]


def test_no_rows() -> None:
    assert scores.mean([]) == 0.0
    assert scores.bootstrap_interval([]) == (0.0, 0.0)
    assert scores.exact_match([], []) == []


def test_the_interval_is_that_of_the_normal_approximation_for_many_rows() -> None:
    values = [1.0] * 240 + [0.0] * 60
    low, high = scores.bootstrap_interval(values)
    error = 1.96 * np.sqrt(0.8 * 0.2 / 300)
    assert low == pytest.approx(0.8 - error, abs=0.012)
    assert high == pytest.approx(0.8 + error, abs=0.012)
    assert scores.bootstrap_interval(values) == (low, high)
    assert scores.bootstrap_interval(values, seed=1) != (low, high)


def test_turns_of_one_conversation_are_drawn_together() -> None:
    values, groups = [1.0] * 50 + [0.0] * 50, [place // 10 for place in range(100)]
    low, high = scores.bootstrap_interval(values)
    grouped_low, grouped_high = scores.bootstrap_interval(values, groups=groups)
    assert grouped_high - grouped_low > 2 * (high - low)
    assert scores.bootstrap_interval([0.25], groups=[7]) == (0.25, 0.25)
