"""Figures of small splits whose every token is counted by hand (`word_tokenizer`: a token a word)."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from neuralbot.conversation import Conversation, Turn, ensure_chat_template
from neuralbot.data import duplicates
from neuralbot.data.duplicates import Repeat, Repeats
from neuralbot.data.preview import Lengths, Part, Preview, Trained, lengths, preview
from neuralbot.data.splits import Splits


def row(question: str, answer: str, where: str = "") -> Conversation:
    return Conversation((Turn("user", question), Turn("assistant", answer)), where=where)


def splits(
    train: list[Conversation], validation: list[Conversation] | None = None, test: list[Conversation] | None = None
) -> Splits:
    return Splits(tuple(train), tuple(validation or ()), tuple(test or ()), ("a notice",), {})


def look(tokenizer: PreTrainedTokenizerFast, found: Splits, limit: int = 100, shown: int = 3) -> Preview:
    return preview(found, tokenizer, limit=limit, train_on_inputs=False, shown=shown, notices=["another"])


def test_figures_of_each_split(word_tokenizer: PreTrainedTokenizerFast) -> None:
    train = [row("a", "b"), row("a b c", "d"), row("a b", "c d e f")]  # 6, 8 and 10 tokens
    found = look(word_tokenizer, splits(train, [row("a b c", "d e")], [row("x", "y z")]))
    assert [figures.name for figures in found.splits] == ["training", "validation", "test"]
    training, validation, test = found.splits
    assert (training.rows, validation.rows, test.rows) == (3, 1, 1)
    assert training.lengths == Lengths(6, 8, 10, 10, (6, 7, 8, 9, 10, 11), (1, 0, 1, 0, 1))
    # targets: the answers and their ends, 2 + 2 + 5
    assert training.trained == Trained(rows=3, tokens=24, targets=9, ended=3, cut=0, shortened=0, dropped=0)
    assert validation.trained == Trained(rows=1, tokens=9, targets=3, ended=1, cut=0, shortened=0, dropped=0)
    assert (test.lengths.maximum, test.trained) == (7, None)
    assert [finding.text for finding in found.findings][:2] == ["another", "a notice"]


def test_a_limit_cuts_drops_and_shortens_but_lengths_stay_those_of_the_rows(
    word_tokenizer: PreTrainedTokenizerFast,
) -> None:
    document = "a b c d e f"
    turns = (Turn("user", f"{document} g", document=document), Turn("assistant", "h"))
    train = [
        row("a", "b"),  # 6 tokens: fits
        row("a b", "c d e"),  # 9 tokens: loses its end
        row("a b c d e f g", "h"),  # 12 tokens: <u>, 7 words and no answer
        Conversation(turns),  # 12 tokens: 4 words of the document too many
    ]
    found = look(word_tokenizer, splits(train, test=[row("a b c d e f", "g h")]), limit=8, shown=4)
    training, test = found.splits
    assert training.lengths == Lengths(6, 9, 12, 12, (6, 7, 8, 9, 10, 11, 12, 13), (1, 0, 0, 1, 0, 0, 2))
    # how much of a document stays is told in test_tokenized.py
    shortened = found.rows[3].tokens
    assert 7 <= shortened <= 8
    # targets "b <end>", "c d e", "h <end>"
    tokens = 6 + 8 + shortened
    assert training.trained == Trained(rows=3, tokens=tokens, targets=7, ended=2, cut=1, shortened=1, dropped=1)
    assert test.lengths.maximum == 12
    assert [shown.remark for shown in found.rows] == [
        "",
        "cut at 8 tokens, without the end of its answer",
        "dropped: no answer is left within 8 tokens",
        "its document is shortened to fit",
    ]
    assert [(shown.tokens, shown.targets) for shown in found.rows] == [(6, 2), (8, 3), (12, 0), (shortened, 2)]


def test_no_row_with_a_target_is_fatal_and_its_lengths_are_still_told(word_tokenizer: PreTrainedTokenizerFast) -> None:
    found = look(word_tokenizer, splits([row("a b c d e f g h", "i")]), limit=8)
    (training,) = found.splits
    assert (training.lengths.maximum, training.trained) == (13, None)
    fatal = [finding.text for finding in found.findings if finding.level == "fatal"]
    assert fatal == [
        "training rows: 0 usable of 1 rows: 1 have no answer within data.max_seq_length=8; raise it, or shorten the "
        "questions"
    ]


def test_parts_of_a_row(word_tokenizer: PreTrainedTokenizerFast) -> None:
    found = look(word_tokenizer, splits([row("a b", "c d")]))
    (shown,) = found.rows
    assert shown.parts == (
        Part("<u>", trained=False, special=True),
        Part(" a b", trained=False, special=False),
        Part(" <end>", trained=False, special=True),
        Part(" <a>", trained=False, special=True),
        Part(" c d", trained=True, special=False),
        Part(" <end>", trained=True, special=True),
    )


def test_parts_join_to_the_row_and_special_strings_of_a_text_are_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    answer = "ünï → 😀 <|end|> [bold]"
    found = look(tiny_tokenizer, splits([row("What is <|user|>?", answer)]))
    (shown,) = found.rows
    assert "".join(part.text for part in shown.parts) == (
        f"<|user|>\nWhat is <|user|>?<|end|>\n<|assistant|>\n{answer}<|end|>\n"
    )
    assert [part.text for part in shown.parts if part.trained] == [answer, "<|end|>"]
    assert [part.text for part in shown.parts if part.special] == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]


_FUNCTION = {"name": "find", "arguments": {"of": "</tool_call> <|end|>"}}
_CALL = {"type": "function", "id": "call00001", "function": _FUNCTION}
_TOOLS = ({"type": "function", "function": {"name": "find", "description": "Finds <|end|>"}},)


def test_calls_of_tools_are_counted_and_trained_on_and_their_results_are_not(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    ensure_chat_template(tokenizer, "chat", "chat")
    called = Turn("assistant", "", tool_calls=(_CALL,))
    result = Turn("tool", "no <|end|>", name="find", tool_call_id="call00001")
    turns = (Turn("user", "Where?"), called, result, Turn("assistant", "Nowhere."))
    found = look(tokenizer, splits([Conversation(turns, tools=_TOOLS), row("a", "b")], [row("c", "d")]), limit=500)
    assert [figures.calling for figures in found.splits] == [1, 0]
    parts = found.rows[0].parts
    written = '<tool_call>{"name": "find", "arguments": {"of": "</tool_call> <|end|>"}}</tool_call>'
    assert [part.text for part in parts if part.trained] == [written, "<|end|>", "Nowhere.", "<|end|>"]
    assert [part.text for part in parts if part.special] == ["<|end|>"] * 5
    assert "Finds <|end|>" in parts[0].text
    assert any("### Tool:\nno <|end|>" in part.text and not part.trained for part in parts)


def test_rows_that_differ_in_a_call_or_a_tool_are_not_the_same(word_tokenizer: PreTrainedTokenizerFast) -> None:
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in "ab"]
    rows = [Conversation((Turn("user", "q"), Turn("assistant", "", tool_calls=(call,)))) for call in calls]
    (found,) = duplicates.find([*rows, replace(rows[0], tools=_TOOLS), rows[0]])
    assert (found.questions, found.rows) == (3, 1)


def test_shown_rows_are_the_first(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row("a", answer, where=f"f:{answer}") for answer in "bcde"]
    assert [shown.where for shown in look(word_tokenizer, splits(rows), shown=2).rows] == ["f:b", "f:c"]
    assert look(word_tokenizer, splits(rows), shown=0).rows == ()


def test_everything_is_a_target_with_train_on_inputs(word_tokenizer: PreTrainedTokenizerFast) -> None:
    found = preview(splits([row("a", "b")]), word_tokenizer, limit=9, train_on_inputs=True, shown=1)
    assert found.splits[0].trained == Trained(1, tokens=6, targets=6, ended=1, cut=0, shortened=0, dropped=0)
    assert all(part.trained for part in found.rows[0].parts)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5], Lengths(5, 5, 5, 5, (5, 6), (1,))),
        ([3, 3, 4], Lengths(3, 3, 4, 4, (3, 4, 5), (2, 1))),
        # 20 lengths in 10 bins of two
        (list(range(1, 21)), Lengths(1, 10, 19, 20, tuple(range(1, 22, 2)), (2,) * 10)),
        # 1 to 25 are 25 lengths: bins of three, the last reaches beyond
        ([1, 2, 3, 4, 25], Lengths(1, 3, 25, 25, (1, 4, 7, 10, 13, 16, 19, 22, 25, 28), (3, 1, 0, 0, 0, 0, 0, 0, 1))),
    ],
)
def test_lengths(values: list[int], expected: Lengths) -> None:
    assert lengths(values) == expected
    assert lengths(values[::-1]) == expected


def test_duplicates_inside_and_across_splits(word_tokenizer: PreTrainedTokenizerFast) -> None:
    train = [row("a", "b", "t:1"), row("a", "c", "t:2"), row("d", "e", "t:3"), row("a", "c", "t:4")]
    validation = [row("d", "e", "v:1"), row("x", "y", "v:2")]
    test = [row("a", "z", "s:1"), row("x", "y", "s:2"), row("x", "y", "s:3")]
    assert look(word_tokenizer, splits(train, validation, test)).repeats == (
        Repeats("train", "train", 2, 1, (Repeat("t:2", "t:1", whole=False), Repeat("t:4", "t:2", whole=True))),
        Repeats("test", "test", 1, 1, (Repeat("s:3", "s:2", whole=True),)),
        Repeats("validation", "train", 1, 1, (Repeat("v:1", "t:3", whole=True),)),
        Repeats("test", "train", 1, 0, (Repeat("s:1", "t:1", whole=False),)),
        Repeats("test", "validation", 2, 2, (Repeat("s:2", "v:2", whole=True), Repeat("s:3", "v:2", whole=True))),
    )


def test_only_the_first_places_are_kept_and_a_blank_makes_a_difference(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row("a", "b", f"t:{number}") for number in range(6)]
    (found,) = look(word_tokenizer, splits([*rows, row("a ", "b"), row("A", "b")])).repeats
    assert (found.questions, found.rows) == (5, 5)
    assert [repeat.where for repeat in found.first] == ["t:1", "t:2", "t:3"]
