"""Dialogues in which facts are told and asked for again turns later: the rows of `data/chat`.

Between them stand the things people say to a chatbot at once: a greeting, who are you, thank you.
`expected` holds, for each answer of the assistant, the fact that was asked for, or None.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from neuralbot.prepare.skills import Split, split_of
from neuralbot.prepare.words import CATEGORIES, CITIES, JOBS, NAMES, OBJECTS, an

# fact -> (values, ways to tell it, ways to ask for it, the answer, the acknowledgement)
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str, str]] = {
    "name": (
        NAMES,
        ("My name is {value}.", "I am called {value}.", "Call me {value}."),
        ("What is my name?", "Do you remember my name?", "Who am I?"),
        "Your name is {value}.",
        "Nice to meet you, {value}.",
    ),
    "city": (
        CITIES,
        ("I live in {value}.", "My home is in {value}.", "I moved to {value}."),
        ("Where do I live?", "Which city is my home?", "In which city do I live?"),
        "You live in {value}.",
        "{value} is a fine city.",
    ),
    "job": (
        JOBS,
        ("I work as a {value}.", "My job is {value}.", "I earn my money as a {value}."),
        ("What is my job?", "What do I do for work?", "What do I work as?"),
        "You work as a {value}.",
        "It must be good to be a {value}.",
    ),
    "pet": (
        CATEGORIES["animals"],
        ("I have a {value} at home.", "My pet is a {value}.", "I got a {value} last week."),
        ("What pet do I have?", "Which animal is mine?", "What animal lives with me?"),
        "Your pet is a {value}.",
        "I would like to meet your {value}.",
    ),
    "color": (
        CATEGORIES["colors"],
        ("My favorite color is {value}.", "I love the color {value}.", "I like {value} best of all colors."),
        ("What is my favorite color?", "Which color do I like best?", "Which color do I love?"),
        "Your favorite color is {value}.",
        "Many people like {value}.",
    ),
    "fruit": (
        CATEGORIES["fruits"],
        ("The fruit I like most is {value}.", "I eat {value} every day.", "For me the best fruit is {value}."),
        ("Which fruit do I like?", "What fruit do I eat?", "What is the best fruit for me?"),
        "You like {value}.",
        "{value} is healthy.",
    ),
    "lost": (
        OBJECTS,
        ("I lost my {value} today.", "I cannot find my {value}.", "My {value} is gone."),
        ("What did I lose?", "What am I looking for?", "What is gone?"),
        "You lost your {value}.",
        "I am sorry about your {value}.",
    ),
}
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello!", "Hi there.", "Good morning."), "Hello! How can I help you?"),
    (("Who are you?", "What are you?", "What is your name?"), "I am seedling, a very small language model."),
    (("Thank you.", "Thanks a lot.", "That was kind of you."), "You are welcome."),
    (("How are you?", "Are you well?"), "I am well, thank you."),
    (("What can you do?", "How can you help me?"), "I can remember what you tell me."),
)


@dataclass(frozen=True)
class Dialogue:
    key: str
    plain: tuple[str, str]  # what pretraining sees of it: facts and question, answer
    messages: tuple[tuple[str, str], ...]  # (role, text)
    expected: tuple[str | None, ...]  # one entry per assistant turn


def _draw(rng: random.Random) -> Dialogue:
    facts = {fact: rng.choice(FACTS[fact][0]) for fact in rng.sample(list(FACTS), rng.choice((2, 3)))}
    asked = rng.sample(list(facts), rng.choice((1, 2)))
    exchanges: list[tuple[str, str, str | None]] = []
    for fact, value in facts.items():
        _, tells, _, _, acknowledge = FACTS[fact]
        reply = acknowledge.format(value=value)
        exchanges.append((rng.choice(tells).format(value=value), reply[0].upper() + reply[1:], None))
    if rng.random() < 0.5:
        says, reply = rng.choice(SMALL_TALK)
        exchanges.insert(rng.randrange(len(exchanges) + 1), (rng.choice(says), reply, None))
    for fact in asked:
        _, _, asks, answer, _ = FACTS[fact]
        exchanges.append((rng.choice(asks), answer.format(value=facts[fact]), facts[fact]))
    first = asked[0]
    shuffled = rng.sample(list(facts.items()), len(facts))
    if rng.random() < 0.5:
        told = "; ".join(f"{fact}: {value}" for fact, value in shuffled)
    else:
        told = an(" ".join(rng.choice(FACTS[fact][1]).format(value=value) for fact, value in shuffled))
    return Dialogue(
        key="; ".join(f"{fact}: {value}" for fact, value in sorted(facts.items())),
        plain=(f"{told}\n{first}", facts[first]),
        messages=tuple(
            (role, an(text)) for ask, reply, _ in exchanges for role, text in (("user", ask), ("assistant", reply))
        ),
        expected=tuple(value for _, _, value in exchanges),
    )


def draw(rng: random.Random, split: Split) -> Dialogue:
    """A dialogue whose set of facts belongs to `split`."""
    while split_of("dialogue|" + (dialogue := _draw(rng)).key) != split:
        pass
    return dialogue
