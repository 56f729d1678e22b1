"""Twelve families of small text tasks: the skills that `seedling` is pretrained on and `data/alpaca` asks for.

Each family draws a `Task`: a `key` naming the combination (what may not be shared between splits), the terse name
of the skill that pretraining sees, and the instruction that tuning sees. The two share words but no wording, as
with real models: pretraining teaches the skill, tuning teaches the form.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from neuralbot.prepare.words import (
    ACTIONS,
    CATEGORIES,
    NAMES,
    OBJECTS,
    OPPOSITES,
    ORDINALS,
    PAST_TENSE,
    PLACES,
)

Split = Literal["train", "validation", "test"]

LIST_WORDS: tuple[str, ...] = tuple(word for name, words in CATEGORIES.items() if name != "countries" for word in words)


@dataclass(frozen=True)
class Task:
    """One drawn task. Pretraining sees `skill`, `input`, `answer`; tuning sees `instruction`, `input`, `output`."""

    family: str
    key: str
    skill: str
    instruction: str
    input: str
    answer: str
    sentence: str = ""  # the answer as tuning words it, where that is more than the answer

    @property
    def output(self) -> str:
        return self.sentence or self.answer


def split_of(key: str) -> Split:
    """The split a combination belongs to, by hash: 10 % test, 5 % validation, the rest train, for ever."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 100
    return "test" if bucket < 10 else "validation" if bucket < 15 else "train"


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)


def sort(rng: random.Random) -> Task:
    words = rng.sample(LIST_WORDS, rng.choice((3, 4)))
    ask = rng.choice(
        (
            "Sort these words alphabetically.",
            "Put the words in alphabetical order.",
            "Arrange the following words from A to Z.",
            "Order this list alphabetically.",
        )
    )
    answer = sorted(words)
    return Task("sort", _list(answer), "sort", ask, _list(words), _list(answer))


def reverse(rng: random.Random) -> Task:
    words = rng.sample(LIST_WORDS, rng.choice((3, 4, 5)))
    ask = rng.choice(
        (
            "Reverse the order of these words.",
            "Write the list backwards, from the last word to the first.",
            "Turn this list around.",
        )
    )
    return Task("reverse", _list(sorted(words)), "reverse", ask, _list(words), _list(words[::-1]))


def odd_one_out(rng: random.Random) -> Task:
    home, other = rng.sample(list(CATEGORIES), 2)
    odd = rng.choice(CATEGORIES[other])
    words = [*rng.sample(CATEGORIES[home], 3), odd]
    rng.shuffle(words)
    ask = rng.choice(
        (
            "Which word does not belong with the others?",
            "Find the odd one out.",
            "One of these words does not fit. Which one?",
        )
    )
    return Task("odd_one_out", _list(sorted(words)), "odd", ask, _list(words), odd, f"The odd one out is {odd}.")


def opposites(rng: random.Random) -> Task:
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(OPPOSITES, rng.choice((2, 3)))]
    words, answer = [a for a, _ in pairs], [b for _, b in pairs]
    ask = rng.choice(
        (
            "Write the opposite of each word.",
            "Give the antonym of every word in the list.",
            "What are the opposites of these words?",
        )
    )
    return Task("opposites", _list(sorted(words)), "opposite", ask, _list(words), _list(answer))


def keep(rng: random.Random) -> Task:
    home, *others = rng.sample(list(CATEGORIES), 3)
    kept = rng.sample(CATEGORIES[home], rng.choice((1, 2, 3)))
    rest = [rng.choice(CATEGORIES[rng.choice(others)]) for _ in range(5 - len(kept))]
    words = list(dict.fromkeys([*kept, *rest]))
    rng.shuffle(words)
    answer = [word for word in words if word in kept]
    ask = rng.choice(
        (
            f"Keep only the {home}.",
            f"Which of these words are {home}?",
            f"Pick the {home} out of the list.",
        )
    )
    key = f"{home}: {_list(sorted(words))}"
    return Task("keep", key, f"keep {home}", ask, _list(words), _list(answer))


def count(rng: random.Random) -> Task:
    home, other = rng.sample(list(CATEGORIES), 2)
    number = rng.randint(1, 4)
    words = [*rng.sample(CATEGORIES[home], number), *rng.sample(CATEGORIES[other], 5 - number)]
    rng.shuffle(words)
    ask = rng.choice(
        (
            f"How many {home} are in this list?",
            f"Count the {home}.",
            f"Tell me the number of {home} below.",
        )
    )
    key = f"{home}: {_list(sorted(words))}"
    return Task("count", key, f"count {home}", ask, _list(words), str(number))


def pick(rng: random.Random) -> Task:
    words = rng.sample(LIST_WORDS, 5)
    place = rng.randrange(5)
    name = ORDINALS[place]
    ask = rng.choice(
        (
            f"What is the {name} word of the list?",
            f"Give me the {name} word.",
            f"Which word comes {name}?",
        )
    )
    return Task("pick", f"{name}: {_list(sorted(words))}", f"pick {name}", ask, _list(words), words[place])


def join(rng: random.Random) -> Task:
    words = rng.sample(LIST_WORDS, rng.choice((3, 4)))
    name, mark = rng.choice((("dashes", " - "), ("plus signs", " + "), ("slashes", " / ")))
    ask = rng.choice(
        (f"Join the words with {name}.", f"Put {name} between the words.", f"Connect this list with {name}.")
    )
    key = f"{name}: {_list(sorted(words))}"
    return Task("join", key, f"join {name}", ask, _list(words), mark.join(words))


def past_tense(rng: random.Random) -> Task:
    pairs = rng.sample(PAST_TENSE, rng.choice((2, 3)))
    words, answer = [a for a, _ in pairs], [b for _, b in pairs]
    ask = rng.choice(
        (
            "Write these verbs in the past tense.",
            "Change each verb to its past form.",
            "What did they do yesterday? Give the past tense.",
        )
    )
    return Task("past_tense", _list(sorted(words)), "past", ask, _list(words), _list(answer))


def largest(rng: random.Random) -> Task:
    numbers = rng.sample(range(10, 100), 3)
    name, answer = rng.choice((("largest", max(numbers)), ("smallest", min(numbers))))
    listed = _list([str(n) for n in numbers])
    ask = rng.choice(
        (
            f"Find the {name} number.",
            f"Which of these numbers is the {name}?",
            f"Tell me the {name} of these three numbers.",
        )
    )
    key = f"{name}: {_list([str(n) for n in sorted(numbers)])}"
    return Task("largest", key, name, ask, listed, str(answer))


def lookup(rng: random.Random) -> Task:
    people = rng.sample(NAMES, 3)
    colors, things = rng.sample(CATEGORIES["colors"], 3), rng.sample(OBJECTS, 3)
    owned = [f"{color} {thing}" for color, thing in zip(colors, things, strict=True)]
    rows = [f"{person}: {thing}" for person, thing in zip(people, owned, strict=True)]
    wanted = rng.randrange(3)
    ask = rng.choice((f"What does {people[wanted]} have?", f"Which thing belongs to {people[wanted]}?"))
    told = f"{people[wanted]} has the {owned[wanted]}."
    return Task("lookup", _list(sorted(rows)), f"thing of {people[wanted]}", ask, _list(rows), owned[wanted], told)


def sentence(rng: random.Random) -> Task:
    animal, place = rng.choice(CATEGORIES["animals"]), rng.choice(PLACES)
    (verb, verbs), adjective = rng.choice(ACTIONS), rng.choice(OPPOSITES[:24])[rng.randrange(2)]
    words = [animal, place, verb, adjective]
    rng.shuffle(words)
    ask = rng.choice(
        (
            "Write a sentence with these words.",
            "Make one sentence out of the words.",
            "Use all of these words in a sentence.",
        )
    )
    answer = f"The {adjective} {animal} {verbs} in the {place}."
    return Task("sentence", _list(sorted(words)), "sentence", ask, _list(words), answer)


FAMILIES: tuple[Callable[[random.Random], Task], ...] = (
    sort, reverse, odd_one_out, opposites, keep, count, pick, join, past_tense, largest, lookup, sentence,
)  # fmt: skip


def draw(rng: random.Random, split: Split, family: Callable[[random.Random], Task] | None = None) -> Task:
    """A task of `family` (default: a random one) whose combination belongs to `split`."""
    family = family or rng.choice(FAMILIES)
    while split_of((task := family(rng)).family + "|" + task.key) != split:
        pass
    return task
