"""The turns of a conversation, and the text that a chat template makes of them.

Does not: find the answers in that text (`template`), turn it into ids (`segments`), check the order of roles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from neuralbot.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant", "tool"]
Tool = dict[str, Any]  # {"type": "function", "function": {"name": ..., "description": ..., "parameters": JSON schema}}

OTHER_TEMPLATE = "give the tokenizer another chat template, or set data.prompt_style to a style by name"


@dataclass(frozen=True)
class Turn:
    """One message. `content` is all of its text; the other fields name parts of it for those who can use them.

    instruction, input: `content` is both, joined by a blank line; a style such as alpaca renders them apart.
    document: the beginning of `content` that may be shortened to make a row fit (an article to be summarized).
    tool_calls: what an assistant's turn calls besides its text, each {"type": "function", "id": ...,
    "function": {"name": ..., "arguments": {...}}}. name, tool_call_id: whose result a tool's turn is.
    """

    role: Role
    content: str
    instruction: str | None = None
    input: str | None = None
    document: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def contents(self) -> tuple[str, ...]:
        """The texts that a template may place apart from each other.

        None where a call has no text beside it, and none where someone else than the model wrote blanks only: of
        those a template may make anything, so they count as its own.
        """
        if self.input is not None:
            return (self.instruction or "", self.input)
        unsaid = not self.content if self.tool_calls else self.role != "assistant" and not self.content.strip()
        return () if unsaid else (self.content,)

    @property
    def shown(self) -> str:
        """The text and the calls of tools, for people."""
        calls = (json.dumps(call["function"], ensure_ascii=False) for call in self.tool_calls)
        return "\n".join((*((self.content,) if self.content else ()), *calls))


def render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Tool] = (),
    arguments_as_text: bool = False,
) -> str:
    """The text of the turns as the chat template writes it, with the opening of the assistant's turn if asked for.

    tools: what the assistant may call. arguments_as_text: the template wants the arguments of calls as JSON texts.
    Raises ModelError if there is no template or it refuses the turns.
    """
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template; call conversation.ensure_chat_template(tokenizer, task)")
    from jinja2 import TemplateError

    messages = [message_of(turn, arguments_as_text) for turn in turns]
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        roles = ", ".join(turn.role for turn in turns)
        raise ModelError(
            f"the chat template refuses these turns ({roles}): {error}; "
            f"leave out the turn that it does not know (often the system turn), or {OTHER_TEMPLATE}"
        ) from error
    return str(text)


def message_of(turn: Turn, arguments_as_text: bool) -> dict[str, Any]:
    """The turn in the form that templates and OpenAI's protocol take."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.input is not None:
        message |= {"instruction": turn.instruction or "", "input": turn.input}
    if turn.tool_calls:
        message["tool_calls"] = [_call(call, arguments_as_text) for call in turn.tool_calls]
    named = {"name": turn.name, "tool_call_id": turn.tool_call_id}
    return message | {key: value for key, value in named.items() if value is not None}


def _call(call: dict[str, Any], arguments_as_text: bool) -> dict[str, Any]:
    if not arguments_as_text:
        return call
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
