"""The small vocabulary from which the shipped data sets are composed.

A model of a few million parameters can know a few hundred words well; these lists are that world.
How words become rows is in `skills`, `articles`, `functions` and `dialogues`.
"""

from __future__ import annotations

import re


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """ "hot-cold big-small" -> (("hot", "cold"), ("big", "small"))."""
    return tuple((left, right) for left, _, right in (pair.partition("-") for pair in text.split()))


CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": _words(
        "cat dog horse cow pig goat sheep fox wolf bear lion tiger mouse rabbit duck goose hen eagle owl frog "
        "snake fish whale crab"
    ),
    "fruits": _words("apple pear plum peach cherry grape lemon orange melon banana fig mango kiwi lime berry date"),
    "vegetables": _words("carrot potato onion bean pea corn leek cabbage spinach radish turnip celery pepper beet"),
    "colors": _words("red blue green yellow black white brown gray pink purple gold silver"),
    "tools": _words("hammer saw drill nail rope ladder brush shovel rake axe wrench needle knife spade"),
    "clothes": _words("hat coat shirt dress skirt shoe boot glove scarf belt sock jacket sweater cap"),
    "furniture": _words("table chair bed desk sofa shelf lamp mirror stool bench drawer cupboard"),
    "vehicles": _words("car bus train truck boat ship plane tram bike taxi van ferry"),
    "instruments": _words("piano violin guitar drum flute harp trumpet cello organ banjo"),
    "countries": _words("France Spain Italy Japan China India Brazil Egypt Kenya Peru Canada Norway Greece Poland"),
}

OPPOSITES = _pairs(
    "hot-cold big-small fast-slow old-new hard-soft light-dark high-low long-short wet-dry full-empty rich-poor "
    "strong-weak thick-thin deep-shallow clean-dirty early-late happy-sad loud-quiet near-far open-closed "
    "safe-dangerous sharp-blunt sweet-sour tall-tiny true-false wide-narrow young-aged cheap-expensive "
    "easy-difficult first-last good-bad left-right rough-smooth brave-afraid awake-asleep alive-dead"
)

PAST_TENSE = _pairs(
    "walk-walked sing-sang go-went eat-ate run-ran see-saw write-wrote read-read buy-bought sell-sold take-took "
    "give-gave swim-swam drive-drove speak-spoke think-thought bring-brought catch-caught teach-taught make-made "
    "find-found keep-kept sleep-slept feel-felt leave-left build-built send-sent lose-lost win-won sit-sat "
    "stand-stood begin-began drink-drank play-played cook-cooked help-helped open-opened paint-painted "
    "wait-waited watch-watched jump-jumped call-called clean-cleaned climb-climbed dance-danced"
)

NAMES = _words(
    "Anna Tom Maria Ben Clara David Emma Frank Greta Hugo Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina "
    "Victor Wendy Yara Alice Bruno Carla Dora Eric Felix Gina Henry Irene Jonas Karl Laura Max Nina Oscar Peter"
)
CITIES = _words(
    "Paris London Rome Berlin Madrid Vienna Oslo Cairo Tokyo Delhi Lima Boston Dublin Prague Lisbon Athens Warsaw "
    "Geneva Milan Sydney"
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
JOBS = _words("teacher doctor baker farmer painter driver pilot nurse cook writer singer builder lawyer gardener")
PLACES = _words("garden kitchen forest river house field park barn street library market station school harbor")
OBJECTS = _words("ball book key cup bag box bell coin map letter candle basket bottle clock ring kite")
ACTIONS = _pairs(
    "sleep-sleeps hide-hides wait-waits rest-rests play-plays walk-walks sit-sits run-runs eat-eats sing-sings "
    "jump-jumps stand-stands"
)
ORDINALS = _words("first second third fourth fifth")


def an(text: str) -> str:
    """`text` with "a" before a vowel written "an"."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
