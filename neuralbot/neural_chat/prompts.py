"""`PromptTemplate`: a prompt written turn by turn, under ITREX's names for the prompt styles that are here.

A chatbot needs none of it: it writes prompts by the model's own chat template.
"""

from __future__ import annotations

from neuralbot.errors import NeuralbotError
from neuralbot.prompt_styles import PROMPT_STYLES

__all__ = ["PromptTemplate"]

_STYLES: dict[str, str] = {
    "alpaca_without_input": "alpaca",
    "question_answer": "question_answer",
    "summarization": "summarization",
    "magicoder": "code",
    "neural-chat-7b-v2": "chat",
    "neural-chat-7b-v3": "chat",
    "neural-chat-7b-v3-1": "chat",
}


class PromptTemplate:
    """Turns of `roles[0]` (asks) and `roles[1]` (answers; None opens the answer), and the text they make.

    name: one of ITREX's names above, or a prompt style of neuralbot. clear_history: forget the turns once written.
    Raises NeuralbotError for another name.
    """

    roles = ("user", "assistant")

    def __init__(self, name: str = "one_shot", clear_history: bool = False) -> None:
        style = _STYLES.get(name, name)
        if style not in PROMPT_STYLES:
            known = ", ".join(sorted({*_STYLES, *PROMPT_STYLES}))
            raise NeuralbotError(f"PromptTemplate({name!r}) cannot be honoured: expected one of {known}")
        self.clear_history = clear_history
        self._template = PROMPT_STYLES[style]
        self._messages: list[dict[str, str | None]] = []

    def append_message(self, role: str, message: str | None) -> None:
        """Add a turn. Raises NeuralbotError for a role that is not in `roles`."""
        if role not in self.roles:
            raise NeuralbotError(f"append_message({role!r}, ...): expected one of {', '.join(self.roles)}")
        self._messages.append({"role": role, "content": message})

    def get_prompt(self) -> str:
        """The text of the turns, ended answers with </s>."""
        from transformers.utils.chat_template_utils import render_jinja_template

        opens = bool(self._messages) and self._messages[-1]["content"] is None
        turns = self._messages[: -1 if opens else None]
        texts, _ = render_jinja_template(
            [turns], chat_template=self._template, add_generation_prompt=opens, eos_token="</s>"
        )
        if self.clear_history:
            self.clear_messages()
        return str(texts[0])

    def clear_messages(self) -> None:
        self._messages = []
