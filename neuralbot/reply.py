"""One answer on its way, how an engine of ids makes it, and the statistics text that neural_chat puts behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from neuralbot.conversation import Turn, answer_lead, encode_prompt, render
from neuralbot.engines.meter import Meter
from neuralbot.engines.protocol import Sampling, token_budget
from neuralbot.textstream import FinishReason, TextStream, byte_token_ids

if TYPE_CHECKING:
    from neuralbot.engines.protocol import Engine
    from neuralbot.neural_chat.config import GenerationConfig


class Pieces(Protocol):
    """An iterator of text pieces that knows why it ended; closing it ends the work behind it."""

    @property
    def finish_reason(self) -> FinishReason | None: ...

    def __next__(self) -> str: ...

    def close(self) -> None: ...


class Reply:
    """One answer on its way: an iterator of text pieces. `meter` has its lengths and times.

    logprobs: those of the answer's tokens, one for each that was read, where `sampling.logprobs` asks for them.
    """

    def __init__(self, pieces: Pieces, meter: Meter, logprobs: list[float] | None = None) -> None:
        self.meter = meter
        self.logprobs = logprobs
        self._pieces = pieces

    @property
    def finish_reason(self) -> FinishReason | None:
        """ "stop" (the model or a stop string ended it) or "length" (max_new_tokens or the context did); else None."""
        return self._pieces.finish_reason

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self.meter.working():
            return next(self._pieces)

    def close(self) -> None:
        """Ends the generation."""
        self._pieces.close()


class EngineReplies:
    """Answers conversations with an engine of token ids: prompt, ids, text. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._byte_ids = byte_token_ids(engine.tokenizer)
        self._lead = answer_lead(engine.tokenizer)
        # Encoding with special tokens as text switches a flag inside the tokenizer: two threads would trip over it.
        self._lock = threading.Lock()

    def reply(self, turns: Sequence[Turn], sampling: Sampling, *, streaming: bool = True) -> Reply:
        """See `Chatbot.reply`."""
        meter = Meter()
        with meter.working():
            prompt = self._encode(turns)
            logprobs = None
            meter.prompt_tokens = len(prompt)
            if sampling.num_beams > 1 and not streaming:
                ids = meter.at_once(self._engine.generate_batch([prompt], replace(sampling, num_return_sequences=1))[0])
            else:
                answer = self._engine.stream(prompt, sampling)
                logprobs = getattr(answer, "logprobs", None) if sampling.logprobs else None
                ids = meter.counted(answer)
            return Reply(self._text(ids, prompt, sampling), meter, logprobs)

    def several(self, turns: Sequence[Turn], sampling: Sampling) -> list[str]:
        """`sampling.num_return_sequences` answers, made side by side; the best beam first."""
        prompt = self._encode(turns)
        answers = self._engine.generate_batch([prompt], sampling)
        return ["".join(self._text(iter(ids), prompt, sampling)) for ids in answers]

    def room(self, turns: Sequence[Turn]) -> int | None:
        """See `Chatbot.room`."""
        context = self._engine.context_length
        return None if context is None else context - len(self._encode(turns))

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text that the model is asked with."""
        return render(self._engine.tokenizer, turns, add_generation_prompt=True)

    def _text(self, ids: Iterator[int], prompt: list[int], sampling: Sampling) -> TextStream:
        limit = token_budget(len(prompt), sampling.max_new_tokens, self._engine.context_length)
        return TextStream(ids, self._decode, lead=self._lead, stop=sampling.stop, limit=limit, byte_ids=self._byte_ids)

    def _encode(self, turns: Sequence[Turn]) -> list[int]:
        with self._lock:
            return encode_prompt(self._engine.tokenizer, turns)

    def _decode(self, ids: list[int]) -> str:
        with self._lock:
            text = self._engine.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def statistics(meter: Meter, config: GenerationConfig | None) -> str:
    """The text neural_chat appends for return_stats; its keys and layout, our true values (times in milliseconds).

    msecond_per_token: the whole time over the tokens of the answer. next_token_latency, which neural_chat had not: the
    mean time of those after the first; of beams, whose tokens all come at the end, there is none.
    """
    if config is None or not config.return_stats:
        return ""
    values = _values(meter)
    if config.format_version == "v1":
        return f"END_OF_STREAM_STATS={json.dumps(values)}"
    rows = [
        (key, "not known" if value is None else str(value) if key.endswith("_len") else f"{value} ms")
        for key, value in values.items()
    ]
    table = [("Key", "Value"), ("-" * 22, "-" * 27), *rows]
    return "\n" + "".join(f"| {key:<22} | {value:<27} |\n" for key, value in table)


def _values(meter: Meter) -> dict[str, float | None]:
    tokens, first, last = meter.completion_tokens, meter.first_token_s, meter.last_token_s
    whole = meter.duration_s * 1000
    later = None
    if tokens and tokens > 1 and first is not None and last is not None and last > first:
        later = (last - first) * 1000 / (tokens - 1)
    return {
        "input_token_len": meter.prompt_tokens,
        "output_token_len": tokens,
        "duration": round(whole),
        "first_token_latency": round(whole if first is None else first * 1000),
        "msecond_per_token": round(whole / tokens, 3) if tokens else None,
        "next_token_latency": None if later is None else round(later, 3),
    }
