"""Token ids -> pieces of text, while they come: nothing is taken back and nothing arrives in halves.

Parts, each testable alone: `Detokenizer` (ids -> settled text), `StopStrings` (holds back what may become a stop
string, cuts at one), `TextMaker`, which joins them for ids pushed in, and `TextStream`, over an iterator of ids. The
joined pieces equal decoding all ids at once and cutting at the first stop string. Pure Python: no tensors, no model, no
tokenizer library; decoding is a function passed in. Special tokens are that function's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Decode = Callable[[list[int]], str]
FinishReason = Literal["stop", "length"]
REPLACEMENT = "\ufffd"  # what decoders put where bytes are no (or not yet) a character
# A text may hold escape sequences, which would move the cursor or rename the window: translate it with these.
NO_CONTROLS = {code: REPLACEMENT for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def byte_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of `<0x00>` ... `<0xFF>` in a vocabulary with byte fallback (Llama 2, Mistral); else empty."""
    vocabulary = tokenizer.get_vocab()
    names = (f"<0x{byte:02X}>" for byte in range(256))
    return frozenset(vocabulary[name] for name in names if name in vocabulary)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """`text` up to where the first of the stop strings begins."""
    starts = [start for start in (text.find(string) for string in stop) if start >= 0]
    return text[: min(starts)] if starts else text


class Detokenizer:
    """Turns ids into text that will not change any more.

    Decoding a window instead of everything keeps the cost per token flat; the window starts with tokens that are
    already out, because decoders treat the first token apart (Llama 2 strips its space).
    """

    def __init__(self, decode: Decode, byte_ids: frozenset[int] = frozenset()) -> None:
        self._decode = decode
        self._byte_ids = byte_ids
        self._window: list[int] = []
        self._known = 0  # leading ids of the window that are out entirely
        self._shown = 0  # leading characters of the window's text that are out
        self._in_run = False  # whether the last token with a text is a byte

    def push(self, token_id: int) -> str:
        """The text that became settled with this token; often empty within a character of several tokens."""
        self._window.append(token_id)
        # A run of byte tokens is read as a whole: one bad byte at its end would change all of it.
        if token_id in self._byte_ids:
            self._in_run = True
            return ""
        text = self._decode(self._window)
        if self._in_run and text == self._decode(self._window[:-1]):
            return ""  # a special token, which the decoder skips: the run may go on behind it
        self._in_run = False
        settled = text.rstrip(REPLACEMENT)
        piece = settled[self._shown :]
        if piece and settled == text:
            self._advance()
        elif piece:
            self._shown = len(settled)
        return piece

    def finish(self) -> str:
        """What is left when no more ids come, incomplete characters as U+FFFD."""
        piece = self._decode(self._window)[self._shown :] if self._window else ""
        self._window, self._known, self._shown = [], 0, 0
        return piece

    def _advance(self) -> None:
        self._window = self._window[self._known :]
        self._known = len(self._window)
        self._shown = len(self._decode(self._window))


class StopStrings:
    """Holds text back while it may be the beginning of a stop string, and cuts at the first one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._reach = max((len(string) for string in stop), default=1) - 1
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The part of what is held and `text` that belongs to the answer for certain."""
        self._held += text
        cut, open_from = len(cut_at_stop(self._held, self._stop)), self._open_from()
        # An unfinished stop string that began earlier decides where the answer ends, so it is waited for.
        self.hit = cut < len(self._held) and cut <= open_from
        piece = self._held[: min(cut, open_from)]
        self._held = "" if self.hit else self._held[len(piece) :]
        return piece

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        piece = cut_at_stop(self._held, self._stop)
        self.hit = self.hit or len(piece) < len(self._held)
        self._held = ""
        return piece

    def _open_from(self) -> int:
        """Where the earliest stop string that the held text could still complete begins."""
        length = len(self._held)
        for start in range(max(0, length - self._reach), length):
            rest = self._held[start:]
            if any(len(rest) < len(string) and string.startswith(rest) for string in self._stop):
                return start
        return length


class TextMaker:
    """Ids pushed in, the text of the answer out: detokenized, without its lead, cut at a stop string.

    `lead` is what the model may write before its answer and is not of it: cut off where it stands. `limit` is how many
    ids may come at most: reaching it makes `finish_reason` "length". It is None until the answer has ended; `stopped`:
    a stop string ended it.
    """

    def __init__(
        self,
        decode: Decode,
        *,
        lead: str = "",
        stop: Sequence[str] = (),
        limit: int | None = None,
        byte_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.token_count = 0
        self.limit = limit
        self._detokenizer = Detokenizer(decode, byte_ids)
        self._lead = lead
        self._head = ""  # text that may still become the lead
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        return self._stop.hit

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; often empty."""
        self.token_count += 1
        piece = self._stop.push(self._without_lead(self._detokenizer.push(token_id)))
        if self._stop.hit:
            self.finish_reason = "stop"
        return piece

    def finish(self) -> str:
        """What is left when no more ids come."""
        piece = self._stop.push(self._without_lead(self._detokenizer.finish(), is_last=True))
        if not self._stop.hit:
            piece += self._stop.finish()
        full = self.limit is not None and self.token_count >= self.limit
        self.finish_reason = "length" if full and not self._stop.hit else "stop"
        return piece

    def _without_lead(self, text: str, *, is_last: bool = False) -> str:
        if not self._lead:
            return text
        self._head += text
        if len(self._head) < len(self._lead) and self._lead.startswith(self._head) and not is_last:
            return ""
        answer = self._head.removeprefix(self._lead)
        self._head = self._lead = ""
        return answer


class TextStream:
    """An iterator of text pieces over an iterator of ids, made by a TextMaker; none of the pieces is empty.

    Closing it closes the iterator of ids, so that an engine can stop working.
    """

    def __init__(
        self,
        ids: Iterable[int],
        decode: Decode,
        *,
        lead: str = "",
        stop: Sequence[str] = (),
        limit: int | None = None,
        byte_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._ids = iter(ids)
        self._maker = TextMaker(decode, lead=lead, stop=stop, limit=limit, byte_ids=byte_ids)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._maker.finish_reason

    @property
    def token_count(self) -> int:
        return self._maker.token_count

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # No generator inside: it would hold `self` in a cycle and keep a dropped stream's key/value cache alive.
        while self.finish_reason is None:
            if piece := self._next_piece():
                return piece
        raise StopIteration

    def close(self) -> None:
        """Ends the stream early and the generation behind it."""
        self._maker.finish_reason = self.finish_reason or "stop"
        if close := getattr(self._ids, "close", None):
            close()

    def _next_piece(self) -> str:
        token_id = next(self._ids, None)
        if token_id is None:
            return self._maker.finish()
        piece = self._maker.push(token_id)
        if self.finish_reason is not None:
            self.close()
        return piece
