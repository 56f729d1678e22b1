"""Rows of a prompt and a completion: what is wrong with them, and the repairs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence

from neuralbot.data.openai_problems import Found, Kind, Note, changed, each, few, name_of, twice
from neuralbot.data.strict_json import Row

_KEYS = ("prompt", "completion")
_SEPARATORS = ("\n\n###\n\n", " ->", "\n\n===\n\n", "\n\n---\n\n")
_STOPS = ("\n", " END", "###", "***", "+++")
_LONGEST = 10_000  # characters, about 2,048 tokens
_LONG_PREFIX = 12


def _key_case(row: Row) -> Found | None:
    wrong: dict[str, str] = {}
    for key in row:
        name = key.strip().lower()
        if name in _KEYS and name not in row and name not in wrong.values():
            wrong[key] = name
    if not wrong:
        return None
    key, name = next(iter(wrong.items()))
    renamed = {wrong.get(key, key): value for key, value in row.items()}
    return Found(f"the key is {key!r}, expected {name!r}", changed(row, renamed))


def _number(row: Row) -> Found | None:
    numbers = {key: row[key] for key in _KEYS if isinstance(row.get(key), int | float)}
    if not numbers:
        return None
    texts = {key: json.dumps(value) for key, value in numbers.items()}
    key = next(iter(numbers))
    return Found(f"{key!r} is {texts[key]}, expected a text in quotes", changed(row, row | texts))


def _incomplete(row: Row) -> Found | None:
    for key in _KEYS:
        if key not in row:
            return Found(f"{key!r} is missing; present keys: {', '.join(map(repr, row)) or 'none'}")
        if not isinstance(row[key], str | None):
            return Found(f"{key!r} is {name_of(row[key])}, expected a text")
    return None


def _surplus(row: Row) -> Found | None:
    extra = [key for key in row if key not in _KEYS]
    if not extra:
        return None
    kept = {key: row[key] for key in _KEYS}
    return Found(f"other keys than prompt and completion: {', '.join(map(repr, extra))}", changed(row, kept))


def _empty(row: Row) -> Found | None:
    empty = [key for key in _KEYS if not (row[key] or "").strip()]
    return Found(f"{empty[0]!r} is empty") if empty else None


def _space(row: Row) -> Found | None:
    if row["completion"].startswith(" "):
        return None
    text = f"the completion does not begin with a space: {row['completion'][:40]!r}"
    return Found(text, changed(row, row | {"completion": f" {row['completion']}"}))


def _separator(rows: Sequence[Row]) -> Iterator[Found | None]:
    return _ending(rows, "prompt", _SEPARATORS)


def _stop(rows: Sequence[Row]) -> Iterator[Found | None]:
    return _ending(rows, "completion", _STOPS)


def _ending(rows: Sequence[Row], key: str, usual: Sequence[str]) -> Iterator[Found | None]:
    end = _end([row[key] for row in rows], usual)
    for row in rows:
        text = row[key]
        says = f"the {key} does not end in {end!r}: {text[-40:]!r}"
        yield None if text.endswith(end) else Found(says, changed(row, row | {key: text + end}))


def _end(texts: Sequence[str], usual: Sequence[str]) -> str:
    """What all texts end in, else the usual end that most of them have, else the first usual end that is in none."""
    shared = _shared_end(texts)
    if any(not char.isalnum() for char in shared):  # letters may agree by accident
        return shared
    counts = [sum(text.endswith(end) for text in texts) for end in usual]
    if 2 * max(counts) > len(texts):
        return usual[counts.index(max(counts))]
    return next((end for end in usual if not any(end in text for text in texts)), usual[0])


def _beginning(texts: Sequence[str]) -> str:
    return os.path.commonprefix(list(texts))  # noqa: RUF071  # of texts, not of paths


def _shared_end(texts: Sequence[str]) -> str:
    return _beginning([text[::-1] for text in texts])[::-1]


def _too_long(row: Row) -> Found | None:
    size = len(row["prompt"]) + len(row["completion"])
    return Found(f"{size:,} characters, expected at most {_LONGEST:,}") if size > _LONGEST else None


def _all_alike(rows: Sequence[Row]) -> Iterator[Found | None]:
    alike = [key for key in _KEYS if len(rows) > 1 and all(row[key] == rows[0][key] for row in rows)]
    for number, row in enumerate(rows):
        says = f"all {len(rows)} rows have the same {alike[0]}: {row[alike[0]][:40]!r}" if alike else ""
        yield Found(says, row) if alike and not number else None


def _ends(rows: Sequence[Row]) -> str | None:
    prompt, completion = (_shared_end([row[key] for row in rows])[-40:] for key in _KEYS)
    return f"all prompts end in {prompt!r}, all completions in {completion!r}: ask and stop with the same"


def _classes(rows: Sequence[Row]) -> str | None:
    count = len({row["completion"] for row in rows})
    if count * 3 >= len(rows):
        return None
    return f"this looks like a classification: {count} different completions in {len(rows)} rows"


def _same_beginning(rows: Sequence[Row]) -> str | None:
    shared = _beginning([row["prompt"] for row in rows])
    if len(rows) < 2 or len(shared) <= _LONG_PREFIX:
        return None
    return f"all prompts begin with {shared[:60]!r}: what is the same in every row need not be said in any"


def _capitals(rows: Sequence[Row]) -> str | None:
    for key in _KEYS:
        upper, lower = (sum(sum(map(test, row[key])) for row in rows) for test in (str.isupper, str.islower))
        if 2 * upper > lower:
            return f"more than a third of the letters of the {key}s are capitals: models read plain case better"
    return None


KINDS = (
    Kind("key not in lower case", "renamed", each(_key_case)),
    Kind("number for a text", "written as text", each(_number)),
    Kind("missing or wrong value", None, each(_incomplete)),
    Kind("other keys", "keys taken out", each(_surplus)),
    Kind("empty prompt or completion", "row left out", each(_empty)),
    Kind("completion without a space before it", "put there", each(_space)),
    Kind("prompt without the separator", "put there", _separator),
    Kind("completion without the stop text", "put there", _stop),
    Kind("row stands twice", "row left out", twice),
    Kind("row too long", "row left out", each(_too_long)),
    Kind("all rows alike", None, _all_alike),
)
NOTES: tuple[Note, ...] = (_ends, few, _classes, _same_beginning, _capitals)
