from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralbot.data.mixing import Mix
from neuralbot.errors import DataError


def rows(name: str, count: int) -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def test_of_weights_two_and_one_two_of_three_rows_come_from_the_first() -> None:
    mix = Mix([rows("a", 40), rows("b", 20)], [2, 1])
    found = list(mix)
    assert len(found) == 60 and len(set(found)) == 60
    assert mix.taken == [40, 20]
    for end in range(3, 61, 3):  # at any point, not only at the end
        assert Counter(row[0] for row in found[:end]) == {"a": 2 * end // 3, "b": end // 3}


def test_a_source_that_ends_begins_again_until_the_others_have_ended() -> None:
    mix = Mix([rows("a", 3), rows("b", 10)], [1, 1])
    found = list(mix)
    assert [row for row in found if row[0] == "b"] == rows("b", 10)
    assert [row for row in found if row[0] == "a"] == (rows("a", 3) * 4)[: mix.taken[0]]
    assert mix.taken == [10, 10]


def test_weights_by_size_use_every_row_once() -> None:
    sizes = [7, 1, 30, 12]
    sources = [rows(name, size) for name, size in zip("abcd", sizes, strict=True)]
    assert sorted(Mix(sources, sizes)) == sorted(row for source in sources for row in source)


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 100)), min_size=1, max_size=5))
def test_no_row_is_left_out_and_shares_hold_all_along(sources: list[tuple[int, float]]) -> None:
    names = "abcde"[: len(sources)]
    mix = Mix([rows(name, size) for name, (size, _) in zip(names, sources, strict=True)], [w for _, w in sources])
    taken = dict.fromkeys(names, 0)
    total = sum(weight for _, weight in sources)
    for count, row in enumerate(mix, start=1):
        taken[row[0]] += 1
        if count > 20_000:
            return
        for name, (_, weight) in zip(names, sources, strict=True):
            assert taken[name] <= count * weight / total + len(sources)
    assert list(taken.values()) == mix.taken
    assert all(taken[name] >= size for name, (size, _) in zip(names, sources, strict=True))
    # it ends where the one that lasts longest has come to its end
    longest = max(size * total / weight for size, weight in sources)
    assert sum(taken.values()) == pytest.approx(longest, abs=len(sources))


def test_the_same_sources_give_the_same_order_and_can_be_read_again() -> None:
    mix = Mix([rows("a", 5), rows("b", 3)], [1, 3])
    first = list(mix)
    assert list(mix) == first
    assert sum(mix.taken) == 2 * len(first)


def test_a_source_without_rows_is_an_error_not_an_endless_loop() -> None:
    with pytest.raises(DataError, match="a source has no rows to train on"):
        list(Mix([rows("a", 3), []], [1, 1]))
