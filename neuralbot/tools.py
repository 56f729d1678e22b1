"""What a chat template does with tools: found out by trying it, once for each template.

Does not: find calls in a text (`template`), read calls from rows (`data.chats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from neuralbot.errors import ModelError
from neuralbot.turns import OTHER_TEMPLATE, Tool, Turn, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CALLS, _RESULTS, _DESCRIPTIONS = "the calls of the assistant", "the results of tools", "the descriptions of tools"

_ARGUMENTS = {"key": "mark_key"}
_CALL = {"type": "function", "id": "call00001", "function": {"name": "mark_call", "arguments": _ARGUMENTS}}
_TURNS = (
    Turn("user", "?"),
    Turn("assistant", "", tool_calls=(_CALL,)),
    Turn("tool", "mark_result", name="mark_call", tool_call_id="call00001"),
    Turn("assistant", "!"),
)
_SCHEMA = {"type": "object", "properties": {"key": {"type": "string", "description": "a key"}}, "required": ["key"]}
_TOOL = {"type": "function", "function": {"name": "mark_tool", "description": "a tool", "parameters": _SCHEMA}}
_WRITTEN = {_CALLS: "mark_key", _RESULTS: "mark_result", _DESCRIPTIONS: "mark_tool"}


@dataclass(frozen=True)
class ToolKnowledge:
    """arguments_as_text: the template wants the arguments of calls as JSON texts, not as objects.

    missing: what it does not write. reason: what it says itself, if it refuses tools.
    """

    arguments_as_text: bool
    missing: frozenset[str]
    reason: str = ""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Try the template with a call, its result and the description of a tool."""
        reason = ""
        for as_text in (False, True):
            try:
                text = render(tokenizer, _TURNS, tools=[_TOOL], arguments_as_text=as_text, add_generation_prompt=False)
            except ModelError as error:
                reason = reason or f" ({error.__cause__})"
                continue
            if str(_ARGUMENTS) not in text:  # Python's way to write an object: the template took it for a text
                return cls(as_text, frozenset(part for part, mark in _WRITTEN.items() if mark not in text))
        return cls(False, frozenset(_WRITTEN), reason)

    def check(self, turns: Sequence[Turn], tools: Sequence[Tool]) -> None:
        """Raises ModelError if the template leaves out what these turns and tools need."""
        needed = {
            _CALLS: any(turn.tool_calls for turn in turns),
            _RESULTS: any(turn.role == "tool" for turn in turns),
            _DESCRIPTIONS: bool(tools),
        }
        missing = [part for part in needed if needed[part] and part in self.missing]
        if missing:
            raise ModelError(
                f"the chat template cannot render tools: it leaves out {' and '.join(missing)}{self.reason}; "
                f"{OTHER_TEMPLATE} (`chat` knows tools)"
            )
