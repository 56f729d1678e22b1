"""Scores against their definitions, their library, and each other."""

from __future__ import annotations

import itertools
import random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_texts import pairs

from neuralbot.evaluation import scores


def columns(rows: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [left for left, _ in rows], [right for _, right in rows]


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


PAIRS = pairs(200)


def test_the_pairs_hold_every_kind() -> None:
    assert len(PAIRS) == 200
    assert sum(left == right for left, right in PAIRS) > 20
    assert sum(not left.strip() or not right.strip() for left, right in PAIRS) > 20
    assert sum(not left.isascii() for left, _ in PAIRS) > 50
    assert max(len(left) for left, _ in PAIRS) > 1000


def test_f1_and_exact_match_are_squad_s(torchmetrics_text: ModuleType) -> None:
    found = scores.squad(*columns(PAIRS))
    for place, (answer, reference) in enumerate(PAIRS):
        library = torchmetrics_text.squad(
            {"prediction_text": answer, "id": "1"}, {"answers": {"answer_start": [0], "text": [reference]}, "id": "1"}
        )
        assert found["f1"][place] == pytest.approx(float(library["f1"]) / 100, abs=1e-6), (answer, reference)
        assert found["squad_exact_match"][place] == float(library["exact_match"]) / 100, (answer, reference)


def test_f1_by_hand() -> None:
    found = scores.squad(["The cat, it sat!", "a", "", "cat"], ["cat sat on a mat", "the.", "no", "the cat"])
    assert found == {"f1": [pytest.approx(4 / 7), 1.0, 0.0, 1.0], "squad_exact_match": [0.0, 1.0, 0.0, 1.0]}


def test_exact_match_and_contains_on_the_pairs() -> None:
    answers, references = columns(PAIRS)
    exact = scores.exact_match(answers, references)
    assert exact == [float(answer.strip() == reference.strip()) for answer, reference in PAIRS]
    assert all(held for same, held in zip(exact, scores.contains(answers, references), strict=True) if same)


def test_rouge_on_the_pairs() -> None:
    from rouge_score import rouge_scorer

    found = scores.rouge(*columns(PAIRS))
    for kind, values in found.items():
        library = rouge_scorer.RougeScorer([kind])
        assert values == [library.score(reference, answer)[kind].fmeasure for answer, reference in PAIRS]


def test_bleu_and_chrf_are_sacrebleu_s() -> None:
    import sacrebleu

    answers, references = columns(PAIRS)
    found = scores.translation(answers, references)
    for place, (answer, reference) in enumerate(PAIRS):
        bleu = sacrebleu.sentence_bleu(answer, [reference]).score / 100
        chrf = sacrebleu.sentence_chrf(answer, [reference]).score / 100
        assert (found["bleu"][place], found["chrf"][place]) == (pytest.approx(bleu), pytest.approx(chrf))
    assert all(0 <= value <= 1 for values in found.values() for value in values)
    totals = scores.translation_totals(answers, references)
    assert totals["bleu"][0] == pytest.approx(sacrebleu.corpus_bleu(answers, [references], force=True).score / 100)
    assert totals["chrf"][0] == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score / 100)


def test_the_intervals_of_bleu_and_chrf_hold_the_score() -> None:
    answers, references = columns([pair for pair in PAIRS if len(pair[0]) > 40])
    for value, (low, high) in scores.translation_totals(answers, references).values():
        assert 0 <= low < value < high <= 1


def test_pass_at_k_is_the_share_of_the_draws_that_hold_a_passing_answer() -> None:
    draw = random.Random(0)
    cases = {(n, draw.randint(0, n), draw.randint(1, n)) for n in range(1, 13) for _ in range(20)}
    assert len(cases) >= 100
    for samples, passed, k in cases:
        draws = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
        assert scores.pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_large_counts_is_the_published_product() -> None:
    for samples, passed, k in [(200, 3, 100), (1000, 1, 10), (2000, 1999, 100), (200, 0, 1), (200, 200, 200)]:
        rest = samples - passed
        product = 1.0 if rest < k else 1 - float(np.prod(1 - k / np.arange(rest + 1, samples + 1)))
        assert scores.pass_at_k(samples, passed, k) == pytest.approx(product)


@pytest.mark.parametrize(("samples", "passed", "k"), [(1, 0, 2), (1, 2, 1), (5, -1, 1), (5, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError):
        scores.pass_at_k(samples, passed, k)


def test_the_weighted_mean_and_its_interval() -> None:
    values, weights = [1.0, 0.0] * 100, [3.0, 1.0] * 100
    assert scores.mean(values, weights) == 0.75
    low, high = scores.bootstrap_interval(values, weights=weights)
    assert low < 0.75 < high
    assert scores.bootstrap_interval(values, weights=[1.0] * 200) == scores.bootstrap_interval(values)
