"""The one renderer: turns of a conversation -> text -> token ids and target mask, for training, evaluation and serving.

The text is what the tokenizer's chat template writes, byte for byte. Its ids come from that text, cut where each
answer begins and ends; each cut is a seam that no token crosses. So the ids a model is served with are the beginning
of the ids it was trained on, by construction, and the target mask needs no guess about where tokens end.

Does not: truncate, pad, batch into tensors, choose a style by more than its name or the task.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from neuralbot.errors import ModelError
from neuralbot.prompt_styles import PROMPT_STYLES, STYLE_OF_TASK
from neuralbot.segments import Piece, Segment, SegmentEncoder
from neuralbot.template import TemplateReader
from neuralbot.turns import Role, Tool, Turn, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PROMPT_STYLES",
    "Conversation",
    "Encoded",
    "Role",
    "Tool",
    "Turn",
    "answer_lead",
    "encode",
    "encode_many",
    "encode_prompt",
    "encode_text",
    "end_token",
    "ensure_chat_template",
    "fit_prompt",
    "render",
]


@dataclass(frozen=True)
class Conversation:
    """One row. A single assistant turn alone is plain text: trained whole, no template around it.

    expected: per assistant turn what a scorer looks for in the answer, else empty. tests: python asserts, for code.
    where: the place that the row was read from, for messages. tools: what the assistant may call. group: rows of one
    group are never divided between training and validation; None: rows that ask the same are one.
    """

    turns: tuple[Turn, ...]
    expected: tuple[str | None, ...] = ()
    tests: str | None = None
    where: str = field(default="", compare=False)
    tools: tuple[Tool, ...] = ()
    group: str | None = field(default=None, compare=False)

    @property
    def is_plain_text(self) -> bool:
        return len(self.turns) == 1 and self.turns[0].role == "assistant"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a row, and for each of them whether the model is trained to write it."""

    ids: list[int]
    target_mask: list[bool]


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase, task: str, style: str | None = None) -> str:
    """Make sure that the tokenizer can render chats; returns "tokenizer", or the name of the style that was set.

    style: the name of a prompt style, which replaces a template of the tokenizer's own; None: that template, or the
    style of the task. A style becomes the tokenizer's chat template, so it is saved with it. Raises ModelError for an
    unknown name.
    """
    if tokenizer.chat_template and style is None:
        return "tokenizer"
    name = style or STYLE_OF_TASK.get(task, task)
    if name not in PROMPT_STYLES:
        what = (
            f"there is no prompt style {style!r}"
            if style
            else (
                f"the tokenizer has no chat template, and there is no prompt style for the task {task!r}; "
                f"known tasks: {', '.join(STYLE_OF_TASK)}"
            )
        )
        raise ModelError(f"{what}; known styles: {', '.join(PROMPT_STYLES)}")
    tokenizer.chat_template = ("{{ bos_token }}" if _writes_bos(tokenizer) else "") + PROMPT_STYLES[name]
    return name


def encode(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, *, train_on_inputs: bool = False) -> Encoded:
    """Ids and target mask of one row: each answer with the token that ends it is a target, nothing else.

    train_on_inputs: everything is a target. Raises DataError for turns in a wrong order, ModelError if the chat
    template has a property that makes the answers impossible to find.
    """
    return encode_many(tokenizer, [conversation], train_on_inputs=train_on_inputs)[0]


def encode_many(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], *, train_on_inputs: bool = False
) -> list[Encoded]:
    """`encode` for many rows with one call of the tokenizer; raises as `encode` does."""
    known = _known(tokenizer)
    documents = [_segments(tokenizer, known, conversation) for conversation in conversations]
    encoded = known.encoder.encode(documents)
    rows = []
    for conversation, document, ids in zip(conversations, documents, encoded, strict=True):
        mask = [segment.target or train_on_inputs for segment, part in zip(document, ids, strict=True) for _ in part]
        flat = [index for part in ids for index in part]
        if conversation.is_plain_text and known.writes_bos:
            flat, mask = [tokenizer.bos_token_id, *flat], [train_on_inputs, *mask]
        rows.append(Encoded(flat, mask))
    return rows


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], tools: Sequence[Tool] = (), begun: str = ""
) -> list[int]:
    """Ids of the turns and the opening of the assistant's turn: what a model is asked with.

    begun: how the answer begins, in the template's own words, such as the opening of a call. Without it equal to the
    beginning of `encode`'s ids for the same turns and tools and any answer. Raises as `encode` does.
    """
    known = _known(tokenizer)
    segments, _ = known.template(tokenizer).segments(tokenizer, turns, tools, add_generation_prompt=True)
    if begun:
        segments = [*segments, Segment((Piece(begun, by_template=True),), target=True)]
    return [index for part in known.encoder.encode([segments])[0] for index in part]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that no template surrounds, behind the tokenizer's start token if it writes one.

    Nothing in it becomes a control token. Raises ModelError if the tokenizer offers no way to that.
    """
    known = _known(tokenizer)
    piece = Segment((Piece(text, by_template=False),), target=False)
    start = [tokenizer.bos_token_id] if known.writes_bos else []
    return [*start, *known.encoder.encode([[piece]])[0][0]]


def end_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that closes each answer in training: the template's own (`<|im_end|>`), else the tokenizer's eos.

    Generation has to stop at it. Raises ModelError if there is neither.
    """
    end = (_known(tokenizer).template(tokenizer).end if tokenizer.chat_template else "") or tokenizer.eos_token
    if not end:
        raise ModelError(
            "neither the chat template nor the tokenizer has a token that ends an answer; "
            "set the tokenizer's eos_token, so that answers can come to an end"
        )
    return str(end)


def answer_lead(tokenizer: PreTrainedTokenizerBase) -> str:
    """The blanks that the chat template writes before an answer: a model writes them, but they are not of its answer.

    A style that ends its prompt in "Answer:" and goes on with " text" has one blank.
    """
    return _known(tokenizer).template(tokenizer).lead


def fit_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], max_ids: int) -> tuple[Turn, ...]:
    """The turns with the document of the last one shortened until `encode_prompt` gives at most `max_ids` ids.

    Unchanged if they fit, if there is no document, or if they would not fit even without it.
    """
    *before, last = turns
    count = len(encode_prompt(tokenizer, turns))
    if not last.document or count <= max_ids:
        return tuple(turns)
    frame = len(encode_prompt(tokenizer, [*before, _with_document(last, ".")])) - 1
    share = (max_ids - frame) / (count - frame) if count > frame else 0.0
    while share > 0.01:
        words = last.document[: int(len(last.document) * share)].rsplit(maxsplit=1)
        shorter = (*before, _with_document(last, words[0] if words else ""))
        if shorter[-1].document and len(encode_prompt(tokenizer, shorter)) <= max_ids:
            return shorter
        share *= 0.95
    return tuple(turns)


def _with_document(turn: Turn, document: str) -> Turn:
    return replace(turn, document=document, content=document + turn.content[len(turn.document or "") :])


def _segments(tokenizer: PreTrainedTokenizerBase, known: _Known, conversation: Conversation) -> list[Segment]:
    """The row's segments, with the end token put after the last answer if the template writes none there."""
    if conversation.is_plain_text:
        text = Piece(conversation.turns[0].content, by_template=False)
        return [Segment((text, Piece(str(tokenizer.eos_token or ""), by_template=True)), target=True)]
    segments, open_end = known.template(tokenizer).segments(
        tokenizer, conversation.turns, conversation.tools, add_generation_prompt=False
    )
    if not open_end:
        return segments
    answer = max(place for place, segment in enumerate(segments) if segment.target)
    closed = Segment((*segments[answer].pieces, Piece(end_token(tokenizer), by_template=True)), target=True)
    return [*segments[:answer], closed]


class _Known:
    """What has been learned about one tokenizer in one state; must not refer to it, or it would never be freed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.state = _state(tokenizer)
        self.encoder = SegmentEncoder(tokenizer)
        self.writes_bos = _writes_bos(tokenizer)
        self._template: TemplateReader | None = None

    def template(self, tokenizer: PreTrainedTokenizerBase) -> TemplateReader:
        """The reader of the tokenizer's chat template, made when the first chat is rendered: plain text needs none."""
        if self._template is None:
            self._template = TemplateReader(tokenizer, self.encoder.specials)
        return self._template


_cache: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, _Known] = weakref.WeakKeyDictionary()


def _known(tokenizer: PreTrainedTokenizerBase) -> _Known:
    known = _cache.get(tokenizer)
    if known is None or known.state != _state(tokenizer):
        known = _cache[tokenizer] = _Known(tokenizer)
    return known


def _state(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    """What all that is learned depends on: it is learned anew when any of this changes."""
    # not len(tokenizer): it builds the whole vocabulary, 10 ms a call
    added = len(tokenizer.added_tokens_decoder)
    return (str(tokenizer.chat_template), added, tokenizer.bos_token, tokenizer.eos_token)


def _writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts its start token before a text when it is asked to add special tokens."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
