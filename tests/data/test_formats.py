from __future__ import annotations

from typing import Any

import pytest

from neuralbot.conversation import Turn
from neuralbot.data.formats import SUMMARY_REQUEST, convert, detect, to_conversations
from neuralbot.data.strict_json import Row
from neuralbot.errors import DataError


def read(rows: list[dict[str, Any]], task: str = "completion") -> Any:
    return to_conversations(rows, detect(list(rows[0]), task), "f.json")


@pytest.mark.parametrize(
    ("columns", "task", "name"),
    [
        (["instruction", "output"], "completion", "alpaca"),
        (["id", "instruction", "input", "response", "tags"], "completion", "alpaca"),
        (["Instruction", "Output"], "code-generation", "alpaca"),
        (["Question", "Answer"], "completion", "question/answer"),
        (["question", "response"], "completion", "question/answer"),
        (["prompt", "completion"], "completion", "prompt/completion"),
        (["messages"], "chat", "messages"),
        (["conversations", "tools"], "chat", "conversations"),
        (["", "id", "article", "highlights"], "summarization", "summarization"),
        (["dialogue", "summary", "topic"], "summarization", "summarization"),
        (["document", "summary"], "completion", "summarization"),
        (["instruction", "output", "article", "summary"], "summarization", "summarization"),
        (["instruction", "output", "article", "summary"], "completion", "alpaca"),
        (["text", "source"], "completion", "text"),
    ],
)
def test_format_is_told_by_the_columns(columns: list[str], task: str, name: str) -> None:
    assert detect(columns, task).name == name


def test_reason_says_what_decided_and_what_is_not_used() -> None:
    fmt = detect(["id", "Instruction", "response", "input"], "completion")
    assert fmt.reason == (
        "read as Alpaca rows, an instruction with its answer, because of the columns 'Instruction', 'response', "
        "'input'; not used: 'id'"
    )


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (["instruction", "outptu"], ["'output' or 'response' is missing", "'instruction', 'outptu'", "mean 'output'"]),
        (["article", "title"], ["'highlights' or 'summary' is missing", "rename"]),
        (["foo", "bar"], ["no known format", "'foo', 'bar'", "instruction and output|response"]),
        (["quetsion", "aswer"], ["did you mean 'question' by 'quetsion'"]),
        ([], ["present columns: none"]),
    ],
)
def test_unknown_columns_are_named_beside_the_expected(columns: list[str], parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        detect(columns, "completion")
    for part in parts:
        assert part in str(caught.value)


def test_alpaca_rows() -> None:
    first, second = read(
        [{"instruction": "A", "input": "", "output": "x"}, {"instruction": "A", "input": "B", "output": "y"}]
    )
    assert first.turns == (Turn("user", "A"), Turn("assistant", "x"))
    assert second.turns[0] == Turn("user", "A\n\nB", instruction="A", input="B")
    assert second.expected == ("y",)
    assert second.where == "f.json: row 2"


def test_input_may_be_null_or_missing_in_some_rows() -> None:
    rows = [{"instruction": "A", "input": None, "output": "x"}, {"instruction": "A", "output": "x"}]
    assert [row.turns[0] for row in read(rows)] == [Turn("user", "A")] * 2


@pytest.mark.parametrize("tests", ["assert f() == 1\nassert f() != 2", ["assert f() == 1", "assert f() != 2"]])
def test_tests_of_code_rows(tests: object) -> None:
    (row,) = read([{"instruction": "A", "output": "x", "tests": tests}], "code-generation")
    assert row.tests == "assert f() == 1\nassert f() != 2"
    (row,) = read([{"instruction": "A", "output": "x", "tests": None}], "code-generation")
    assert row.tests is None


@pytest.mark.parametrize("row", [{"Question": "Q", "Answer": "A"}, {"prompt": "Q", "completion": "A"}])
def test_pairs(row: dict[str, str]) -> None:
    (conversation,) = read([row])
    assert conversation.turns == (Turn("user", "Q"), Turn("assistant", "A"))
    assert conversation.expected == ("A",)


def test_summaries() -> None:
    (row,) = read([{"article": "Long.", "highlights": "Short."}])
    assert row.turns[0] == Turn("user", f"Long.\n{SUMMARY_REQUEST}", document="Long.")
    assert row.turns[1].content == "Short."
    assert row.expected == ("Short.",)


def test_plain_text() -> None:
    (row,) = read([{"text": "Once."}])
    assert row.is_plain_text
    assert row.expected == ()


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_messages_with_expected_facts_in_a_column_or_in_the_messages() -> None:
    talk = [turn("system", "S"), turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    marked = [*talk[:4], turn("assistant", "d", expected="d")]
    first, second, third = read([{"messages": talk, "expected": [None, "d"]}, {"messages": marked}, {"messages": talk}])
    assert [one.role for one in first.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert first.expected == second.expected == (None, "d")
    assert third.expected == ()


def test_sharegpt() -> None:
    talk = [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (row,) = read([{"conversations": talk}])
    assert row.turns == (Turn("system", "S"), Turn("user", "a"), Turn("assistant", "b"))


ASK, SAY = turn("user", "a"), turn("assistant", "b")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"instruction": "A", "output": None}, ["column 'output' is null", "expected a text"]),
        ({"instruction": "A", "output": ["x"]}, ["column 'output' is a list", "expected a text in quotes"]),
        ({"instruction": "A", "output": 5}, ["column 'output' is a number"]),
        ({"instruction": "A", "output": True}, ["column 'output' is true or false"]),
        ({"instruction": "A", "output": {}}, ["column 'output' is an object"]),
        ({"instruction": " ", "output": "x"}, ["column 'instruction' is empty", "take the row out"]),
        ({"instruction": "A"}, ["column 'output' is missing", "present columns: 'instruction'"]),
        ({"instruction": "A", "output": "x", "input": 3}, ["column 'input' is a number"]),
        ({"instruction": "A", "output": "x", "tests": [1]}, ["an item of column 'tests' is a number"]),
        ({"messages": "hi"}, ["column 'messages' is a text", '{"role"']),
        ({"messages": []}, ["column 'messages' is a list without entries"]),
        ({"messages": ["hi"]}, ["turn 1 of 'messages' is a text"]),
        ({"messages": [ASK, {"role": "assistant"}]}, ["turn 2 of 'messages' has no 'content'", "(its keys: 'role')"]),
        ({"messages": [ASK, turn("assistant", None)]}, ["'content' of turn 2 of 'messages' is null"]),  # type: ignore[arg-type]
        ({"messages": [ASK, turn("robot", "x")]}, ["turn 2 of 'messages' has the unknown role 'robot'", "human"]),
        ({"messages": [SAY, ASK]}, ["roles out of order: turn 1 is the assistant's, expected the user's"]),
        ({"messages": [ASK, SAY, SAY]}, ["turn 3 is the assistant's"]),
        ({"messages": [turn("system", "S"), ASK, ASK]}, ["turn 3 is the user's, expected the assistant's"]),
        ({"messages": [ASK, SAY, turn("system", "S")]}, ["turn 3 is the system's"]),
        ({"messages": [ASK]}, ["no assistant turn (its roles: user)"]),
        ({"messages": [turn("system", "S")]}, ["no assistant turn"]),
        ({"messages": [ASK, SAY, ASK]}, ["the last turn is the user's"]),
        ({"messages": [ASK, SAY], "expected": ["x", "y"]}, ["column 'expected' is 2 entries", "with 1 entries"]),
        ({"messages": [ASK, SAY], "expected": "x"}, ["column 'expected' is a text"]),
        ({"messages": [ASK, SAY], "expected": [7]}, ["an entry of 'expected' is a number"]),
        ({"conversations": [{"from": "human"}]}, ["turn 1 of 'conversations' has no 'value'"]),
        ({"text": None}, ["column 'text' is null"]),
        ({"article": "A", "highlights": 1}, ["column 'highlights' is a number"]),
    ],
)
def test_bad_rows_are_named_by_number(row: dict[str, Any], parts: list[str]) -> None:
    fine = {"instruction": "A", "output": "x", "messages": [ASK, SAY], "text": "t", "article": "A", "highlights": "h"}
    good = {key: fine.get(key, "x") for key in row} | ({"output": "x"} if "instruction" in row else {})
    good |= {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    good |= {"expected": ["x"], "tests": "assert True", "input": "i"}
    fmt = detect([*row, *(["output"] if "instruction" in row else []), "expected", "tests", "input"], "completion")
    with pytest.raises(DataError) as caught:
        to_conversations([good, row], fmt, "train.json")
    message = str(caught.value)
    assert message.startswith("train.json: row 2: ")
    for part in parts:
        assert part in message


def test_the_line_is_named_where_the_row_knows_it() -> None:
    row = Row({"instruction": "A", "output": None})
    row.line = 7
    with pytest.raises(DataError, match=r"^train\.jsonl:7: row 1: column 'output' is null"):
        to_conversations([row], detect(list(row), "completion"), "train.jsonl")


def test_a_few_empty_answers_are_left_out_and_counted_many_are_a_fault() -> None:
    rows = [{"instruction": f"Q{number}", "output": "x"} for number in range(199)] + [
        {"instruction": "Q", "output": " "}
    ]
    fmt = detect(list(rows[0]), "completion")
    done = convert(rows, fmt, "f.json")
    assert len(done.conversations) == 199
    assert done.empty == ["f.json: row 200"]
    with pytest.raises(DataError, match=r"row 20: the answer is empty, as in 1 of 20 rows"):
        convert(rows[-20:], fmt, "f.json")
