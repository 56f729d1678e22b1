"""Scores of answers against references: one number in 0..1 for each row, and what to say about their mean.

Pure functions over two lists of the same length, so each score can be checked against its definition
or its library. Rows keep their own number because the interval, the sample file and a later paired
comparison of two runs all need it.

Not done here: generating answers (`answers`), running code (`unit_tests`), likelihoods (`likelihood`).
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# Scripts that put no space between words: there a fact may touch its neighbours.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "HANGUL ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")


def exact_match(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where answer and reference are the same text, else 0.0.

    Normalisation: white space at both ends is dropped, nothing else. Case, punctuation, white space
    inside and Unicode form all count.
    """
    return [float(answer.strip() == reference.strip()) for answer, reference in _pairs(answers, references)]


def contains(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1.0 where the expected fact stands in the answer as whole words, else 0.0.

    Normalisation: Unicode NFC, case folded, each run of white space is one space. "Ann" is not in "Anna",
    "3" is not in "13" or "3.5"; in scripts without spaces between words (Chinese, Thai, ...) a fact may
    touch its neighbours. An empty reference is contained in an empty answer only.
    """
    return [float(_holds(_fold(answer), _fold(fact))) for answer, fact in _pairs(answers, references)]


def rouge(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """F1 of ROUGE-1, -2, -L and -Lsum for each row, by the rouge_score library as it comes (no stemmer).

    For rougeLsum each line is a sentence. The library keeps only a-z and 0-9 of the lower-cased text, so a row
    whose text holds neither scores 0, even where answer and reference are equal.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_KINDS), use_stemmer=False)
    rows = [scorer.score(reference, answer) for answer, reference in _pairs(answers, references)]
    return {kind: [float(row[kind].fmeasure) for row in rows] for kind in ROUGE_KINDS}


def squad(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """F1 over words, and exact match, of each row as SQuAD measures them (its script for version 2).

    Both sides are lower-cased and lose ASCII punctuation, the articles a, an, the, and white space at the ends. A side
    without words is right only if the other has none either.
    """
    rows = [(_squad_words(answer), _squad_words(reference)) for answer, reference in _pairs(answers, references)]
    return {"f1": [_f1(*row) for row in rows], "squad_exact_match": [float(left == right) for left, right in rows]}


def translation(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """BLEU and chrF of each row by sacrebleu as it comes, in 0..1; of a row's BLEU only orders that it can have count.

    The mean of these is not the score of all rows: see `translation_totals`.
    """
    from sacrebleu.metrics import BLEU, CHRF

    rows = list(_pairs(answers, references))
    return {
        name: [min(metric.sentence_score(answer, [reference]).score / 100, 1.0) for answer, reference in rows]
        for name, metric in {"bleu": BLEU(effective_order=True), "chrf": CHRF()}.items()
    }


def translation_totals(
    answers: Sequence[str], references: Sequence[str]
) -> dict[str, tuple[float, tuple[float, float]]]:
    """BLEU and chrF over all rows at once, each with its 95 % bootstrap interval, by sacrebleu; in 0..1."""
    from sacrebleu.metrics import BLEU, CHRF

    found = {}
    for name, metric in {"bleu": BLEU(force=True), "chrf": CHRF()}.items():
        score = metric.corpus_score(list(answers), [list(references)], n_bootstrap=1000)
        middle, half = score._mean / 100, score._ci / 100
        found[name] = (min(score.score / 100, 1.0), (max(middle - half, 0.0), min(middle + half, 1.0)))
    return found


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that at least one of `k` answers drawn from `samples` passes, if `passed` of these did.

    The unbiased estimator of "Evaluating Large Language Models Trained on Code". Raises ValueError unless
    0 <= passed <= samples and 1 <= k <= samples.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {samples} answers, {passed} of them passed")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """The mean of the rows' scores, weighted if `weights` are given; 0.0 for no rows."""
    return float(np.average(values, weights=weights)) if len(values) else 0.0


def bootstrap_interval(
    values: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float, float]:
    """The 95 % interval of the (weighted) mean by the percentile bootstrap over rows; (0.0, 0.0) for no rows.

    `groups` names the conversation of each row: turns of one conversation are drawn together, as they depend on
    each other. The interval says how far the mean would move with other test rows, not with another training
    run; where all rows score the same its width is 0, which understates the doubt.
    """
    if not len(values):
        return 0.0, 0.0
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    share = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    sums = np.bincount(group, weights=share * np.asarray(values, dtype=np.float64))
    counts = np.bincount(group, weights=share)
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    common = (Counter(answer) & Counter(reference)).total()
    return 2 * common / (len(answer) + len(reference))


def _pairs(answers: Sequence[str], references: Sequence[str]) -> zip[tuple[str, str]]:
    return zip(answers, references, strict=True)


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFC", text).casefold()
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", folded)).strip()


def _holds(answer: str, fact: str) -> bool:
    if not fact:
        return not answer
    start = answer.find(fact)
    while start >= 0:
        if not _runs_on(answer, start) and not _runs_on(answer, start + len(fact)):
            return True
        start = answer.find(fact, start + 1)
    return False


def _runs_on(text: str, cut: int) -> bool:
    """Whether a cut at `cut` would go through a word or a number."""
    if not 0 < cut < len(text):
        return False
    left, right = text[cut - 1], text[cut]
    if left in ".," and right.isdigit():
        return cut > 1 and text[cut - 2].isdigit()
    if right in ".," and left.isdigit():
        return cut + 1 < len(text) and text[cut + 1].isdigit()
    if unicodedata.category(right)[0] == "M":
        return True
    return _in_word(left) and _in_word(right) and not (_unspaced(left) or _unspaced(right))


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M"


def _unspaced(char: str) -> bool:
    return unicodedata.name(char, "").startswith(_UNSPACED)
