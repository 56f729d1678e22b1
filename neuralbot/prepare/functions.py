"""Small Python functions over a list of numbers: the tasks of `data/code`, each with the asserts that prove it.

A function is a combination filter x change x result; a test split never shares a combination with training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from neuralbot.prepare.skills import Split, split_of

# name in the plain form, words in the instruction, Python source with {n}, and the same thing to compute with
FILTERS: tuple[tuple[str, str, str, Callable[[int], bool]], ...] = (
    ("all", "numbers", "", lambda n: True),
    ("even", "even numbers", "n % 2 == 0", lambda n: n % 2 == 0),
    ("odd", "odd numbers", "n % 2 == 1", lambda n: n % 2 == 1),
    ("positive", "positive numbers", "n > 0", lambda n: n > 0),
    ("negative", "negative numbers", "n < 0", lambda n: n < 0),
    ("above ten", "numbers above ten", "n > 10", lambda n: n > 10),
    ("below five", "numbers below five", "n < 5", lambda n: n < 5),
    ("multiples of three", "multiples of three", "n % 3 == 0", lambda n: n % 3 == 0),
)
CHANGES: tuple[tuple[str, str, str, Callable[[int], int]], ...] = (
    ("same", "", "n", lambda n: n),
    ("double", "doubled", "n * 2", lambda n: n * 2),
    ("square", "squared", "n * n", lambda n: n * n),
    ("plus one", "increased by one", "n + 1", lambda n: n + 1),
    ("minus one", "reduced by one", "n - 1", lambda n: n - 1),
    ("negate", "negated", "-n", lambda n: -n),
    ("absolute", "made absolute", "abs(n)", abs),
)
RESULTS: tuple[tuple[str, tuple[str, ...], str, Callable[[list[int]], object]], ...] = (
    ("list", ("a list of the", "all the"), "[{each}]", list),
    ("sum", ("the sum of the", "the total of the"), "sum({each})", sum),
    ("count", ("how many there are of the", "the count of the"), "len([{each}])", len),
    ("maximum", ("the largest of the", "the maximum of the"), "max(({each}), default=0)", lambda v: max(v, default=0)),
    ("minimum", ("the smallest of the", "the minimum of the"), "min(({each}), default=0)", lambda v: min(v, default=0)),
    ("sorted", ("a sorted list of the", "in rising order the"), "sorted({each})", sorted),
    ("any", ("whether there are any of the", "True if there is one of the"), "any({each})", bool),
    ("set", ("the set of the", "without repeats the"), "set({each})", set),
)
NAMES = ("solve", "compute", "collect", "evaluate", "process", "calculate", "run_task", "get_result")
PARAMETERS = ("numbers", "values", "items", "data")
SAMPLES: tuple[list[int], ...] = ([1, 2, 3, 4, 5, 6], [-3, -2, 0, 7, 12, 12], [], [30, 9, 4, -5, 11, 1])


@dataclass(frozen=True)
class FunctionTask:
    key: str
    plain: str
    instruction: str
    code: str
    tests: str


def _source(name: str, parameter: str, condition: str, change: str, result: str) -> str:
    loop = f"for n in {parameter}" + (f" if {condition}" if condition else "")
    if result.startswith("any"):  # what the numbers are changed to does not matter to "any"
        change = "True"
    body = result.format(each=f"{change} {loop}")
    return f"def {name}({parameter}):\n    return {body}"


def _tests(
    name: str, keep: Callable[[int], bool], change: Callable[[int], int], result: Callable[[list[int]], object]
) -> str:
    wanted = ((sample, result([change(n) for n in sample if keep(n)])) for sample in SAMPLES)
    return "\n".join(f"assert {name}({sample!r}) == {value!r}" for sample, value in wanted)


def _draw(rng: random.Random) -> FunctionTask:
    keep_name, keep_words, condition, keep = rng.choice(FILTERS)
    change_name, change_words, change_source, change = rng.choice(CHANGES)
    result_name, result_words, result_source, result = rng.choice(RESULTS)
    name, parameter = rng.choice(NAMES), rng.choice(PARAMETERS)
    what = f"{rng.choice(result_words)} {keep_words}" + (f", each {change_words}" if change_words else "")
    ask = rng.choice(
        (
            f"Write a Python function {name}({parameter}) that returns {what}.",
            f"Create a function named {name} that takes the list {parameter} and returns {what}.",
            f"In Python, define {name} with one argument {parameter}. It gives back {what}.",
        )
    )
    return FunctionTask(
        key=f"{keep_name}, {change_name}, {result_name}",
        plain=f"code {name}({parameter}): {keep_name}, {change_name}, {result_name}",
        instruction=ask,
        code=_source(name, parameter, condition, change_source, result_source),
        tests=_tests(name, keep, change, result),
    )


def draw(rng: random.Random, split: Split) -> FunctionTask:
    """A function whose combination of filter, change and result belongs to `split`."""
    while split_of("code|" + (task := _draw(rng)).key) != split:
        pass
    return task
