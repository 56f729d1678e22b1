"""Text with known seams -> token ids, one list a segment, so that no token ever crosses a seam.

Why apart from `conversation`: what a template writes is a matter of text, what a tokenizer makes of it is not. Two
things are settled here. A segment that starts in the middle of a text gets no prefix space (tokenizers of the
SentencePiece family write one in front of every text they are handed). And only what the template wrote may become a
control token: the same string in a user's text stays text.

Does not: render, know roles, or touch the tokenizer it is given (it works on private copies, so threads may share it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from neuralbot.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Put before a segment and cut off again; the first that leaves the segment's own tokens whole is taken.
_ANCHORS = ("\n", ".", "a", "0")
_PROBE = "a b"


@dataclass(frozen=True)
class Piece:
    """A stretch of text, and whether the template wrote it (else it is somebody's content)."""

    text: str
    by_template: bool


@dataclass(frozen=True)
class Segment:
    """Pieces that are encoded together; `target`: the model is trained to write them."""

    pieces: tuple[Piece, ...]
    target: bool

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class _Left:
    """What stands before a segment: nothing, a control token (and blanks that it swallows), or running text."""

    start: bool = False
    control: str = ""


_START, _RUNNING = _Left(start=True), _Left()


class SegmentEncoder:
    """Encodes the segments of documents with one tokenizer; holds private copies of its backend.

    specials: the strings of its control tokens, the longest first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} has no fast form; a tokenizer.json is needed: "
                "load it with transformers' AutoTokenizer and save it once, or choose another tokenizer"
            )
        self._saved = backend.to_str()
        self._plain = _copy(self._saved, split_special=False)
        named = set(tokenizer.all_special_tokens)
        tokens = tokenizer.added_tokens_decoder.items()
        added = {index: token for index, token in tokens if token.special or token.content in named}
        self._ids = {token.content: index for index, token in added.items()}
        self._names: dict[int, str] = {index: token.content for index, token in added.items()}
        self._unknown = tokenizer.unk_token_id
        self._swallow_right = {token.content for token in added.values() if token.rstrip}
        self._swallow_left = {token.content for token in added.values() if token.lstrip}
        self.specials = tuple(sorted(self._ids, key=len, reverse=True))
        self.special_pattern = re.compile("|".join(map(re.escape, self.specials)) or r"(?!)")
        self._known: dict[str, list[int]] = {}
        self._specials_of = lru_cache(maxsize=4096)(self._find_specials)  # few pieces, but for descriptions of tools

    def encode(self, documents: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """Ids of each segment of each document; joined, they decode to the document's text.

        Raises ModelError if the tokenizer turns plain text into a control token and offers no way round it.
        """
        lefts = [left for document in documents for left in self._lefts(document)]
        segments = [segment for document in documents for segment in document]
        found = iter(
            ids if self._specials_in(ids) == self._written_specials(segment) else self._encode_apart(segment, left)
            for segment, left, ids in zip(segments, lefts, self._encode_joint(segments, lefts), strict=True)
        )
        return [[next(found) for _ in document] for document in documents]

    def encode_apart(self, document: Sequence[Segment]) -> list[list[int]]:
        """The slow twin of `encode` for one document: control tokens are placed by hand, all else is split text."""
        pairs = zip(document, self._lefts(document), strict=True)
        return [self._encode_apart(segment, left) for segment, left in pairs]

    def _lefts(self, document: Sequence[Segment]) -> Iterable[_Left]:
        left = _START
        for segment in document:
            yield left
            left = self._left_after(segment) if segment.pieces else left

    def _left_after(self, segment: Segment) -> _Left:
        last = segment.pieces[-1]
        *_, match = [None, *self.special_pattern.finditer(last.text)] if last.by_template else [None]
        if match is None:
            return _RUNNING
        blanks = last.text[match.end() :]
        swallowed = blanks.isspace() and match.group() in self._swallow_right
        return _Left(control=match.group() + blanks) if not blanks or swallowed else _RUNNING

    # The fast way: each segment in one call, as the tokenizer itself would read it.

    def _encode_joint(self, segments: Sequence[Segment], lefts: Sequence[_Left]) -> list[list[int]]:
        before = ["" if left.start or not self._needs_left else left.control or _ANCHORS[0] for left in lefts]
        texts = [segment.text for segment in segments]
        rows = _ids(self._plain, [anchor + text for anchor, text in zip(before, texts, strict=True)])
        return [
            self._cut(ids, anchor, text, self._plain) for ids, anchor, text in zip(rows, before, texts, strict=True)
        ]

    def _cut(self, ids: list[int], anchor: str, text: str, backend: Tokenizer) -> list[int]:
        """`ids` of anchor + text without the anchor's; another anchor where a token reaches over its end."""
        for other in (anchor, *_ANCHORS):
            row = ids if other is anchor else _ids(backend, [other + text])[0]
            head = self._ids_of(other)
            if row[: len(head)] == head:
                return row[len(head) :]
        return _ids(backend, [text])[0]

    def _ids_of(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = _ids(self._plain, [text])[0]
        return self._known[text]

    @cached_property
    def _needs_left(self) -> bool:
        """Whether the ids of a text depend on its standing first: a prefix space, or a token that swallows blanks."""
        alone, after = self._ids_of(_PROBE), self._ids_of(_ANCHORS[0] + _PROBE)
        return bool(self._swallow_right) or self._ids_of(_ANCHORS[0]) + alone != after

    # The slow way, for texts that hold the string of a control token.

    def _encode_apart(self, segment: Segment, left: _Left) -> list[int]:
        ids: list[int] = []
        chunks = self._chunks(segment)
        for place, chunk in enumerate(chunks):
            if isinstance(chunk, int):
                ids.append(chunk)
                left = _Left(control=self._names[chunk])
                continue
            text = self._swallowed(chunk, left, chunks[place + 1] if place + 1 < len(chunks) else None)
            if text:
                ids += self._plain_text(text, left)
            left = _RUNNING
        return ids

    def _chunks(self, segment: Segment) -> list[str | int]:
        """Runs of text, and between them the ids of the control tokens that the template wrote."""
        chunks: list[str | int] = [""]
        for piece in segment.pieces:
            at = 0
            for match in self.special_pattern.finditer(piece.text) if piece.by_template else ():
                chunks[-1] = f"{chunks[-1]}{piece.text[at : match.start()]}"
                chunks += [self._ids[match.group()], ""]
                at = match.end()
            chunks[-1] = f"{chunks[-1]}{piece.text[at:]}"
        return [chunk for chunk in chunks if chunk != ""]

    def _swallowed(self, text: str, left: _Left, following: str | int | None) -> str:
        if left.control.rstrip() in self._swallow_right:
            text = text.lstrip()
        if isinstance(following, int) and self._names[following] in self._swallow_left:
            text = text.rstrip()
        return text

    def _plain_text(self, text: str, left: _Left) -> list[int]:
        whole = left.start or not self._needs_left or (bool(left.control) and self._prefix_after_control)
        anchor = "" if whole else _ANCHORS[0]
        ids = self._cut(_ids(self._splitting, [anchor + text])[0], anchor, text, self._splitting)
        # The unknown token is written by the tokenizer itself, for any text that it cannot spell.
        if controls := set(self._specials_in(ids)) - {self._unknown}:
            names = sorted(self._names[index] for index in controls)
            raise ModelError(
                f"this tokenizer reads {', '.join(names)} in a plain text as control tokens, even when told not to; "
                f"take them out of the text, or choose another tokenizer. The text: {text[:80]!r}"
            )
        return ids

    @cached_property
    def _splitting(self) -> Tokenizer:
        return _copy(self._saved, split_special=True)

    @cached_property
    def _prefix_after_control(self) -> bool:
        control = next((name for name in self._ids if name not in self._swallow_right), "")
        return bool(control) and self._ids_of(control + _PROBE)[1:] == self._ids_of(_PROBE)

    def _written_specials(self, segment: Segment) -> list[int]:
        """Ids of the special tokens that the template wrote into the segment, in order."""
        return [index for piece in segment.pieces if piece.by_template for index in self._specials_of(piece.text)]

    def _find_specials(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids[match.group()] for match in self.special_pattern.finditer(text))

    def _specials_in(self, ids: Iterable[int]) -> list[int]:
        return [index for index in ids if index in self._names]


def _copy(saved: str, *, split_special: bool) -> Tokenizer:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(saved)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = split_special
    return backend


def _ids(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
