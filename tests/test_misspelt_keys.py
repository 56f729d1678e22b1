"""Every key of every shipped recipe, misspelt by one letter: all refused, nearly all with the right advice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuralbot import recipe
from neuralbot.errors import RecipeError
from neuralbot.recipe.loading import SECTIONS, all_fields


def mutations(word: str) -> Iterator[str]:
    """The word with one letter dropped, doubled, or swapped with the next."""
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]
        yield word[: i + 1] + word[i:]
        yield word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :]


@dataclass
class Tally:
    tried: int = 0
    accepted: list[str] = field(default_factory=list)
    unhelpful: list[str] = field(default_factory=list)


def _misspell(text: str, tally: Tally, tested: set[str]) -> None:
    """Try each mutation of each key of a recipe, one at a time; a key tried in another recipe is not tried again."""
    lines = text.splitlines()
    section = ""
    for number, content in enumerate(lines):
        found = re.match(r"( *)([a-z_0-9]+):", content)
        if not found:
            continue
        indent, key = found.groups()
        section = section if indent else key
        name = f"{section}.{key}" if indent else key
        if name in tested:
            continue
        tested.add(name)
        valid = set(all_fields()[section]) if indent else set(SECTIONS)
        for wrong in set(mutations(key)) - valid - {""}:
            changed = [*lines[:number], content.replace(key, wrong, 1), *lines[number + 1 :]]
            Path("recipe.yaml").write_text("\n".join(changed))
            _try(tally, f"{key} as {wrong}", f"yaml:{number + 1}:", key)


def _try(tally: Tally, what: str, place: str, key: str) -> None:
    tally.tried += 1
    try:
        recipe.load("recipe.yaml")
        tally.accepted.append(what)
    except RecipeError as error:
        said = [problem.message for problem in error.problems if f"{problem.where}:".endswith(place)]
        if not any(re.search(rf"\b{key}\b", message) for message in said):
            tally.unhelpful.append(f"{what}: {error}")


def test_every_misspelt_key_of_every_shipped_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths, tally, tested = recipe.shipped_recipes(), Tally(), set[str]()
    assert len(paths) >= 7
    for path in paths:
        _misspell(path.read_text(encoding="utf-8"), tally, tested)
    assert len(tested) > 40 and tally.tried > 1000
    assert tally.accepted == []
    assert len(tally.unhelpful) <= 0.05 * tally.tried, tally.unhelpful[:20]
