"""Each finding on rows that have it, and none on rows that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from neuralbot.conversation import Conversation, Turn
from neuralbot.data import checks, duplicates
from neuralbot.data.checks import Finding
from neuralbot.data.tokenized import IGNORED, Tokenized, TokenRows, tokenize
from neuralbot.errors import DataError

GOOD = [("a b", "c d"), ("e f", "g h"), ("i", "j k l")]
Pairs = list[tuple[str, str]]


def rows_of(pairs: Pairs) -> list[Conversation]:
    return [Conversation((Turn("user", question), Turn("assistant", answer))) for question, answer in pairs]


def fatal(tokenizer: PreTrainedTokenizerFast, pairs: Pairs, limit: int = 100) -> list[str]:
    rows = rows_of(pairs)
    found = checks.fatal(rows, tokenize(rows, tokenizer, limit, False, "training rows"), tokenizer)
    assert all(finding.level == "fatal" for finding in found)
    return [finding.text for finding in found]


def warnings(tokenizer: PreTrainedTokenizerFast, pairs: Pairs, limit: int = 100) -> list[Finding]:
    rows = rows_of(pairs)
    train = tokenize(rows, tokenizer, limit, False, "training rows")
    return checks.warnings(rows, train, tokenizer, duplicates.find(rows))


def test_good_rows_have_no_findings(word_tokenizer: PreTrainedTokenizerFast) -> None:
    assert fatal(word_tokenizer, GOOD) == []
    assert warnings(word_tokenizer, GOOD) == []


def test_every_answer_cut_is_fatal(word_tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [("a", "b c d e f g"), ("h", "i j k l m n o")]  # 11 and 12 tokens
    assert fatal(word_tokenizer, pairs, limit=12) == []
    assert fatal(word_tokenizer, pairs, limit=11) == []
    (text,) = fatal(word_tokenizer, pairs, limit=10)
    assert text == (
        "the end token '<end>' is trained in none of 2 rows, because every answer is cut at 10 tokens, so the model "
        "would never learn to stop; raise data.max_seq_length (up to what the model reads), or shorten the rows"
    )


def test_a_first_answer_with_its_end_is_enough_where_last_answers_are_cut(
    word_tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d e f g"))
    rows = [Conversation(turns)] * 2
    train = tokenize(rows, word_tokenizer, 12, False, "training rows")
    assert train.cut == 2
    assert checks.fatal(rows, train, word_tokenizer) == []


def test_an_end_that_is_lost_without_a_cut_is_fatal(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(GOOD)
    train = tokenize(rows, word_tokenizer, 100, False, "training rows")
    end = word_tokenizer.eos_token_id
    labels = np.where(train.rows.labels == end, IGNORED, train.rows.labels)
    lost = TokenRows(train.rows.ids, labels, train.rows.ends)
    (finding,) = checks.fatal(rows, replace(train, rows=lost), word_tokenizer)
    assert finding.text == (
        "the end token '<end>' is trained in none of 3 rows, so the model would never learn to stop; "
        "give the tokenizer another chat template"
    )


def test_plain_texts_may_all_be_cut(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = tuple(Conversation((Turn("assistant", text),)) for text in ("a b c d e", "f g h i j"))
    train = tokenize(rows, word_tokenizer, 4, False, "training rows")
    assert checks.fatal(rows, train, word_tokenizer) == []
    assert [finding.level for finding in checks.warnings(rows, train, word_tokenizer, ())] == ["warning"]


def test_one_token_everywhere_is_fatal(word_tokenizer: PreTrainedTokenizerFast) -> None:
    (text,) = fatal(word_tokenizer, [("a", "x"), ("b", "x x"), ("c", "x")])
    assert text.startswith("everything that is trained on is one token, 'x', in all of 3 rows; check the column")
    (text,) = fatal(word_tokenizer, [("a", "ärger"), ("b", "über ölig")])
    assert "is one token, '<unk>', in all of 2 rows" in text
    assert fatal(word_tokenizer, [("a", "x"), ("b", "y")]) == []
    assert fatal(word_tokenizer, [("a", "x")]) == []


def test_many_lost_answers_are_a_warning(word_tokenizer: PreTrainedTokenizerFast) -> None:
    few = [(f"a {letter}", "b") for letter in "abcdefghijklmnopqrs"]  # 19 rows
    cut, dropped = ("a", "b c d e f g h"), ("a b c d e f g h i", "j")
    assert warnings(word_tokenizer, [*few, cut], limit=10) == []  # 1 of 20
    (finding,) = warnings(word_tokenizer, [*few, cut, dropped], limit=10)
    assert finding == Finding(
        "warning",
        "10% of the training rows lose the end of their answer, or all of it, to data.max_seq_length; raise it, or "
        "shorten the rows",
    )


def test_many_shortened_documents_are_a_warning(word_tokenizer: PreTrainedTokenizerFast) -> None:
    document = "a b c d e f"
    turns = (Turn("user", f"{document} g", document=document), Turn("assistant", "h"))
    rows = [Conversation(turns), *rows_of(GOOD)]
    train = tokenize(rows, word_tokenizer, 9, False, "training rows")
    assert [finding.text for finding in checks.warnings(rows, train, word_tokenizer, ())] == [
        "25% of the training rows have their document shortened to data.max_seq_length: what is asked about may be "
        "gone; raise it, or shorten the documents"
    ]
    assert (
        checks.warnings(rows, replace(train, rows=TokenRows.of([*train.rows] * 5)), word_tokenizer, ()) == []
    )  # 1 of 20


def test_unknown_tokens_are_counted(word_tokenizer: PreTrainedTokenizerFast) -> None:
    (finding,) = warnings(word_tokenizer, [("a ä", "b"), ("ö", "ü c d")])  # 7 + 8 tokens
    assert finding.level == "warning"
    assert finding.text.startswith("3 of 15 tokens of the training rows are '<unk>': text that the tokenizer")


def test_an_unknown_token_that_is_the_end_token_is_not_counted(word_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"input_ids": [4, 3], "labels": [4, 3]}, {"input_ids": [5, 3], "labels": [5, 3]}]
    import copy

    tokenizer = copy.deepcopy(word_tokenizer)
    tokenizer.unk_token = "<end>"
    assert checks.warnings(rows_of(GOOD), Tokenized(TokenRows.of(rows), 0, ()), tokenizer, ()) == []


def test_one_answer_for_all_is_a_warning(word_tokenizer: PreTrainedTokenizerFast) -> None:
    (finding,) = warnings(word_tokenizer, [("a", "x y"), ("b", "x y")])
    assert finding == Finding("warning", "all 2 training rows have the same answer: the model would learn to repeat it")


def test_answers_that_only_call_tools_are_told_apart_by_their_calls(word_tokenizer: PreTrainedTokenizerFast) -> None:
    train = tokenize(rows_of(GOOD), word_tokenizer, 100, False, "training rows")

    def found(*names: str) -> list[Finding]:
        calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in names]
        answers = [Turn("assistant", "", tool_calls=(call,)) for call in calls]
        rows = tuple(Conversation((Turn("user", "a"), answer)) for answer in answers)
        return checks.warnings(rows, train, word_tokenizer, ())

    assert found("b", "c") == []
    assert [finding.text[:39] for finding in found("b", "b")] == ["all 2 training rows have the same answe"]


def test_repeated_rows_and_contradictions(word_tokenizer: PreTrainedTokenizerFast) -> None:
    same, other = [*GOOD, GOOD[0]], [*GOOD, (GOOD[0][0], "x")]
    assert warnings(word_tokenizer, same) == [
        Finding("warning", "1 of 4 training rows are the same as an earlier one: they count more than others")
    ]
    assert warnings(word_tokenizer, other) == [
        Finding("warning", "1 of 4 training rows answer the question of an earlier one in another way")
    ]
    many = [(f"{one} {two}", "b c" if one < "m" else "d") for one in "abcdefxyz" for two in "abc"]  # 27 rows
    assert [finding.level for finding in warnings(word_tokenizer, [*many, many[0]])] == ["note"]


def test_stop_raises_for_fatal_findings_alone() -> None:
    checks.stop([Finding("note", "a"), Finding("warning", "b")])
    with pytest.raises(DataError, match=r"^these rows cannot be trained on: b; c$"):
        checks.stop([Finding("note", "a"), Finding("fatal", "b"), Finding("fatal", "c")])
