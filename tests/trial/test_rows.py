"""Which rows a trial takes: long and short ones, each with the conversation that it was made of."""

from __future__ import annotations

from typing import Any

from neuralbot.conversation import Conversation, Turn
from neuralbot.data.mixing import Mix
from neuralbot.data.splits import Splits, Stream
from neuralbot.data.tokenized import Tokenizing
from neuralbot.data.training_data import TrainingData
from neuralbot.trial import rows

LIMIT = 40


def row(question: int, answer: int, first: str = "a") -> Conversation:
    """A row of question + answer + 4 tokens of the word tokenizer."""
    words = [first, *["b"] * (question - 1)]
    return Conversation((Turn("user", " ".join(words)), Turn("assistant", " ".join(["c"] * answer))))


def choose(tokenizer: Any, conversations: list[Conversation], stream: bool = False) -> list[rows.TrialRow]:
    tokenizing = Tokenizing(tokenizer, LIMIT, False, "rows")
    train = tuple(conversations)
    splits = Splits(Stream(Mix([train], [1.0]), ["x"], None, frozenset()) if stream else train, (), (), (), {})
    made = tokenizing.done(rows.TokenRows.of(tokenizing.rows(train)))
    return rows.choose(splits, TrainingData(splits, made, None, LIMIT), Tokenizing(tokenizer, LIMIT, False, "rows"))


def lengths(found: list[rows.TrialRow]) -> list[int]:
    return [len(one.row["input_ids"]) for one in found]


def test_the_longest_the_shortest_and_some_between(word_tokenizer: Any) -> None:
    found = choose(word_tokenizer, [row(1 + place, 3) for place in range(30)])
    assert lengths(found) == [37, 8, 12, 16, 20, 24, 28, 32]
    for one in found:
        assert len(one.conversation.turns[0].content.split()) + 7 == len(one.row["input_ids"])
        assert one.row["input_ids"] == [*one.prompt, *one.answer]
        assert len(one.answer) == 4


def test_the_same_rows_each_time_and_of_a_stream(word_tokenizer: Any) -> None:
    conversations = [row(1 + place * 7 % 31, 3) for place in range(31)]
    assert choose(word_tokenizer, conversations) == choose(word_tokenizer, conversations)
    assert choose(word_tokenizer, conversations) == choose(word_tokenizer, conversations, stream=True)


def test_rows_that_were_dropped_do_not_shift_the_others(word_tokenizer: Any) -> None:
    without_answer = [row(60, 2, first) for first in "defgh"]
    kept = [row(1 + place, 2) for place in range(20)]
    mixed = [without_answer[0], *kept[:9], *without_answer[1:4], *kept[9:], without_answer[4]]
    found = choose(word_tokenizer, mixed)
    assert [one.conversation for one in found] == [one.conversation for one in choose(word_tokenizer, kept)]
    assert not {one.conversation for one in found} & set(without_answer)


def test_no_question_twice(word_tokenizer: Any) -> None:
    conversations = [row(5, 1 + place) for place in range(20)] + [row(5, 9, first) for first in "defg"]
    found = choose(word_tokenizer, conversations)
    assert len(found) == 5
    assert lengths(found)[0] == 5 + 20 + 4


def test_the_longest_row_may_be_cut(word_tokenizer: Any) -> None:
    found = choose(word_tokenizer, [row(3, 100), row(4, 2)])
    assert lengths(found) == [LIMIT, 10]


def test_plain_text_has_its_first_half_for_a_prompt(word_tokenizer: Any) -> None:
    found = choose(word_tokenizer, [Conversation((Turn("assistant", "a b c d e f g"),))])
    assert [len(one.prompt) for one in found] == [4]
    assert len(found[0].answer) == 4


def test_steps_of_the_longest_and_of_others(word_tokenizer: Any) -> None:
    tokenizing = Tokenizing(word_tokenizer, LIMIT, False, "rows")
    made = rows.TokenRows.of(tokenizing.rows([row(1 + place * 7 % 31, 3) for place in range(31)]))
    assert [len(one["input_ids"]) for one in rows.longest(made, 3)] == [38, 37, 36]
    first, second = rows.drawn(made, 4, 0), rows.drawn(made, 4, 1)
    assert len(first) == len(second) == 4
    assert first[0] != second[0]
    assert len(rows.drawn(made, 100, 2)) == 31
