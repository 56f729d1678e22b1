"""Turns with unguessable marks in the place of people's texts: where the marks come out is where the texts come out.

The text of every turn is marked, and the name of every tool that is called, so that each call can be found. Of the
other strings in calls and in descriptions of tools only those are marked that could be taken for a control token of
the tokenizer, alone or joined to what stands beside them: a template may look at the rest (`type`, `required`).

Does not: render.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neuralbot.turns import Tool, Turn

MARK = re.compile("nb[0-9a-f]{32}")


class Marked:
    """The turns and tools with marks in them.

    texts: mark -> what stands in its place. own: for each turn the marks of its contents and of the names it calls,
    in order; no other turn has them. controls: the control tokens that a text could be taken for.
    """

    def __init__(self, turns: Sequence[Turn], tools: Sequence[Tool] = (), controls: Sequence[str] = ()) -> None:
        self.texts: dict[str, str] = {}
        self.own: list[list[str]] = []
        self._controls = controls
        self._shared: dict[str, str] = {}
        self.tools = tuple(self._within(tool) for tool in tools)
        self.turns = tuple(self._turn(turn) for turn in turns)

    def _turn(self, turn: Turn) -> Turn:
        own = [self._mark(text) for text in turn.contents]
        calls = []
        for call in turn.tool_calls:
            own.append(self._mark(call["function"]["name"]))
            function = call["function"] | {"name": own[-1], "arguments": self._within(call["function"]["arguments"])}
            calls.append(call | {"function": function} | ({"id": self._within(call["id"])} if "id" in call else {}))
        self.own.append(own)
        rest = {"tool_calls": tuple(calls), "name": self._within(turn.name)}
        rest |= {"tool_call_id": self._within(turn.tool_call_id)}
        if turn.input is not None:
            return replace(turn, content="\n\n".join(own), instruction=own[0], input=own[1], document=None, **rest)
        return replace(turn, content=own[0] if turn.contents else turn.content, document=None, **rest)

    def _mark(self, text: str) -> str:
        mark = f"nb{secrets.token_hex(16)}"
        self.texts[mark] = text
        return mark

    def _within(self, value: Any) -> Any:
        """The value with marks for strings that could be control tokens; equal strings get one mark."""
        if isinstance(value, dict):
            return {self._within(key): self._within(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._within(inner) for inner in value]
        if not isinstance(value, str) or not self._is_risky(value):
            return value
        if value not in self._shared:
            self._shared[value] = self._mark(value)
        return self._shared[value]

    def _is_risky(self, text: str) -> bool:
        return any(_overlaps(form, control) for form in {text, text.strip()} - {""} for control in self._controls)


def _overlaps(text: str, control: str) -> bool:
    """Whether something put before and after the text could make a control token of it, or of a part of it."""
    if control in text or text in control:
        return True
    cuts = range(1, len(control))
    return any(text.endswith(control[:cut]) or text.startswith(control[cut:]) for cut in cuts)
