"""Calls of tools in an answer: how the model's template writes them is learnt from the template itself.

Known are the forms that write a call, or a list of calls, as JSON: between tags (ChatML, Hermes, Qwen), behind a word
(Mistral) or bare (Llama 3).
"""

from __future__ import annotations

import json
import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuralbot.conversation import Tool
from neuralbot.errors import ModelError
from neuralbot.textstream import StopStrings
from neuralbot.tools import ToolKnowledge
from neuralbot.turns import Turn, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME, _ARGUMENTS = "mark_call", {"key": "mark_key"}
_CALL = {"type": "function", "id": "call00001", "function": {"name": _NAME, "arguments": _ARGUMENTS}}


@dataclass(frozen=True)
class CallForm:
    """opening: what stands before the JSON. listed: it is a list of calls. name, arguments: the keys of a call."""

    opening: str
    listed: bool
    name: str
    arguments: str

    def schema(self, tools: Sequence[Tool]) -> str:
        """The JSON schema of a call of one of the tools."""
        calls = [
            {
                "type": "object",
                "properties": {
                    self.name: {"const": tool["function"]["name"]},
                    self.arguments: tool["function"].get("parameters") or {"type": "object"},
                },
                "required": [self.name, self.arguments],
                "additionalProperties": False,
            }
            for tool in tools
        ]
        call = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return json.dumps({"type": "array", "items": call, "minItems": 1} if self.listed else call)

    def read(self, text: str) -> list[dict[str, Any]]:
        """The calls in the text, in OpenAI's form; empty where none can be read."""
        calls: list[dict[str, Any]] = []
        at = 0
        while (start := self._start(text, at)) is not None:
            try:
                value, at = json.JSONDecoder().raw_decode(text, start)
            except (ValueError, RecursionError):
                break
            calls += [call for one in (value if isinstance(value, list) else [value]) if (call := self._call(one))]
        return calls

    def _start(self, text: str, at: int) -> int | None:
        """Where the next JSON begins."""
        if self.opening or at:
            at = text.find(self.opening, at) if self.opening else len(text)
        found = [place for bracket in "{[" if at >= 0 and (place := text.find(bracket, at + len(self.opening))) >= 0]
        return min(found, default=None)

    def _call(self, value: Any) -> dict[str, Any] | None:
        if not isinstance(value, dict) or not isinstance(value.get(self.name), str):
            return None
        arguments = value.get(self.arguments, {})
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function = {"name": value[self.name], "arguments": written}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


class CallReader:
    """Takes an answer apart while it is made: its text, and behind it the calls."""

    def __init__(self, form: CallForm) -> None:
        self._form = form
        self._begin = StopStrings([form.opening or "{"])
        self._all = ""
        self._shown = 0

    def push(self, text: str) -> str:
        """The part of the text that is no call for certain."""
        self._all += text
        piece = "" if self._begin.hit else self._begin.push(text)
        self._shown += len(piece)
        return piece

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """What is left of the text, and the calls; what looks like a call but is none is text."""
        calls = self._form.read(self._all[self._shown :])
        return ("" if calls else self._all[self._shown :]), calls


_forms: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, CallForm]] = weakref.WeakKeyDictionary()


def form_of(tokenizer: PreTrainedTokenizerBase) -> CallForm:
    """How the tokenizer's chat template writes calls. Raises ModelError where it cannot, or not as JSON."""
    known = _forms.get(tokenizer)
    if known is None or known[0] != str(tokenizer.chat_template):
        known = _forms[tokenizer] = str(tokenizer.chat_template), _learn(tokenizer)
    return known[1]


def _learn(tokenizer: PreTrainedTokenizerBase) -> CallForm:
    asked, called = Turn("user", "?"), Turn("assistant", "", tool_calls=(_CALL,))
    knowledge = ToolKnowledge.of(tokenizer)
    knowledge.check([asked, called], ())
    prompt = render(tokenizer, [asked], add_generation_prompt=True)
    text = render(
        tokenizer, [asked, called], add_generation_prompt=False, arguments_as_text=knowledge.arguments_as_text
    )
    tail = text.removeprefix(prompt)
    mark = tail.find(_NAME)
    for start in range(mark):
        if tail[start] in "{[" and (form := _form_at(tail, start, mark)) is not None:
            return form
    raise ModelError("the chat template writes calls of tools in a form that is no JSON: they cannot be read back")


def _form_at(tail: str, start: int, mark: int) -> CallForm | None:
    try:
        value, end = json.JSONDecoder().raw_decode(tail, start)
    except ValueError:
        return None
    listed = isinstance(value, list)
    call = value[0] if listed and value else value
    if end < mark or not isinstance(call, dict):
        return None
    call = call.get("function", call) if isinstance(call.get("function"), dict) else call
    wanted = (_ARGUMENTS, json.dumps(_ARGUMENTS))
    names = [key for key, value in call.items() if value == _NAME]
    arguments = [key for key, value in call.items() if value in wanted]
    if not names or not arguments:
        return None
    return CallForm(tail[:start].strip(), listed, names[0], arguments[0])
