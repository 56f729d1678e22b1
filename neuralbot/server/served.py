"""The model that is served: prompts to ids, ids to answers on the event loop, ids to text.

Texts are read in a thread of their own, one after the other: a long one must not hold up the streams of others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from neuralbot.chatbot import Chatbot
from neuralbot.conversation import Tool, Turn, answer_lead, encode_prompt, encode_text, end_token
from neuralbot.engines.openvino_engine import OpenVinoEngine
from neuralbot.engines.protocol import Sampling, token_budget
from neuralbot.engines.remote import RemoteEngine
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import GenerationError, UsageError
from neuralbot.server.feed import Feed, listened
from neuralbot.textstream import TextMaker, byte_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.engines.picking import Picked


class Served:
    """names: what clients may call the model. slots: answers at the same time. Raises UsageError for a remote model."""

    def __init__(self, chatbot: Chatbot, names: Sequence[str], slots: int) -> None:
        if isinstance(chatbot.engine, RemoteEngine):
            raise UsageError(f"{names[0]} answers on a server of its own: serve a model of this machine")
        self.chatbot = chatbot
        self.names = tuple(names)
        self.created = int(time.time())
        self.engine = chatbot.engine
        self.tokenizer: PreTrainedTokenizerBase = chatbot.engine.tokenizer
        self._special = frozenset(self.tokenizer.all_special_ids)
        self._byte_ids = byte_token_ids(self.tokenizer)
        self._longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        self._texts = ThreadPoolExecutor(1, "neuralbot-texts")
        self._answers = ThreadPoolExecutor(slots, "neuralbot-answers")

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def has_grammars(self) -> bool:
        """Whether answers can be held to a JSON schema."""
        return isinstance(self.engine, OpenVinoEngine)

    @property
    def alive(self) -> bool:
        """Whether the engine can still answer."""
        return bool(getattr(self.engine, "alive", True))

    @cached_property
    def lead(self) -> str:
        return answer_lead(self.tokenizer)

    def warm_up(self) -> None:
        """Answers once, so that the first client waits no longer than the next. Raises NeuralbotError."""
        prompt = encode_prompt(self.tokenizer, [Turn("user", "?")])
        for _ in self.engine.stream(prompt, replace(self.chatbot.sampling, max_new_tokens=1)):
            pass

    def system_turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns behind the run's own system message, if it has one and they have none."""
        own = self.chatbot.serving.system_prompt
        said = any(turn.role == "system" for turn in turns)
        return [*([Turn("system", own)] if own and not said else []), *turns]

    async def chat_ids(self, turns: Sequence[Turn], tools: Sequence[Tool] = (), begun: str = "") -> list[int]:
        """Ids of a conversation. Raises NeuralbotError for one that the model's template cannot write."""
        self._require_length(sum(len(turn.content) for turn in turns))
        return await self._in_thread(encode_prompt, self.tokenizer, turns, tools, begun)

    async def text_ids(self, text: str) -> list[int]:
        """Ids of a text as it is. Raises NeuralbotError."""
        self._require_length(len(text))
        return await self._in_thread(encode_text, self.tokenizer, text)

    def budget(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """How many ids may come. Raises GenerationError for a prompt that is empty or leaves no room."""
        return token_budget(len(prompt), sampling.max_new_tokens, self.engine.context_length)

    async def start(self, prompt: list[int], sampling: Sampling, arrived: asyncio.Event) -> Feed:
        """An answer on its way; `arrived` is set when it has something. Raises GenerationError."""
        # In a thread: the engine may have to load another one for what it cannot do itself.
        ids = await asyncio.to_thread(self.engine.stream, prompt, sampling)
        return Feed(listened(ids, self._answers), arrived)

    def maker(self, limit: int, stop: Sequence[str] = (), *, lead: str = "", special: bool = False) -> TextMaker:
        """special: control tokens are shown, as a parser of calls needs them."""
        decode = self._decode_all if special else self._decode
        return TextMaker(decode, lead=lead, stop=stop, limit=limit, byte_ids=self._byte_ids)

    def token_text(self, token: int) -> str:
        """One token alone; bytes that are no character as U+FFFD."""
        return self._decode_all([token])

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids that a client gave, control tokens included."""
        return self._decode_all(list(ids))

    @cached_property
    def end_id(self) -> int:
        """The token that ends answers, as TGI's streams show it."""
        return int(self.tokenizer.convert_tokens_to_ids(end_token(self.tokenizer)))

    def is_special(self, token: int) -> bool:
        return token in self._special

    async def prefill(self, prompt: list[int]) -> list[dict[str, Any]]:
        """The tokens of a prompt with their probabilities, in TGI's form. Raises GenerationError."""
        scores = await asyncio.to_thread(self.score, prompt, 0)
        logprobs = [None, *(one.logprob for one in scores)]
        return [
            {"id": token, "text": self.token_text(token), "logprob": logprob}
            for token, logprob in zip(prompt, logprobs, strict=True)
        ]

    def score(self, ids: list[int], top: int) -> list[Picked]:
        """Each id behind the first with its probability, and the `top` likeliest. Raises GenerationError."""
        if len(ids) < 2:
            return []
        engine: Any = self.engine
        found: list[Picked] = engine.score(ids, top)
        return found

    def close(self) -> None:
        self._texts.shutdown(wait=False, cancel_futures=True)
        self._answers.shutdown(wait=False, cancel_futures=True)
        if close := getattr(self.engine, "close", None):
            close()

    def _require_length(self, characters: int) -> None:
        """What cannot fit whatever its tokens are is not read first."""
        context = self.engine.context_length
        if context is not None and characters > context * self._longest:
            raise GenerationError(
                f"the prompt has {characters} characters, but the model reads at most {context} tokens (answer "
                "included): shorten the question, the system message or the history",
                code=ErrorCodes.WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH,
            )

    async def _in_thread(self, encode: object, *arguments: object) -> list[int]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._texts, encode, *arguments)  # type: ignore[arg-type]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _decode_all(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
