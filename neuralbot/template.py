"""The text of a chat template -> segments: what the template wrote, what people wrote, what the model has to write.

Where the contents stand in a text is learned from the template itself. It is rendered with unguessable marks as
contents (`marks`), once per shape of conversation, or once per row where tools are called; the text of each real
conversation is then held against that layout. A template that drops, repeats, reorders or rewrites contents is
refused, with the property that is missing.

Does not: turn text into ids (`segments`), change a template, render images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from neuralbot.errors import DataError, ModelError
from neuralbot.marks import MARK, Marked
from neuralbot.segments import Piece, Segment
from neuralbot.tools import ToolKnowledge
from neuralbot.turns import OTHER_TEMPLATE, Role, Tool, Turn, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Shape = tuple[tuple[Role, bool, str | None], ...]  # of each turn: its role, whether it has an input, its blanks
_Write = Callable[..., str]  # render with the tokenizer, the tools and the form of the arguments given

_MOST_LAYOUTS = 1024

# What templates do to a text; the first that explains what stands there is taken.
_FORMS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text.strip(), ensure_ascii=False)[1:-1],
)


@dataclass(frozen=True)
class Layout:
    """What a template writes around the contents of one shape of conversation.

    literals: its text before, between and after the contents. slots: which text stands between two literals (number).
    cuts: number of a literal -> where in it an answer begins or ends, in turn; the answer's end token belongs to it.
    open_end: whether the last turn is an answer that no end token closes.
    """

    literals: tuple[str, ...]
    slots: tuple[int, ...]
    cuts: dict[int, list[int]]
    open_end: bool


class TemplateReader:
    """Knows where one chat template puts things; grows by a layout per shape of conversation.

    end: the special token that the template writes after the last answer, "" if it writes none.
    lead: the blanks that it writes between the prompt and the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, specials: Sequence[str]) -> None:
        self._layouts: dict[tuple[_Shape, bool], Layout] = {}
        self._specials = specials
        self._any_special = "|".join(map(re.escape, specials)) or "(?!)"
        self._tools: ToolKnowledge | None = None
        write = partial(render, tokenizer)
        marked = Marked((Turn("user", "?"), Turn("assistant", "!")))
        full = write(marked.turns, add_generation_prompt=False)
        _check_marks(full, marked)
        start = _opening(write, marked, 1, full)
        _check_opened(write, marked, full, start)
        before, _, after = full.partition(marked.own[1][0])
        match = re.match(rf"\s*({self._any_special})", after)
        self.end = match[1] if match else ""
        self.lead = before[start:] if before[start:].isspace() else ""

    def segments(
        self,
        tokenizer: PreTrainedTokenizerBase,
        turns: Sequence[Turn],
        tools: Sequence[Tool] = (),
        *,
        add_generation_prompt: bool,
    ) -> tuple[list[Segment], bool]:
        """The rendered turns cut at the answers, and whether the last turn is an answer left without an end token."""
        _check_order(turns)
        write: _Write = partial(render, tokenizer, add_generation_prompt=add_generation_prompt)
        if tools or any(turn.tool_calls or turn.role == "tool" for turn in turns):
            self._tools = self._tools or ToolKnowledge.of(tokenizer)
            self._tools.check(turns, tools)
            write = partial(write, tools=tools, arguments_as_text=self._tools.arguments_as_text)
            return self._segments_with_tools(write, turns, tools)
        text = write(turns)
        contents = [content for turn in turns for content in turn.contents]
        key = (tuple(_shape(turn) for turn in turns), add_generation_prompt)
        layout = self._layouts.get(key)
        placed = _placed(text, layout, contents) if layout else None
        if layout is None or placed is None:  # a new shape, or a template that writes the date
            if len(self._layouts) >= _MOST_LAYOUTS:  # shapes come from outside, too
                self._layouts.clear()
            layout = self._layouts[key] = self._measure(write, Marked(turns))
            placed = _placed(text, layout, contents)
        return _segments(layout, placed, text, contents)

    def _segments_with_tools(
        self, write: _Write, turns: Sequence[Turn], tools: Sequence[Tool]
    ) -> tuple[list[Segment], bool]:
        """`segments` by a layout of its own: calls and descriptions of tools have no common shape."""
        text = write(turns)
        marked = Marked(turns, tools, [special for special in self._specials if special in text])
        layout = self._measure(partial(write, tools=marked.tools), marked)
        contents = list(marked.texts.values())
        return _segments(layout, _placed(text, layout, contents), text, contents)

    def _measure(self, write: _Write, marked: Marked) -> Layout:
        full = write(marked.turns)
        _check_marks(full, marked)
        edges: list[int] = []
        open_end = False
        for place, turn in enumerate(marked.turns):
            if turn.role == "assistant":
                start = _opening(write, marked, place, full)
                stop, closed = self._closing(write, marked, place, full)
                if edges and start < edges[-1]:
                    raise ModelError(_not_preserving(marked, place))
                edges += [start, stop]
                open_end = not closed and place == len(marked.turns) - 1
        return _layout(full, marked, edges, open_end)

    def _closing(self, write: _Write, marked: Marked, place: int, full: str) -> tuple[int, bool]:
        """Where an answer ends, its end token included, and whether it has one."""
        mark = marked.own[place][-1]
        if marked.turns[place].tool_calls:
            return self._closing_of_call(write, marked, place, full, mark)
        at = full.index(mark) + len(mark)
        match = re.compile(rf"\s*{re.escape(self.end)}").match(full, at) if self.end else None
        return (match.end() if match else at), match is not None

    def _closing_of_call(self, write: _Write, marked: Marked, place: int, full: str, mark: str) -> tuple[int, bool]:
        """`_closing` by what stands after the last name that is called, whether or not a result comes next.

        These are the arguments, brackets and tags, and the end token: that of other answers, or one of its own.
        """
        *before, tail = write(marked.turns[: place + 1], add_generation_prompt=False).split(mark)
        end = re.search(rf"{re.escape(self.end)}|({self._any_special})\s*$", tail) if self.end else None
        tail = tail[: end.end(end.lastindex or 0)] if end else tail.rstrip()
        followed = full
        if place == len(marked.turns) - 1:
            result = Turn("tool", "?", name=mark, tool_call_id=marked.turns[place].tool_calls[-1].get("id"))
            followed = write((*marked.turns, result), add_generation_prompt=False)
        if not before or not mark.join(followed.split(mark)[len(before) :]).startswith(tail):
            raise ModelError(_not_preserving(marked, place + 1))
        at = len(mark.join(full.split(mark)[: len(before)])) + len(mark)
        return at + len(tail), end is not None


def _shape(turn: Turn) -> tuple[Role, bool, str | None]:
    return turn.role, turn.input is not None, None if turn.contents else turn.content


# Checks


def _check_order(turns: Sequence[Turn]) -> None:
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if not spoken or spoken[0] != "user":
        roles = ", ".join(turn.role for turn in turns) or "none"
        raise DataError(f"a conversation has to begin with the user's turn (after the system's); its turns: {roles}")


def _check_marks(text: str, marked: Marked) -> None:
    """Each content has to stand in the text once and in order, each name of a called tool at least once."""
    contents: list[str] = []
    for turn, own in zip(marked.turns, marked.own, strict=True):
        count = len(own) - len(turn.tool_calls)
        contents += own[:count]
        if turn.tool_calls and (missing := [mark for mark in own if mark not in text]):
            what = "the text beside a call of a tool" if missing[0] in own[:count] else "a call of a tool"
            raise ModelError(f"the chat template leaves out {what}: take it out of the row, or {OTHER_TEMPLATE}")
    for mark in contents:
        if (times := text.count(mark)) != 1:
            done = f"writes {times} times" if times else "leaves out or rewrites"
            raise ModelError(
                f"the chat template {done} the content of a turn, so answers cannot be found; {OTHER_TEMPLATE}"
            )
    if sorted(contents, key=text.index) != contents:
        raise ModelError(
            f"the chat template changes the order of the turns, so answers cannot be found; {OTHER_TEMPLATE}"
        )


def _opening(write: _Write, marked: Marked, place: int, full: str) -> int:
    """Where the answer of a turn begins: after the text that a model is asked with, which has to begin the full one."""
    prompt = write(marked.turns[:place], add_generation_prompt=True)
    before = [mark for own in marked.own[:place] for mark in own]
    if not full.startswith(prompt) or any(mark not in prompt for mark in before):
        raise ModelError(_not_preserving(marked, place))
    return len(prompt)


def _check_opened(write: _Write, marked: Marked, full: str, start: int) -> None:
    between = full[start : full.index(marked.own[1][0])]
    if between.strip() and full[:start] == write(marked.turns[:1], add_generation_prompt=False):
        raise ModelError(
            f"the chat template does not open the assistant's turn: it ignores add_generation_prompt, but writes "
            f"{between!r} before an answer, which the model would have to write itself; {OTHER_TEMPLATE}"
        )


def _not_preserving(marked: Marked, count: int) -> str:
    answers = sum(turn.role == "assistant" for turn in marked.turns)
    then = "give each answer a row of its own, or " if answers > 1 else ""
    return (
        f"the chat template is not prefix-preserving: what it writes for the first {count} of {len(marked.turns)} "
        "turns is not the beginning of what it writes for all, so training and serving would differ; "
        f"{then}{OTHER_TEMPLATE}"
    )


def _rewritten(text: str, contents: Sequence[str]) -> str:
    changed = [content for content in contents if not any(form(content) in text for form in _FORMS)]
    what = f"the text of a turn ({changed[0][:80]!r})" if changed else "what stands around the turns"
    return (
        f"the chat template changes {what}, more than trimming its ends, so answers cannot be found; "
        f"take out what it reacts to (an empty text, a tag such as </think>), or {OTHER_TEMPLATE}"
    )


# Cutting


def _layout(full: str, marked: Marked, edges: Sequence[int], open_end: bool) -> Layout:
    """The text cut at its marks; `edges` are the places in it where answers begin and end, in turn."""
    numbers = {mark: number for number, mark in enumerate(marked.texts)}
    found = [match for match in MARK.finditer(full) if match[0] in numbers]
    ends = [0, *(match.end() for match in found)]
    starts = [*(match.start() for match in found), len(full)]
    cuts: dict[int, list[int]] = {}
    for edge in edges:
        number = sum(end <= edge for end in ends[1:])
        cuts.setdefault(number, []).append(edge - ends[number])
    literals = tuple(full[end:start] for end, start in zip(ends, starts, strict=True))
    return Layout(literals, tuple(numbers[match[0]] for match in found), cuts, open_end)


def _placed(text: str, layout: Layout, contents: Sequence[str]) -> list[str] | None:
    """The contents as they stand in `text`, or None if it is not the literals with the contents between them."""
    if not text.startswith(layout.literals[0]):
        return None
    at = len(layout.literals[0])
    placed: list[str] = []
    for number, literal in zip(layout.slots, layout.literals[1:], strict=True):
        for form in _FORMS:
            shown = form(contents[number])
            end = at + len(shown)
            if text.startswith(shown, at) and text.startswith(literal, end):
                break
        else:
            return None
        placed.append(shown)
        at = end + len(literal)
    return placed if at == len(text) else None


def _segments(
    layout: Layout, placed: Sequence[str] | None, text: str, contents: Sequence[str]
) -> tuple[list[Segment], bool]:
    if placed is None:
        raise ModelError(_rewritten(text, [contents[number] for number in layout.slots]))
    return _cut(layout, placed), layout.open_end


def _cut(layout: Layout, placed: Sequence[str]) -> list[Segment]:
    """Segments of the text: prompt, answer with its end token, prompt, answer, ..., rest."""
    segments: list[Segment] = []
    pieces: list[Piece] = []
    target = False

    def close() -> None:
        kept = tuple(piece for piece in pieces if piece.text)
        if kept or target:  # an empty answer still has its place
            segments.append(Segment(kept, target))
        pieces.clear()

    for number, literal in enumerate(layout.literals):
        start = 0
        for cut in layout.cuts.get(number, ()):
            pieces.append(Piece(literal[start:cut], by_template=True))
            close()
            start, target = cut, not target
        pieces.append(Piece(literal[start:], by_template=True))
        if number < len(placed):
            pieces.append(Piece(placed[number], by_template=False))
    close()
    return segments
