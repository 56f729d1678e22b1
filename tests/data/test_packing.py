"""Packing: every row's tokens, positions and targets are found again, and shared beginnings stand once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralbot.data.packing import Pack, pack
from neuralbot.data.tokenized import IGNORED

PREFIX = list(range(100, 120))


def row(ids: list[int], prompt: int = 0) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]}


def paths(packed: Pack) -> list[tuple[list[int], list[int]]]:
    """For each segment: the tokens on the way from its root to its end, and their positions."""
    s, found = packed.segments, []
    for index, (start, length) in enumerate(zip(s.start.tolist(), s.length.tolist(), strict=True)):
        spans = slice(*s.first_span[index : index + 2].tolist())
        runs = [*zip(s.span_start[spans].tolist(), s.span_length[spans].tolist(), strict=True), (start, length)]
        places = [place for begin, count in runs for place in range(begin, begin + count)]
        found.append((packed.ids[places].tolist(), packed.positions[places].tolist()))
    return found


def test_a_shared_beginning_stands_once() -> None:
    rows = [row([*PREFIX, 1, 2, 3]), row([*PREFIX, 4, 5]), row([7, 8])]
    packed = pack(rows)
    assert len(packed.ids) == 20 + 3 + 2 + 2
    assert packed.real_tokens == 23 + 22 + 2
    for one in rows:
        assert (one["input_ids"], list(range(len(one["input_ids"])))) in paths(packed)


def test_without_sharing_each_row_stands_alone() -> None:
    packed = pack([row([*PREFIX, 1]), row([*PREFIX, 2])], share_prefixes=False)
    assert len(packed.ids) == 42
    assert packed.segments.span_start.numel() == 0


def test_the_first_target_after_a_shared_prompt_is_asked_at_its_end_once_for_each_answer() -> None:
    packed = pack([row([*PREFIX, 1], 20), row([*PREFIX, 2], 20), row([*PREFIX, 2], 20)])
    targets = zip(
        packed.target_places.tolist(), packed.target_labels.tolist(), packed.target_weights.tolist(), strict=True
    )
    assert list(targets) == [(19, 1, 1.0), (19, 2, 2.0)]


def test_rows_inside_rows_and_equal_rows() -> None:
    rows = [row(PREFIX), row(PREFIX), row([*PREFIX, 1, 2])]
    packed = pack(rows)
    assert len(packed.ids) == 22
    assert packed.target_weights.sum() == 19 * 2 + 21


TOKENS = st.lists(st.integers(0, 2), min_size=2, max_size=40)


@given(st.lists(st.tuples(TOKENS, st.integers(0, 3)), min_size=1, max_size=8), st.booleans())
def test_nothing_is_lost(drawn: list[tuple[list[int], int]], share: bool) -> None:
    rows = [row(ids, prompt) for ids, prompt in drawn]
    packed = pack(rows, share_prefixes=share)
    laid = paths(packed)
    for one in rows:
        ids = one["input_ids"]
        assert any(found[: len(ids)] == ids and at[: len(ids)] == list(range(len(ids))) for found, at in laid)
    expected = Counter(label for one in rows for label in one["labels"][1:] if label != IGNORED)
    found_labels: Counter[int] = Counter()
    for label, weight in zip(packed.target_labels.tolist(), packed.target_weights.tolist(), strict=True):
        found_labels[label] += int(weight)
    assert found_labels == expected
    assert packed.real_tokens == sum(len(one["input_ids"]) for one in rows)


@pytest.mark.parametrize("shared", [7, 8])
def test_a_very_short_beginning_is_not_worth_sharing(shared: int) -> None:
    packed = pack([row([*PREFIX[:shared], 1]), row([*PREFIX[:shared], 2])])
    assert len(packed.ids) == (16 if shared == 7 else 10)
