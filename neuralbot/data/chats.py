"""One row with a list of messages -> a conversation, with the tools that it names and calls.

Known: `messages` (role, content, tool_calls, tool_call_id, name) and sharegpt `conversations` (from, value), in which a
call is a turn of its own. What a template may ask for and a row leaves out is made from its order: the ids of calls
(call00001, ...), and the id and name that belong to a result. Descriptions and calls get the wrapping
{"type": "function", "function": ...} that templates expect.

Does not: read rows of other formats (`formats`), render.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuralbot.conversation import Conversation, Role, Tool, Turn
from neuralbot.data import strict_json
from neuralbot.data.fields import At
from neuralbot.data.strict_json import kind_of

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
# Keys of a message that mean something for training, and are not read.
_NOT_HONOURED = {
    "weight": "every answer is trained on: take the row out, or the key",
    "reasoning_content": "thoughts are not kept apart: write them into the content, or take them out",
}
_CALL = '{"name": "...", "arguments": {...}}'


@dataclass(frozen=True)
class _Message:
    """One message as it was read: its turn, the fact expected of it, and its name in messages for people."""

    turn: Turn
    expected: object
    name: str

    @property
    def says(self) -> str:
        return "call" if self.turn.tool_calls else self.turn.role


def chat(at: At, columns: Mapping[str, str]) -> Conversation:
    """The conversation of a row; raises DataError with the place of what cannot be read."""
    column = columns["turns"]
    listed = at.row.get(column)
    if not isinstance(listed, list) or not listed:
        kind = "missing" if column not in at.row else kind_of(listed)
        at.fail(f"column {column!r} is {kind}", 'expected a list of turns such as {"role": "user", "content": "..."}')
    messages = [_message(at, item, f"turn {number} of {column!r}") for number, item in enumerate(listed, start=1)]
    _check_order(at, messages)
    messages = _numbered(at, _joined(messages))
    turns = tuple(message.turn for message in messages)
    tools = _tools(at, columns["tools"]) if "tools" in columns else ()
    return at.conversation(turns, expected=_expected(at, columns.get("expected"), messages), tools=tools)


def _message(at: At, item: object, name: str) -> _Message:
    if not isinstance(item, dict):
        at.fail(f"{name} is {kind_of(item)}", 'expected an object such as {"role": "user", "content": "..."}')
    role_key, content_key = ("role", "content") if "role" in item else ("from", "value")
    calls = _calls(at, item, name)
    for key in (role_key, content_key):
        if key not in item and not (calls and key == content_key):
            present = ", ".join(map(repr, item)) or "none"
            at.fail(f"{name} has no {key!r} (its keys: {present})", "expected role and content, or from and value")
    for key, then in _NOT_HONOURED.items():
        if item.get(key) not in (None, "", 1):
            at.fail(f"{name} has {key!r}, which cannot be honoured", then)
    role = at.checked(item[role_key], f"{role_key!r} of {name}").strip().lower()
    if role not in _ROLES:
        at.fail(f"{name} has the unknown role {role!r}", f"expected one of {', '.join(_ROLES)}")
    if calls and _ROLES[role] != "assistant":
        at.fail(f"{name} calls tools in the role {role!r}", "only the assistant's turns can: mend the role")
    content = item.get(content_key)
    text = "" if calls and content is None else at.checked(content, f"{content_key!r} of {name}")
    if role == "function_call":
        text, calls = "", _calls_of_text(at, text, f"{content_key!r} of {name}")
    return _Message(_turn(at, item, _ROLES[role], text, calls, name), item.get("expected"), name)


def _turn(at: At, item: dict[str, Any], role: Role, text: str, calls: tuple[dict[str, Any], ...], name: str) -> Turn:
    if role != "tool":
        return Turn(role, text, tool_calls=calls)
    return Turn(
        role, text, name=_optional(at, item, "name", name), tool_call_id=_optional(at, item, "tool_call_id", name)
    )


# Calls and descriptions of tools


def _calls(at: At, item: dict[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    """The calls under `tool_calls`, or under `function_call` as older files have a single one."""
    listed = item.get("tool_calls")
    if listed is None:
        older = item.get("function_call")
        return () if older is None else (_call(at, older, f"'function_call' of {name}"),)
    if not isinstance(listed, list):
        at.fail(f"'tool_calls' of {name} is {kind_of(listed)}", f"expected a list of calls such as {_CALL}")
    return tuple(_call(at, call, f"call {number} of {name}") for number, call in enumerate(listed, start=1))


def _calls_of_text(at: At, text: str, name: str) -> tuple[dict[str, Any], ...]:
    value = _parsed(at, text, name)
    calls = value if isinstance(value, list) and value else [value]
    return tuple(_call(at, call, name) for call in calls)


def _call(at: At, value: object, name: str) -> dict[str, Any]:
    """A call in the form that templates expect, with its arguments as an object."""
    inner = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(inner, dict):
        at.fail(f"{name} is {kind_of(inner)}", f"expected a call such as {_CALL}")
    function = _called(at, inner, name)
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(at, arguments, f"'arguments' of {name}") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        at.fail(f"'arguments' of {name} is {kind_of(arguments)}", f"expected a call such as {_CALL}")
    number = _optional(at, value, "id", name)
    called = {"type": "function", "function": {"name": function, "arguments": arguments}}
    return called if number is None else called | {"id": number}


def _tools(at: At, column: str) -> tuple[Tool, ...]:
    """The descriptions in a column: a list of objects, or its JSON text."""
    name = f"column {column!r}"
    value = at.row.get(column)
    if isinstance(value, str):
        value = _parsed(at, value, name) if value.strip() else None
    if value is None:
        return ()
    then = 'expected a list of tools such as {"name": "...", "description": "...", "parameters": {...}}'
    if not isinstance(value, list):
        at.fail(f"{name} is {kind_of(value)}", then)
    tools = []
    for number, tool in enumerate(value, start=1):
        inner = tool.get("function", tool) if isinstance(tool, dict) else tool
        if not isinstance(inner, dict):
            at.fail(f"tool {number} of {name} is {kind_of(inner)}", then)
        _called(at, inner, f"tool {number} of {name}")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(tools)


def _called(at: At, function: dict[str, Any], name: str) -> str:
    called = at.checked(function.get("name"), f"'name' of {name}")
    if not called.strip():
        at.fail(f"'name' of {name} is empty", "expected the name of a tool")
    return called


def _optional(at: At, item: dict[str, Any], key: str, name: str) -> str | None:
    value = item.get(key)
    return None if value is None else at.checked(value, f"{key!r} of {name}")


def _parsed(at: At, text: str, name: str) -> Any:
    start = strict_json.skip_blanks(text, 0)
    value, end = strict_json.parse(f"{at.place}: {name}", text, start)
    if strict_json.skip_blanks(text, end) < len(text):
        at.fail(f"{name} goes on after the end of its JSON", f"expected a single JSON value such as {_CALL}")
    return value


# Order


_FOLLOWERS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant", "call"),
    "assistant": ("user", "call"),
    "call": ("tool", "call"),
    "tool": ("assistant", "call", "tool"),
}
_NAMES = {"system": "the system's", "user": "the user's", "assistant": "the assistant's", "call": "a call of a tool"}
_NAMES |= {"tool": "a tool's"}


def _check_order(at: At, messages: Sequence[_Message]) -> None:
    before = ""
    for number, message in enumerate(messages, start=1):
        says = message.says
        # A call is one turn with the text or calls before it, unless it has a text of its own.
        splits = says == "call" and before in ("assistant", "call") and message.turn.content
        if says not in _FOLLOWERS[before] or splits:
            wanted = _NAMES["user" if before == "" else _FOLLOWERS[before][0]]
            then = (
                "expected a system turn or none, then user and assistant in turn, each call of tools with its results"
            )
            at.fail(f"roles out of order: turn {number} is {_NAMES[says]}, expected {wanted}", then)
        before = says
    roles = [message.turn.role for message in messages]
    if "assistant" not in roles:
        at.fail(f"no assistant turn (its roles: {', '.join(roles)})", "add the answer that is to be learned")
    if before not in ("assistant", "call"):
        at.fail(f"the last turn is {_NAMES[before]}, without an answer", "add the answer or take the turn out")


def _joined(messages: Sequence[_Message]) -> list[_Message]:
    """The messages with each call put to the assistant's turn right before it."""
    joined: list[_Message] = []
    for message in messages:
        if joined and message.says == "call" and joined[-1].turn.role == "assistant":
            earlier = joined[-1]
            turn = replace(earlier.turn, tool_calls=earlier.turn.tool_calls + message.turn.tool_calls)
            expected = message.expected if earlier.expected is None else earlier.expected
            joined[-1] = replace(earlier, turn=turn, expected=expected)
        else:
            joined.append(message)
    return joined


def _numbered(at: At, messages: Sequence[_Message]) -> list[_Message]:
    """The messages with an id for every call, and the id and name of its call for every result."""
    done: list[_Message] = []
    count = 0
    waiting: list[dict[str, Any]] = []
    for message in messages:
        turn = message.turn
        if turn.tool_calls:
            calls = []
            for call in turn.tool_calls:
                count += 1
                calls.append({"id": f"call{count:05d}", **call})
            turn, waiting = replace(turn, tool_calls=tuple(calls)), list(calls)
        elif turn.role == "tool":
            if not waiting:
                at.fail(f"{message.name} is one result more than there are calls", "add the call or take it out")
            call = _call_of(at, waiting, message)
            waiting.remove(call)
            name = turn.name or call["function"]["name"]
            turn = replace(turn, name=name, tool_call_id=call["id"])
        done.append(replace(message, turn=turn))
    return done


def _call_of(at: At, waiting: Sequence[dict[str, Any]], message: _Message) -> dict[str, Any]:
    """The call that a result answers: the one it names, else the first without a result."""
    wanted = message.turn.tool_call_id
    if wanted is None:
        return waiting[0]
    found = next((call for call in waiting if call["id"] == wanted), None)
    if found is None:
        known = ", ".join(repr(call["id"]) for call in waiting)
        at.fail(f"'tool_call_id' of {message.name} is {wanted!r}", f"expected the id of a call before it: {known}")
    return found


def _expected(at: At, column: str | None, messages: Sequence[_Message]) -> tuple[str | None, ...]:
    """Facts per assistant turn, from the row's own column or from the key `expected` of its messages."""
    facts = [message.expected for message in messages if message.turn.role == "assistant"]
    listed = at.row.get(column) if column else None
    if listed is None:
        if all(message.expected is None for message in messages):
            return ()
        listed = facts
    if not isinstance(listed, list) or len(listed) != len(facts):
        what = f"{len(listed)} entries" if isinstance(listed, list) else kind_of(listed)
        at.fail(f"column {column!r} is {what}", f"expected a list with {len(facts)} entries, one an assistant turn")
    return tuple(None if fact is None else at.checked(fact, "an entry of 'expected'") for fact in listed)
