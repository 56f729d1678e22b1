"""Turns -> the text of a chat template, and that text -> segments: what the template wrote, what people wrote.

Where the contents stand in a text is learned from the template itself. It is rendered once per shape of conversation
with unguessable marks as contents; the text of each real conversation is then held against that layout. A template
that drops, repeats, reorders or rewrites contents is refused, with the property that is missing.

Does not: turn text into ids (`segments`), change a template, render tools or images.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from neuralbot.errors import DataError, ModelError
from neuralbot.segments import Piece, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]
_Shape = tuple[tuple[Role, bool], ...]  # of each turn: its role, and whether it has an input of its own

_OTHER = "give the tokenizer another chat template"

# What templates do to the ends of a content; the first that explains the text is taken.
_TRIMS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
)


@dataclass(frozen=True)
class Turn:
    """One message. `content` is all of it; the other fields name parts of it for those who can use them.

    instruction, input: `content` is both, joined by a blank line; a style such as alpaca renders them apart.
    document: the beginning of `content` that may be shortened to make a row fit (an article to be summarized).
    """

    role: Role
    content: str
    instruction: str | None = None
    input: str | None = None
    document: str | None = None

    @property
    def contents(self) -> tuple[str, ...]:
        """The texts that a template may place apart from each other."""
        return (self.content,) if self.input is None else (self.instruction or "", self.input)


@dataclass(frozen=True)
class Layout:
    """What a template writes around the contents of one shape of conversation.

    literals: its text before, between and after the contents. openings: for each content that is an answer, how much
    of the literal before it belongs to the prompt (characters). closings: for each of them, how much of the literal
    after it belongs to the answer: its end token, and blanks before that.
    """

    literals: tuple[str, ...]
    openings: dict[int, int]
    closings: dict[int, int]


class TemplateReader:
    """Knows where one chat template puts things; grows by a layout per shape of conversation.

    end: the special token that the template writes after the last answer, "" if it writes none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special_pattern: str) -> None:
        self._layouts: dict[tuple[_Shape, bool], Layout] = {}
        turns, marks = _marked((("user", False), ("assistant", False)))
        tail = _literals(render(tokenizer, turns, add_generation_prompt=False), marks)[-1]
        match = re.match(rf"\s*({special_pattern})", tail)
        self.end = match[1] if match else ""

    def segments(
        self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, add_generation_prompt: bool
    ) -> tuple[list[Segment], bool]:
        """The rendered turns cut at the answers, and whether the last turn is an answer left without an end token."""
        _check_order(turns)
        text = render(tokenizer, turns, add_generation_prompt=add_generation_prompt)
        contents = [content for turn in turns for content in turn.contents]
        key = (tuple((turn.role, turn.input is not None) for turn in turns), add_generation_prompt)
        layout = self._layouts.get(key)
        placed = _placed(text, layout.literals, contents) if layout else None
        if layout is None or placed is None:  # a new shape, or a template that writes the date
            layout = self._layouts[key] = self._measure(tokenizer, *key)
            placed = _placed(text, layout.literals, contents)
        if placed is None:
            raise ModelError(_rewritten(text, contents))
        open_end = turns[-1].role == "assistant" and not layout.closings[len(contents) - 1]
        return _cut(layout, placed), open_end

    def _measure(self, tokenizer: PreTrainedTokenizerBase, shape: _Shape, add_generation_prompt: bool) -> Layout:
        turns, marks = _marked(shape)
        full = render(tokenizer, turns, add_generation_prompt=add_generation_prompt)
        literals = _literals(full, marks)
        openings: dict[int, int] = {}
        closings: dict[int, int] = {}
        slot = 0
        for place, turn in enumerate(turns):
            if turn.role == "assistant":
                start = full.index(marks[slot]) - len(literals[slot])
                openings[slot] = len(_prompt(tokenizer, turns[:place], full, marks[slot])) - start
                closings[slot] = self._closing(literals[slot + 1])
                if not closings.get(slot - 1, 0) <= openings[slot] <= len(literals[slot]):
                    raise ModelError(_not_preserving(turns[:place]))
            slot += len(turn.contents)
        return Layout(literals, openings, closings)

    def _closing(self, literal: str) -> int:
        match = re.match(rf"\s*{re.escape(self.end)}", literal) if self.end else None
        return match.end() if match else 0


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
    """The text of the turns as the chat template writes it, with the opening of the assistant's turn if asked for.

    Raises ModelError if there is no template or it refuses the turns.
    """
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template; call conversation.ensure_chat_template(tokenizer, task)")
    from jinja2 import TemplateError

    messages = [_message(turn) for turn in turns]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        roles = ", ".join(turn.role for turn in turns)
        raise ModelError(
            f"the chat template refuses these turns ({roles}): {error}; "
            f"leave out the turn that it does not know (often the system turn), or {_OTHER}"
        ) from error
    return str(text)


def _message(turn: Turn) -> dict[str, str]:
    message = {"role": turn.role, "content": turn.content}
    return message if turn.input is None else message | {"instruction": turn.instruction or "", "input": turn.input}


def _check_order(turns: Sequence[Turn]) -> None:
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if not spoken or spoken[0] != "user":
        roles = ", ".join(turn.role for turn in turns) or "none"
        raise DataError(f"a conversation has to begin with the user's turn (after the system's); its turns: {roles}")


def _marked(shape: _Shape) -> tuple[list[Turn], list[str]]:
    """Turns of this shape with a mark as each content, and the marks."""
    turns, marks = [], []
    for role, has_input in shape:
        first, second = (f"nb{secrets.token_hex(16)}" for _ in range(2))
        marks += [first, second] if has_input else [first]
        turns.append(Turn(role, f"{first}\n\n{second}", first, second) if has_input else Turn(role, first))
    return turns, marks


def _literals(text: str, marks: Sequence[str]) -> tuple[str, ...]:
    """The text before, between and after the marks, each of which has to stand in it once and in order."""
    for mark in marks:
        if (count := text.count(mark)) != 1:
            done = f"writes {count} times" if count else "leaves out or rewrites"
            raise ModelError(f"the chat template {done} the content of a turn, so answers cannot be found; {_OTHER}")
    if sorted(marks, key=text.index) != list(marks):
        raise ModelError(f"the chat template changes the order of the turns, so answers cannot be found; {_OTHER}")
    return tuple(re.split("|".join(marks), text))


def _prompt(tokenizer: PreTrainedTokenizerBase, before: Sequence[Turn], full: str, mark: str) -> str:
    """The text that a model is asked with before the answer at `mark`: has to be the beginning of the full text."""
    prompt = render(tokenizer, before, add_generation_prompt=True)
    if not full.startswith(prompt):
        raise ModelError(_not_preserving(before))
    between = full[len(prompt) : full.index(mark)]
    if between.strip() and prompt == render(tokenizer, before, add_generation_prompt=False):
        raise ModelError(
            f"the chat template does not open the assistant's turn: it ignores add_generation_prompt, but writes "
            f"{between!r} before an answer, which the model would have to write itself; {_OTHER}"
        )
    return prompt


def _not_preserving(before: Sequence[Turn]) -> str:
    return (
        f"the chat template is not prefix-preserving: what it writes as the prompt of {len(before)} turns is not the "
        f"beginning of what it writes when the answer follows, so training and serving would differ; {_OTHER}"
    )


def _placed(text: str, literals: Sequence[str], contents: Sequence[str]) -> list[str] | None:
    """The contents as they stand in `text`, or None if it is not the literals with the contents between them."""
    if not text.startswith(literals[0]):
        return None
    at = len(literals[0])
    placed: list[str] = []
    for content, literal in zip(contents, literals[1:], strict=True):
        for trim in _TRIMS:
            shown = trim(content)
            end = at + len(shown)
            if text.startswith(shown, at) and text.startswith(literal, end):
                break
        else:
            return None
        placed.append(shown)
        at = end + len(literal)
    return placed if at == len(text) else None


def _rewritten(text: str, contents: Sequence[str]) -> str:
    changed = [content for content in contents if content.strip() not in text]
    what = f"the text of a turn ({changed[0][:80]!r})" if changed else "what stands around the turns"
    return (
        f"the chat template changes {what}, more than trimming its ends, so answers cannot be found; "
        f"take out what it reacts to (an empty text, a tag such as </think>), or {_OTHER}"
    )


def _cut(layout: Layout, placed: Sequence[str]) -> list[Segment]:
    """Segments of the text: prompt, answer with its end token, prompt, answer, ..., rest."""
    segments: list[Segment] = []
    pieces: list[Piece] = []

    def close(*, target: bool) -> None:
        kept = tuple(piece for piece in pieces if piece.text)
        if kept or target:  # an empty answer still has its place
            segments.append(Segment(kept, target))
        pieces.clear()

    for slot, literal in enumerate(layout.literals):
        start = 0
        if slot - 1 in layout.closings:
            start = layout.closings[slot - 1]
            pieces.append(Piece(literal[:start], by_template=True))
            close(target=True)
        if slot in layout.openings:
            pieces.append(Piece(literal[start : layout.openings[slot]], by_template=True))
            close(target=False)
            start = layout.openings[slot]
        pieces.append(Piece(literal[start:], by_template=True))
        if slot < len(placed):
            pieces.append(Piece(placed[slot], by_template=False))
    close(target=False)
    return segments
