"""Short news articles with their highlights: the rows of `data/summarization`.

An article is an event (who, what, where, when, how many people) told over five or six sentences in changing
order, between sentences that do not matter. The highlights say the event in one fixed voice, so a good summary
can be recognised: it names the right person, thing, place, day and number and leaves the rest out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from neuralbot.prepare.skills import Split, split_of
from neuralbot.prepare.words import CATEGORIES, CITIES, DAYS, JOBS, NAMES, OBJECTS, PLACES, an

# kind -> (ways to tell the event, the event in the highlights)
EVENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "race": (
        (
            "{name} the {job} came first in the {vehicle} race in {city} on {day}.",
            "The {vehicle} race in {city} was won on {day} by {name}, a {job}.",
            "On {day} a {job} called {name} beat everyone in the {vehicle} race in {city}.",
        ),
        "{name} won the {vehicle} race in {city} on {day}.",
    ),
    "find": (
        (
            "{name} the {job} saw a {color} {object} lying on the ground in {city} on {day} and picked it up.",
            "A {color} {object} that had been lost for years turned up in {city} on {day},"
            " when {name}, a {job}, saw it.",
            "On {day} a {job} called {name} came upon a {color} {object} in {city}.",
        ),
        "{name} found a {color} {object} in {city} on {day}.",
    ),
    "shop": (
        (
            "{name} the {job} opened the doors of a new {object} shop in {city} on {day}.",
            "A shop that sells nothing but {object} after {object} has begun business in {city} on {day}."
            " It belongs to {name}, a {job}.",
            "On {day} a {job} called {name} started a {object} shop in {city}.",
        ),
        "{name} opened a {object} shop in {city} on {day}.",
    ),
    "rescue": (
        (
            "{name} the {job} pulled a {animal} out of the water in {city} on {day}.",
            "A {animal} fell into the river in {city} on {day} and was brought back by {name}, a {job}.",
            "On {day} a {job} called {name} heard a {animal} cry in {city} and went in to get it.",
        ),
        "{name} saved a {animal} in {city} on {day}.",
    ),
    "concert": (
        (
            "{name} the {job} sat down with a {instrument} in {city} on {day} and played for two hours.",
            "The {instrument} was heard all over {city} on {day}: {name}, a {job}, gave an evening of music.",
            "On {day} a {job} called {name} took the {instrument} to the main square of {city} and played.",
        ),
        "{name} played the {instrument} in {city} on {day}.",
    ),
}
CROWD = (
    "{number} people came to see it.",
    "The police counted {number} people.",
    "There were {number} people around.",
    "It was watched by {number} people.",
)
FILLERS = (
    "The weather was {weather}.",
    "Nobody had thought that it would go so well.",
    "A {filler_job} from {filler_city} said it was a day to remember.",
    "The old {filler_place} next to it stayed closed.",
    "It had been planned for months.",
    "{filler_name}, who lives nearby, took a few pictures.",
    "The mayor sent a letter.",
    "Afterwards everybody went home by {filler_vehicle}.",
    "Last year it was {filler_name} who made the news.",
    "Tea and {filler_fruit} cake were served.",
)
SLOTS = ("name", "vehicle", "color", "object", "animal", "instrument", "city", "day")
WEATHER = ("warm", "cold", "wet", "dry", "bright", "gray")


@dataclass(frozen=True)
class Article:
    key: str
    plain: tuple[str, str]  # what pretraining sees of it: article and question, the facts
    article: str
    highlights: str


def _slots(rng: random.Random) -> dict[str, str]:
    name, filler_name = rng.sample(NAMES, 2)
    city, filler_city = rng.sample(CITIES, 2)
    job, filler_job = rng.sample(JOBS, 2)
    vehicle, filler_vehicle = rng.sample(CATEGORIES["vehicles"], 2)
    return {
        "name": name,
        "filler_name": filler_name,
        "city": city,
        "filler_city": filler_city,
        "job": job,
        "filler_job": filler_job,
        "vehicle": vehicle,
        "filler_vehicle": filler_vehicle,
        "day": rng.choice(DAYS),
        "color": rng.choice(CATEGORIES["colors"]),
        "object": rng.choice(OBJECTS),
        "number": str(rng.randint(2, 99) * 10),
        "animal": rng.choice(CATEGORIES["animals"]),
        "instrument": rng.choice(CATEGORIES["instruments"]),
        "filler_place": rng.choice(PLACES),
        "filler_fruit": rng.choice(CATEGORIES["fruits"]),
        "weather": rng.choice(WEATHER),
    }


def _draw(rng: random.Random) -> Article:
    kind = rng.choice(list(EVENTS))
    ways, highlight = EVENTS[kind]
    slots = _slots(rng)
    body = [rng.choice(CROWD), *rng.sample(FILLERS, rng.choice((2, 3, 4)))]
    rng.shuffle(body)
    body.insert(rng.choice((0, 0, 1)), rng.choice(ways))
    article = an(" ".join(body).format(**slots))
    highlights = an(f"{highlight} {{number}} people were there.".format(**slots))
    told = [slot for slot in SLOTS if f"{{{slot}}}" in highlight] + ["number"]
    facts = "; ".join([f"event: {kind}", *(f"{slot}: {slots[slot]}" for slot in told)])
    return Article(highlights, (f"{article}\nfacts", facts), article, highlights)


def draw(rng: random.Random, split: Split) -> Article:
    """An article whose event belongs to `split`."""
    while split_of("article|" + (article := _draw(rng)).key) != split:
        pass
    return article
