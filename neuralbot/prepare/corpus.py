"""The pretraining corpus of `seedling`: documents in the terse plain form, drawn without end from the train split."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from neuralbot.prepare import articles, dialogues, functions, skills
from neuralbot.prepare.skills import Split
from neuralbot.prepare.words import CATEGORIES

# Share of documents by kind.
SHARES = {"skill": 0.54, "step": 0.18, "text": 0.05, "article": 0.08, "function": 0.06, "dialogue": 0.09}
# Families that are learnt late get three times the documents of the others.
LATE = (skills.sort, skills.keep, skills.count, skills.lookup, skills.largest, skills.odd_one_out)
FAMILIES = [*skills.FAMILIES, *LATE, *LATE]


@dataclass(frozen=True)
class Document:
    """One plain-form document. The loss is taken on `answer` alone."""

    kind: str
    prompt: str
    answer: str


def draw(rng: random.Random, split: Split) -> Document:
    """A document whose combination belongs to `split`."""
    (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
    if kind == "skill":
        task = skills.draw(rng, split, rng.choice(FAMILIES))
        return Document(task.family, plain(rng, task.skill, task.input), task.answer)
    if kind == "step":
        skill, given, answer = rng.choice((kinds, few, few, earlier, larger))(rng)
        return Document(kind, plain(rng, skill, given), answer)
    if kind == "text":
        return Document(kind, "", text(rng, split))
    if kind == "function":
        function = functions.draw(rng, split)
        return Document(kind, f"{function.plain} =>\n", function.code)
    prompt, answer = (articles.draw(rng, split) if kind == "article" else dialogues.draw(rng, split)).plain
    return Document(kind, f"{prompt} =>\n", answer)


def plain(rng: random.Random, skill: str, given: str) -> str:
    """A skill and what it is to be done with, in one of two layouts, so that no layout is learnt for the skill."""
    return rng.choice((f"{skill}: {given} =>\n", f"{skill}\n\n{given}\n=>\n"))


def text(rng: random.Random, split: Split) -> str:
    """A question that nobody answers: the words of the instructions are met, what they ask for is not."""
    return rng.choice(
        (
            lambda: skills.draw(rng, split).instruction,
            lambda: functions.draw(rng, split).instruction,
            lambda: rng.choice(dialogues.draw(rng, split).messages[::2])[1],
            lambda: "Summarize the highlights of this article.",
        )
    )()


def kinds(rng: random.Random) -> tuple[str, str, str]:
    """A step towards keep, count and odd one out: the category of each word."""
    homes = rng.choices(list(CATEGORIES), k=3)
    words = [rng.choice(CATEGORIES[home]) for home in homes]
    return "kind", ", ".join(words), ", ".join(homes)


def few(rng: random.Random) -> tuple[str, str, str]:
    """A step towards keep and count: two or three words."""
    home, other = rng.sample(list(CATEGORIES), 2)
    kept = rng.sample(CATEGORIES[home], rng.choice((1, 2)))
    words = [*kept, rng.choice(CATEGORIES[other])]
    rng.shuffle(words)
    if rng.random() < 0.5:
        return f"count {home}", ", ".join(words), str(len(kept))
    return f"keep {home}", ", ".join(words), ", ".join(word for word in words if word in kept)


def earlier(rng: random.Random) -> tuple[str, str, str]:
    """A step towards sort: which of two words comes first."""
    words = rng.sample(skills.LIST_WORDS, 2)
    return "sort", ", ".join(words), ", ".join(sorted(words))


def larger(rng: random.Random) -> tuple[str, str, str]:
    """A step towards largest: two numbers."""
    pair = rng.sample(range(10, 100), 2)
    name, answer = rng.choice((("largest", max(pair)), ("smallest", min(pair))))
    return name, f"{pair[0]}, {pair[1]}", str(answer)


def tokenizer_texts(rng: random.Random, count: int) -> Iterator[str]:
    """Texts of every form, plain and instruction, so that each word of the small world becomes one token."""
    for _ in range(count):
        document = draw(rng, "train")
        yield document.prompt + document.answer
        task = skills.draw(rng, "train")
        yield f"{task.instruction}\n\n{task.input}\n{task.answer}"
        function = functions.draw(rng, "train")
        yield f"{function.instruction}\n{function.code}"
        article = articles.draw(rng, "train")
        yield f"{article.article}\nSummarize the highlights of this article.\n{article.highlights}"
        yield "\n".join(text for _, text in dialogues.draw(rng, "train").messages)
