"""Pairs of answer and reference for comparisons with a library: drawn by a seed, each kind with pitfalls in them."""

from __future__ import annotations

import random

WORDS = [
    *("the", "a", "an", "cat", "sat", "on", "mat", "Café", "naïve", "東京", "答え", "Москва", "3.5", "1,000", "runs"),
    *("don't", "e-mail", "U.S.", "👩\u200d🚀", "مرحبا", "ßtraße", "İ", "\u0301"),
]
MARKS = [" ", "  ", "\n", "\t", ", ", ". ", "! ", " - ", "\u00a0", ""]
SPECIAL = ["", " ", "\n", ".", "the", "a an the", "?!", "\u200b", "ＡＢＣ", "x", "the cat", "The  Cat.", "\ud7a3", "𝒳"]


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` pairs: every special text with every other one, then random, equal, nearly equal, and long texts."""
    draw = random.Random(seed)
    found = [(left, right) for left in SPECIAL for right in SPECIAL]
    draw.shuffle(found)
    found = found[: count // 3]
    while len(found) < count:
        text = _text(draw, draw.choice([3, 10, 40, 400]))
        kind = draw.randrange(4)
        other = text if kind == 0 else _text(draw, len(text) // 4 + 1) if kind == 1 else _changed(draw, text)
        found.append((text, other))
    return found


def _text(draw: random.Random, words: int) -> str:
    return "".join(draw.choice(WORDS) + draw.choice(MARKS) for _ in range(draw.randint(0, words)))


def _changed(draw: random.Random, text: str) -> str:
    words = text.split(" ")
    for _ in range(draw.randint(0, 5)):
        words[draw.randrange(len(words))] = draw.choice(WORDS)
    return " ".join(words)
