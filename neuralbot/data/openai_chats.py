"""Rows of messages: what is wrong with them, and the repairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from neuralbot.data.chats import chat
from neuralbot.data.fields import At
from neuralbot.data.openai_problems import Find, Found, Kind, Note, changed, each, few, name_of, twice
from neuralbot.data.strict_json import Row
from neuralbot.errors import DataError

_ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool", "function")},
    "human": "user", "gpt": "assistant", "bot": "assistant", "ai": "assistant", "developer": "system",
}  # fmt: skip
# Role -> the roles of which one has to stand before it; None: it may be the first.
_BEFORE: dict[str, tuple[str | None, ...]] = {
    "system": (None,), "user": (None, "system", "assistant"), "assistant": ("user", "tool", "function"),
    "tool": ("assistant", "tool"), "function": ("assistant",),
}  # fmt: skip
_ROW_KEYS = ("messages", "tools", "functions", "parallel_tool_calls", "expected")
# `weight` and `reasoning_content` are not read either, but taking them out would change what is learned
_MESSAGE_KEYS = (
    "role", "content", "name", "weight", "reasoning_content", "tool_calls", "tool_call_id", "function_call", "expected",
)  # fmt: skip
_CALLS = ("tool_calls", "function_call")
_LONGEST = 65_000  # characters, about 16,384 tokens


def _chat_key(row: Row) -> Found | None:
    if "messages" in row or "conversations" not in row:
        return None
    renamed = {"messages" if key == "conversations" else key: value for key, value in row.items()}
    return Found("the key 'conversations' is 'messages' in this form", changed(row, renamed))


def _each_message(text: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Find:
    """Rows in which `change` makes another message of one; what is no list of objects is left to `_broken`."""

    def find(row: Row) -> Found | None:
        messages = row.get("messages")
        if not isinstance(messages, list):
            return None
        made = [change(message) if isinstance(message, dict) else message for message in messages]
        turn = next((turn for turn, pair in enumerate(zip(messages, made, strict=True), 1) if pair[0] != pair[1]), 0)
        return Found(f"turn {turn}: {text}", changed(row, row | {"messages": made})) if turn else None

    return each(find)


def _from_value(message: dict[str, Any]) -> dict[str, Any]:
    names = {"from": "role", "value": "content"}
    return {names[key] if key in names and names[key] not in message else key: value for key, value in message.items()}


def _role_name(message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    return message | {"role": _ROLES.get(role.strip().lower(), role)} if isinstance(role, str) else message


def _text_parts(message: dict[str, Any]) -> dict[str, Any]:
    parts = message.get("content")
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    whole = texts and len(texts) == len(parts or ()) and all(isinstance(text, str) for text in texts)
    return message | {"content": "\n".join(map(str, texts))} if whole else message


def _known_keys(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key in _MESSAGE_KEYS}


def _broken(row: Row) -> Found | None:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        what = name_of(messages) if "messages" in row else "missing"
        return Found(f"'messages' is {what}, expected a list of turns with role and content")
    for turn, message in enumerate(messages, start=1):
        if text := _broken_message(message):
            return Found(f"turn {turn}: {text}")
    if all(message["role"] != "assistant" for message in messages):
        return Found("no turn is the assistant's: there is nothing to learn")
    return None


def _broken_message(message: object) -> str | None:
    if not isinstance(message, dict):
        return f"is {name_of(message)}, expected an object with role and content"
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _BEFORE:
        known = ", ".join(_BEFORE)
        return f"the role is {repr(role)[:60]}, expected one of {known}" if "role" in message else "has no role"
    if not isinstance(content, str | None):
        return f"the content is {name_of(content)}, expected a text"
    return None


def _chat_surplus(row: Row) -> Found | None:
    extra = [key for key in row if key not in _ROW_KEYS]
    kept = {key: value for key, value in row.items() if key in _ROW_KEYS}
    return Found(f"other keys than messages: {', '.join(map(repr, extra))}", changed(row, kept)) if extra else None


def _unanswered(row: Row) -> Found | None:
    messages = row["messages"]
    last = max(turn for turn, message in enumerate(messages, start=1) if message["role"] == "assistant")
    if last == len(messages):
        return None
    text = f"nothing is answered after turn {last} of {len(messages)}"
    return Found(text, changed(row, row | {"messages": messages[:last]}))


def _order(row: Row) -> Found | None:
    before: str | None = None
    for turn, message in enumerate(row["messages"], start=1):
        role = message["role"]
        if before not in _BEFORE[role]:
            return Found(f"turn {turn} is the {role}'s, {f'after the {before}' if before else 'the first'}")
        before = role
    return None


def _empty_turn(row: Row) -> Found | None:
    for turn, message in enumerate(row["messages"], start=1):
        if not (message.get("content") or "").strip() and not any(map(message.get, _CALLS)):
            return Found(f"turn {turn}, the {message['role']}'s, is empty")
    return None


def _chat_too_long(row: Row) -> Found | None:
    size = sum(len(message.get("content") or "") for message in row["messages"])
    return Found(f"{size:,} characters, expected at most {_LONGEST:,}") if size > _LONGEST else None


def _untrainable(row: Row) -> Found | None:
    """What training would refuse: it reads the row in the same way."""
    try:
        chat(At("", row), {"turns": "messages", "tools": "tools", "expected": "expected"})
    except DataError as error:
        return Found(str(error).removeprefix(": "))
    return None


def _older_tools(rows: Sequence[Row]) -> str | None:
    count = sum("functions" in row for row in rows)
    then = "training reads 'tools'; data.columns: {tools: functions} makes it read them"
    return f"rows with the older key 'functions': {count}; {then}" if count else None


KINDS = (
    Kind("key of another form", "renamed", each(_chat_key)),
    Kind("from and value", "renamed", _each_message("has from and value for role and content", _from_value)),
    Kind("other name of a role", "renamed", _each_message("has another name for its role", _role_name)),
    Kind("content in parts", "joined", _each_message("its content is a list of texts", _text_parts)),
    Kind("missing or wrong value", None, each(_broken)),
    Kind("other keys", "keys taken out", each(_chat_surplus)),
    Kind("other keys in a turn", "keys taken out", _each_message("has keys that nothing reads", _known_keys)),
    Kind("turns after the last answer", "turns left out", each(_unanswered)),
    Kind("roles out of order", None, each(_order)),
    Kind("empty turn", "row left out", each(_empty_turn)),
    Kind("refused by training", None, each(_untrainable)),
    Kind("row stands twice", "row left out", twice),
    Kind("row too long", "row left out", each(_chat_too_long)),
)
NOTES: tuple[Note, ...] = (few, _older_tools)
