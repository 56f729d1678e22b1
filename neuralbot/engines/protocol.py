"""What every engine offers: token ids in, token ids out, under one set of sampling values.

The chatbot, the evaluation and the server only know this file, so an engine can be swapped without
touching them. No torch here, and no text: stop strings are carried for the text side (textstream).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from neuralbot.conversation import end_token
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import GenerationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 32768
MAX_STOP_STRINGS = 64
MAX_GRAMMAR = 65536  # characters
GREEDY_BELOW = 1e-5  # dividing logits by less than this overflows; the pick is the largest logit anyway


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked. The defaults change nothing about the model: plain greedy decoding.

    Raises GenerationError for a value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    do_sample: bool = False
    seed: int | None = None  # None: another answer each time
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    num_return_sequences: int = 1
    logprobs: bool = False  # those of the answer's tokens, of streams; see Answer of each engine
    top_logprobs: int = 0  # with logprobs: those of so many of the likeliest tokens at each place
    presence_penalty: float = 0.0  # taken from the logit of a token that the answer holds
    frequency_penalty: float = 0.0  # the same, as often as it does
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to the logits of single tokens
    json_schema: str | None = None  # the answer is JSON of this form
    regex: str | None = None  # the answer matches it as a whole

    def __post_init__(self) -> None:
        _require(_real(self.temperature, 0, 100), "temperature", self.temperature, "a number from 0 to 100")
        _require(_whole(self.top_k, 0), "top_k", self.top_k, "a whole number of at least 0 (0: no limit)")
        _require(_positive(self.top_p, 1), "top_p", self.top_p, "a number above 0 and at most 1")
        _require(
            _positive(self.repetition_penalty, 100),
            "repetition_penalty",
            self.repetition_penalty,
            "a number above 0 and at most 100 (1: no penalty)",
        )
        _require(
            _whole(self.max_new_tokens, 1, MAX_NEW_TOKENS),
            "max_new_tokens",
            self.max_new_tokens,
            f"a whole number from 1 to {MAX_NEW_TOKENS}",
        )
        _require(
            self.seed is None or _whole(self.seed, 0, 2**63 - 1),
            "seed",
            self.seed,
            "None or a whole number from 0 to 2**63 - 1",
        )
        _require(
            isinstance(self.stop, tuple) and all(isinstance(text, str) and text for text in self.stop),
            "stop",
            self.stop,
            "a tuple of strings, none of them empty",
        )
        _require(_whole(self.num_beams, 1, 64), "num_beams", self.num_beams, "a whole number from 1 to 64")
        _require(
            _whole(self.num_return_sequences, 1, 64),
            "num_return_sequences",
            self.num_return_sequences,
            "a whole number from 1 to 64",
        )
        different = self.num_beams if self.num_beams > 1 else 1 if self.greedy else 64
        _require(
            self.num_return_sequences <= different,
            "num_return_sequences",
            self.num_return_sequences,
            f"at most {different} with num_beams={self.num_beams}, do_sample={self.do_sample} and "
            f"temperature={self.temperature}: there are no more different answers",
        )
        _require(
            _are_words(self.bad_words_ids),
            "bad_words_ids",
            self.bad_words_ids,
            "None or a tuple of tuples of token ids",
        )
        _require_openai_values(self)
        _require(len(self.stop) <= MAX_STOP_STRINGS, "stop", f"{len(self.stop)} strings", f"at most {MAX_STOP_STRINGS}")
        _require_grammar(self.json_schema, self.regex)
        formed = self.json_schema is not None or self.regex is not None
        if (formed or self.logprobs) and (self.num_beams > 1 or self.bad_words_ids):
            raise GenerationError("json_schema, regex and logprobs do not go with num_beams above 1 and bad_words_ids")
        changed = self.logit_bias or self.presence_penalty or self.frequency_penalty
        if (self.num_beams > 1 or formed) and (changed or self.top_logprobs):
            raise GenerationError(
                "top_logprobs, logit_bias, presence_penalty and frequency_penalty do not go with num_beams above 1, "
                "json_schema and regex: leave out one of both"
            )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return not self.do_sample or self.temperature < GREEDY_BELOW


class Engine(Protocol):
    """A loaded model that answers prompts; safe to call from several threads at once."""

    tokenizer: PreTrainedTokenizerBase
    context_length: int | None  # tokens of prompt and answer together; None: no limit known

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[int]:
        """One answer's token ids, one by one; the end token is not yielded. Closing the iterator ends the work.

        Raises GenerationError at once (not at the first token) for a prompt or value that cannot be used.
        """
        ...

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        """The answers to several prompts, in their order, `num_return_sequences` to each, side by side.

        The first to each has the ids that `stream` gives, the next those of the next seed; of beams the best is first.
        """
        ...


def end_ids(configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the model's, the tokenizer's, and the one its chat template closes answers with.

    The last one matters: Llama 3 and ChatML models end a turn with a token that is not always their eos.
    """
    ids = [*configured] if isinstance(configured, list) else [configured]
    ids.append(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        ids.append(tokenizer.convert_tokens_to_ids(end_token(tokenizer)))
    return frozenset(token for token in ids if token is not None)


def check_prompt(prompt_ids: Sequence[int], vocabulary: int) -> None:
    """Raises GenerationError for a token that the model does not know."""
    outside = [token for token in prompt_ids if not 0 <= token < vocabulary]
    if outside:
        raise GenerationError(f"prompt token {outside[0]} is outside the model's vocabulary of {vocabulary} tokens")


def token_budget(prompt_length: int, max_new_tokens: int, context_length: int | None) -> int:
    """How many tokens may be generated: `max_new_tokens`, or what the context leaves.

    Raises GenerationError when the prompt is empty or leaves no room for an answer.
    """
    if prompt_length == 0:
        raise GenerationError("the prompt has no tokens: expected at least one; give a question or a start token")
    if context_length is None:
        return max_new_tokens
    if prompt_length >= context_length:
        raise GenerationError(
            f"the prompt has {prompt_length} tokens, but the model reads at most {context_length} (answer included): "
            "shorten the question, the system message or the history",
            code=ErrorCodes.WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH,
        )
    return min(max_new_tokens, context_length - prompt_length)


class TokenBudget:
    """The `token_budget` of one engine, which says the first time that it is less than what was asked for.

    It is no error: max_new_tokens is a limit, often a default, and long conversations come near the end of the context.
    """

    def __init__(self, context_length: int | None) -> None:
        self._context_length = context_length
        self._said = False

    def __call__(self, prompt_length: int, max_new_tokens: int) -> int:
        budget = token_budget(prompt_length, max_new_tokens, self._context_length)
        if budget < max_new_tokens and not self._said:
            self._said = True
            logger.warning(
                "the prompt has %d of the %s tokens that the model reads: its answer has room for %d, not for "
                "max_new_tokens=%d (said once)",
                prompt_length,
                self._context_length,
                budget,
                max_new_tokens,
            )
        return budget


def _require(fine: bool, name: str, value: object, expected: str) -> None:
    if not fine:
        raise GenerationError(f"{name}={value!r} cannot be used: expected {expected}")


def _require_grammar(json_schema: Any, regex: Any) -> None:
    """What is plainly wrong is found here: an engine would only find it while it works on others' answers."""
    _require(json_schema is None or regex is None, "json_schema and regex", "both", "one of them")
    for name, text, read in (("json_schema", json_schema, json.loads), ("regex", regex, re.compile)):
        if text is None:
            continue
        _require(isinstance(text, str) and 0 < len(text) <= MAX_GRAMMAR, name, text, f"1 to {MAX_GRAMMAR} characters")
        try:
            read(text)
        except (ValueError, RecursionError, re.error) as error:
            raise GenerationError(f"{name}={text[:200]!r} cannot be used: {error}") from error


def _require_openai_values(sampling: Sampling) -> None:
    _require(_whole(sampling.top_logprobs, 0, 20), "top_logprobs", sampling.top_logprobs, "a whole number from 0 to 20")
    _require(sampling.logprobs or not sampling.top_logprobs, "top_logprobs", sampling.top_logprobs, "logprobs=True")
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        _require(_real(value, -2, 2), name, value, "a number from -2 to 2")
    fine = all(_whole(token, 0) and _real(bias, -100, 100) for token, bias in sampling.logit_bias)
    _require(fine, "logit_bias", sampling.logit_bias, "pairs of a token id and a number from -100 to 100")


def _real(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _positive(value: Any, most: float) -> bool:
    return _real(value, 0, most) and value > 0


def _whole(value: Any, least: int, most: int = 2**31 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _are_words(words: Any) -> bool:
    if words is None:
        return True
    return isinstance(words, tuple) and all(
        isinstance(word, tuple) and word and all(_whole(token, 0) for token in word) for word in words
    )
