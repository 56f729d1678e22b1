"""Scores of answers against references: one number in 0..1 for each row, and what to say about their mean.

Pure functions over two lists of the same length, so each score can be checked against its definition
or its library. Rows keep their own number because the interval, the sample file and a later paired
comparison of two runs all need it.

Not done here: generating answers (`evaluate`), running code (`unit_tests`).
"""

from __future__ import annotations

import re
import unicodedata
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


def mean(values: Sequence[float]) -> float:
    """The mean of the rows' scores; 0.0 for no rows."""
    return float(np.mean(values)) if len(values) else 0.0


def bootstrap_interval(
    values: Sequence[float], *, groups: Sequence[int] | None = None, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of the mean by the percentile bootstrap over rows; (0.0, 0.0) for no rows.

    `groups` names the conversation of each row: turns of one conversation are drawn together, as they depend on
    each other. The interval says how far the mean would move with other test rows, not with another training
    run; where all rows score the same its width is 0, which understates the doubt.
    """
    if not len(values):
        return 0.0, 0.0
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(group, weights=np.asarray(values, dtype=np.float64)), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


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
