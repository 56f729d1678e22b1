"""Lists of messages with tools: what becomes of them, and what is said of those that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from neuralbot.conversation import Conversation, Turn
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.formats import conversations, detect
from neuralbot.errors import DataError


def read(row: dict[str, Any], mapping: dict[str, str] | None = None) -> Conversation:
    (conversation,) = conversations([row], detect(list(row), "chat", mapping), "f.json", BadRows())
    return conversation


def said(role: str, content: str | None = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def called(name: str, arguments: object, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def shared(origin: str, value: str) -> dict[str, str]:
    return {"from": origin, "value": value}


WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}
ASK = said("user", "warm?")


def test_openai_messages_with_calls() -> None:
    first, second = called("weather", '{"city": "Rome"}', id="a1"), called("weather", {"city": "Bonn"}, id="b2")
    messages = [
        said("developer", "Be kind."),
        ASK,
        said("assistant", None, tool_calls=[first, second]),
        said("tool", "19", tool_call_id="b2"),
        said("tool", "21", tool_call_id="a1", name="other"),
        said("assistant", "Yes."),
    ]
    row = read({"messages": messages, "tools": [{"type": "function", "function": WEATHER}]})
    rome = {"type": "function", "id": "a1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    bonn = {"type": "function", "id": "b2", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
    assert row.turns == (
        Turn("system", "Be kind."),
        Turn("user", "warm?"),
        Turn("assistant", "", tool_calls=(rome, bonn)),
        Turn("tool", "19", name="weather", tool_call_id="b2"),
        Turn("tool", "21", name="other", tool_call_id="a1"),
        Turn("assistant", "Yes."),
    )
    assert row.tools == ({"type": "function", "function": WEATHER},)


def test_sharegpt_calls_are_turns_that_are_joined_and_numbered() -> None:
    talk = [
        shared("human", "warm?"),
        shared("gpt", "Let me see."),
        shared("function_call", '{"name": "weather", "arguments": {"city": "Rome"}}'),
        shared("function_call", '[{"name": "weather", "arguments": "{}"}, {"name": "time"}]'),
        shared("observation", "21"),
        shared("tool", "19"),
        shared("observation", "noon"),
        shared("function_call", '{"name": "time", "arguments": {}}'),
        shared("observation", "one"),
        shared("gpt", "Yes."),
    ]
    row = read({"conversations": talk, "tools": json.dumps([WEATHER])})
    names = [[call["function"]["name"] for call in turn.tool_calls] for turn in row.turns]
    assert names == [[], ["weather", "weather", "time"], [], [], [], ["time"], [], []]
    assert [turn.role for turn in row.turns] == ["user", "assistant", *["tool"] * 3, "assistant", "tool", "assistant"]
    assert row.turns[1].content == "Let me see."
    ids = [call["id"] for turn in row.turns for call in turn.tool_calls]
    assert ids == ["call00001", "call00002", "call00003", "call00004"]
    results = [(turn.name, turn.tool_call_id) for turn in row.turns if turn.role == "tool"]
    assert results == list(zip(["weather", "weather", "time", "time"], ids, strict=True))
    assert row.tools == ({"type": "function", "function": WEATHER},)


def test_a_single_function_call_as_older_files_have_it() -> None:
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    result = said("function", "21", name="weather")
    row = read({"messages": [ASK, said("assistant", None, function_call=call), result, said("assistant", "Yes.")]})
    assert row.turns[1].tool_calls[0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert row.turns[2].name == "weather"


@pytest.mark.parametrize("tools", [None, "", "[]", " ", []])
def test_no_tools(tools: object) -> None:
    assert read({"messages": [ASK, said("assistant")], "tools": tools}).tools == ()


def test_a_row_may_end_in_a_call_and_its_facts_are_counted_by_turn() -> None:
    messages = [ASK, said("assistant", "see:", tool_calls=[called("f", {})]), said("tool"), said("assistant", "21")]
    assert read({"messages": messages[:2]}).turns[-1].tool_calls
    assert read({"messages": messages, "expected": [None, "21"]}).expected == (None, "21")
    marked = [*messages[:3], said("assistant", "21", expected="21")]
    assert read({"messages": marked}).expected == (None, "21")


CALL = called("f", {"a": 1}, id="c1")


@pytest.mark.parametrize(
    ("messages", "parts"),
    [
        ([ASK, said("assistant", tool_calls="f")], ["'tool_calls' of turn 2 of 'messages' is a text", '"arguments"']),
        ([ASK, said("assistant", tool_calls=["f"])], ["call 1 of turn 2 of 'messages' is a text"]),
        ([ASK, said("assistant", tool_calls=[{"function": 3}])], ["call 1 of turn 2 of 'messages' is a number"]),
        ([ASK, said("assistant", tool_calls=[called("f", [1])])], ["'arguments' of call 1 of turn 2", "is a list"]),
        ([ASK, said("assistant", tool_calls=[called("f", "{a")])], ["'arguments' of call 1", ":1:2: invalid JSON"]),
        ([ASK, said("assistant", tool_calls=[called("f", "{} {}")])], ["goes on after the end of its JSON"]),
        ([ASK, said("assistant", tool_calls=[called("f", '{"a": NaN}')])], ["NaN is not a JSON value"]),
        ([ASK, said("assistant", tool_calls=[called(" ", {})])], ["'name' of call 1 of turn 2", "is empty"]),
        ([ASK, said("assistant", tool_calls=[{"arguments": {}}])], ["'name' of call 1 of turn 2", "is null"]),
        ([said("user", tool_calls=[CALL])], ["turn 1 of 'messages' calls tools in the role 'user'"]),
        ([ASK, said("tool", "x")], ["turn 2 is a tool's, expected the assistant's"]),
        ([ASK, said("assistant", None)], ["'content' of turn 2 of 'messages' is null"]),
        ([ASK, said("assistant", tool_calls=[CALL]), ASK], ["turn 3 is the user's, expected a tool's"]),
        ([ASK, said("assistant"), said("assistant", "y", tool_calls=[CALL])], ["turn 3 is a call of a tool"]),
        ([ASK, said("assistant", tool_calls=[CALL]), said("tool")], ["the last turn is a tool's, without an answer"]),
        (
            [ASK, said("assistant", tool_calls=[CALL]), said("tool"), said("tool"), said("assistant")],
            ["turn 4 of 'messages' is one result more than there are calls"],
        ),
        (
            [ASK, said("assistant", tool_calls=[CALL]), said("tool", tool_call_id="c9"), said("assistant")],
            ["'tool_call_id' of turn 3 of 'messages' is 'c9'", "expected the id of a call before it: 'c1'"],
        ),
        ([ASK, said("assistant", weight=0)], ["turn 2 of 'messages' has 'weight'", "every answer is trained on"]),
        ([ASK, said("assistant", reasoning_content="hm")], ["has 'reasoning_content'", "write them into the content"]),
        ([ASK, said("robot")], ["unknown role 'robot'", "observation"]),
    ],
)
def test_calls_that_cannot_be_read_are_named(messages: list[dict[str, Any]], parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read({"messages": messages})
    message = str(caught.value)
    assert message.startswith("f.json: row 1: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("tools", "parts"),
    [
        ("[{", ["column 'tools':1:3: invalid JSON"]),
        ({"name": "f"}, ["column 'tools' is an object", "expected a list of tools"]),
        (["f"], ["tool 1 of column 'tools' is a text"]),
        ([{"description": "d"}], ["'name' of tool 1 of column 'tools' is null"]),
    ],
)
def test_tools_that_cannot_be_read_are_named(tools: object, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read({"messages": [ASK, said("assistant")], "tools": tools})
    for part in parts:
        assert part in str(caught.value)


def test_a_sharegpt_call_that_is_no_json_is_named() -> None:
    talk = [shared("human", "warm?"), shared("function_call", "weather(Rome)")]
    with pytest.raises(DataError, match="'value' of turn 2 of 'conversations':1:1: invalid JSON"):
        read({"conversations": talk})
