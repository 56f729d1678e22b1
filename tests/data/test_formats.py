from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from neuralbot.conversation import Conversation, Turn
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.formats import FUNCTION_REQUEST, SUMMARY_REQUEST, TESTS_FOLLOW, conversations, detect
from neuralbot.data.strict_json import Row
from neuralbot.errors import DataError
from neuralbot.evaluation import unit_tests


def read(rows: list[dict[str, Any]], task: str = "completion", bad: BadRows | None = None) -> list[Conversation]:
    return list(conversations(rows, detect(list(rows[0]), task), "f.json", bad or BadRows()))


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


def test_an_optional_column_counts_also_if_it_comes_late() -> None:
    rows = [{"instruction": "A", "output": "x"}, {"instruction": "A", "input": "B", "output": "x", "tests": "t"}]
    last = read(rows)[-1]
    assert (last.turns[0].input, last.tests) == ("B", "t")


@pytest.mark.parametrize("tests", ["assert f() == 1\nassert f() != 2", ["assert f() == 1", "assert f() != 2"]])
def test_tests_of_code_rows(tests: object) -> None:
    (row,) = read([{"instruction": "A", "output": "x", "tests": tests}], "code-generation")
    assert row.tests == "assert f() == 1\nassert f() != 2"
    (row,) = read([{"instruction": "A", "output": "x", "tests": None}], "code-generation")
    assert row.tests is None


@pytest.mark.parametrize("row", [{"Question": "Q", "Answer": "A"}, {"completion": "A", "prompt": "Q"}])
def test_pairs(row: dict[str, str]) -> None:
    (conversation,) = read([row | {"tests": "assert True"}])
    assert conversation.turns == (Turn("user", "Q"), Turn("assistant", "A"))
    assert conversation.expected == ("A",)
    assert conversation.tests == "assert True"


def test_instances_are_rows_of_their_own() -> None:
    pairs = [{"input": "", "output": "x"}, {"input": "B", "output": "y"}]
    first, second, third = read(
        [{"instruction": "A", "instances": pairs}, {"instruction": "C", "instances": [{"output": "z"}]}]
    )
    assert first.turns == (Turn("user", "A"), Turn("assistant", "x"))
    assert second.turns == (Turn("user", "A\n\nB", "A", "B"), Turn("assistant", "y"))
    assert [one.where for one in (first, second, third)] == [
        "f.json: row 1: instance 1",
        "f.json: row 1: instance 2",
        "f.json: row 2",
    ]


HALF = "def half(number):\n"
FUNCTION = {
    "prompt": HALF,
    "canonical_solution": "    return number / 2\n",
    "test": "def check(candidate):\n    assert candidate(8) == 4\n",
    "entry_point": "half",
}
CODE = {"text": "Halve a number.", "code": HALF + "    return number / k", "test_list": ["assert half(8) == 4"]}


def test_a_function_is_answered_whole_and_its_test_is_called() -> None:
    (row,) = read([FUNCTION], "code-generation")
    assert row.turns[0] == Turn("user", f"{FUNCTION_REQUEST}\n\n{HALF}", FUNCTION_REQUEST, HALF)
    assert row.turns[1].content == HALF + "    return number / 2\n"
    verdicts = unit_tests.run_all([row.turns[1].content, HALF + "    return number"], [str(row.tests)] * 2, 20)
    assert [verdict.status for verdict in verdicts] == ["passed", "failed"]


def test_the_tests_of_a_task_are_asked_with_it_and_run_behind_their_setup() -> None:
    (row,) = read([CODE | {"test_setup_code": "k = 2"}], "code-generation")
    shown = f"{TESTS_FOLLOW}\nassert half(8) == 4"
    assert row.turns[0] == Turn("user", f"Halve a number.\n\n{shown}", "Halve a number.", shown)
    verdicts = unit_tests.run_all([row.turns[1].content, HALF + "    return k"], [str(row.tests)] * 2, 20)
    assert [verdict.status for verdict in verdicts] == ["passed", "failed"]


def test_summaries() -> None:
    (row,) = read([{"article": "Long.", "highlights": "Short."}])
    assert row.turns[0] == Turn("user", f"Long.\n{SUMMARY_REQUEST}", document="Long.")
    assert row.turns[1].content == "Short."
    assert row.expected == ("Short.",)


def test_plain_text() -> None:
    (row,) = read([{"text": "Once."}])
    assert row.is_plain_text
    assert row.expected == ()


def test_mapped_columns_are_read() -> None:
    fmt = detect(["Frage", "Antwort"], "completion", {"question": "Frage", "answer": "Antwort"})
    (row,) = conversations([{"Frage": "Q", "Antwort": "A"}], fmt, "f.json", BadRows())
    assert [turn.content for turn in row.turns] == ["Q", "A"]


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
        ({"instruction": "A", "instances": "x"}, ["column 'instances' is a text", 'such as [{"input"']),
        ({"instruction": "A", "instances": [1]}, ["entry 1 of 'instances' is a number"]),
        ({"instruction": "A", "instances": [{"input": ""}]}, ["column 'output' is missing"]),
        (FUNCTION | {"entry_point": "half(8)"}, ["column 'entry_point' is 'half(8)'", "name of the function"]),
        (FUNCTION | {"canonical_solution": ""}, ["column 'canonical_solution' is empty"]),
        (CODE | {"test_list": []}, ["column 'test_list' is a list without entries", "a list of asserts"]),
        (CODE | {"test_list": None}, ["column 'test_list' is null"]),
    ],
)
def test_bad_rows_are_named_by_number(row: dict[str, Any], parts: list[str]) -> None:
    fine = {"instruction": "A", "output": "x", "messages": [ASK, SAY], "text": "t", "article": "A", "highlights": "h"}
    good = {key: fine.get(key, "x") for key in row} | ({"output": "x"} if "instruction" in row else {})
    good |= {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    good |= {"expected": ["x"], "tests": "assert True", "input": "i", "instances": [{"output": "x"}]}
    alpaca = "instruction" in row and "instances" not in row
    fmt = detect([*row, *(["output"] if alpaca else []), "expected", "tests", "input"], "completion")
    with pytest.raises(DataError) as caught:
        list(conversations([good, row], fmt, "train.json", BadRows()))
    message = str(caught.value)
    assert message.startswith("train.json: row 2: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("line", "number", "place"), [(7, 0, "f.jsonl:7: "), (7, 3, "f.jsonl:7: row 3: "), (0, 3, "f.jsonl: row 3: ")]
)
def test_the_place_is_what_the_row_knows(line: int, number: int, place: str) -> None:
    row = Row({"instruction": "A", "output": None})
    row.line, row.number = line, number
    with pytest.raises(DataError) as caught:
        list(conversations([row], detect(list(row), "completion"), "f.jsonl", BadRows()))
    assert str(caught.value).startswith(f"{place}column 'output' is null")


def test_rows_are_taken_one_by_one() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"text": "a"}
        raise AssertionError("the second row was read before the first was given")

    lazy = conversations(rows(), detect(["text"], "completion"), "f.txt", BadRows())
    assert next(lazy).turns[0].content == "a"


def test_bad_rows_are_set_aside_with_their_text_and_the_others_kept() -> None:
    rows = [{"instruction": f"Q{number}", "output": "x"} for number in range(4)]
    rows[2] = {"instruction": "Q2", "output": ["é"]}  # type: ignore[dict-item]
    bad = BadRows("skip")
    kept = read(rows, bad=bad)
    assert [row.turns[0].content for row in kept] == ["Q0", "Q1", "Q3"]
    assert [(one.problem[:36], one.row) for one in bad.found] == [
        ("f.json: row 3: column 'output' is a ", '{"instruction": "Q2", "output": ["é"]}')
    ]


def test_a_few_empty_answers_are_left_out_and_counted_many_are_a_fault() -> None:
    rows = [{"instruction": f"Q{number}", "output": "x"} for number in range(199)]
    rows.append({"instruction": "Q", "output": " "})
    bad = BadRows()
    assert len(read(rows, bad=bad)) == 199
    assert len(read(rows, bad=bad)) == 199
    assert bad.said() == ["f.json: 1 row of 200 left out, the answer is empty: f.json: row 200"]
    with pytest.raises(DataError, match=r"f\.json: row 20: the answer is empty, as in 1 of 20 rows"):
        read(rows[-20:])
