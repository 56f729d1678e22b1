"""One answer on its way, and the statistics text that neural_chat puts behind an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralbot.neural_chat.config import GenerationConfig
    from neuralbot.textstream import TextStream


class Reply:
    """One answer on its way: an iterator of text pieces. Lengths are in tokens; times are in seconds, as measured."""

    def __init__(self, pieces: TextStream, prompt_tokens: int, started: float) -> None:
        self.prompt_tokens = prompt_tokens
        self.first_piece_s: float | None = None
        self.duration_s = 0.0
        self._pieces = pieces
        self._started = started

    @property
    def finish_reason(self) -> str | None:
        """ "stop" (the model or a stop string ended it) or "length" (max_new_tokens or the context did); else None."""
        return self._pieces.finish_reason

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, without the end token."""
        return self._pieces.token_count

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        finally:
            self.duration_s = time.perf_counter() - self._started
        if self.first_piece_s is None:
            self.first_piece_s = self.duration_s
        return piece

    def close(self) -> None:
        """Ends the generation."""
        self._pieces.close()


def statistics(reply: Reply, config: GenerationConfig | None) -> str:
    """The text neural_chat appends for return_stats; its keys and layout, our true values (times in milliseconds)."""
    if config is None or not config.return_stats:
        return ""
    values = {
        "input_token_len": reply.prompt_tokens,
        "output_token_len": reply.completion_tokens,
        "duration": round(reply.duration_s * 1000),
        "first_token_latency": round((reply.first_piece_s or reply.duration_s) * 1000),
        "msecond_per_token": round(reply.duration_s * 1000 / max(reply.completion_tokens, 1), 3),
    }
    if config.format_version == "v1":
        return f"END_OF_STREAM_STATS={json.dumps(values)}"
    rows = [(key, str(value) if key.endswith("_len") else f"{value} ms") for key, value in values.items()]
    table = [("Key", "Value"), ("-" * 22, "-" * 27), *rows]
    return "\n" + "".join(f"| {key:<22} | {value:<27} |\n" for key, value in table)
