"""The saved run, read back by the chatbot, beside the model that was trained: losses, answers, prompts, a request.

On the torch engine, also where another would answer: it tells losses, and a trial leaves no export behind.

Answers are greedy. In float32 both models answer alike. Serving adds the adapter to its base and rounds the sum to
bfloat16, and an adapter of a base of 8 or 4 bits is served on the whole base: then two answers may part where two
tokens are about as likely, and the loss may be another. How much of both is allowed stands in `Allowed`.
"""

from __future__ import annotations

import difflib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neuralbot.chatbot import Chatbot, build_chatbot
from neuralbot.conversation import Encoded, Turn, encode
from neuralbot.engines.protocol import Engine, Sampling
from neuralbot.engines.remote import RemoteEngine
from neuralbot.errors import TrialFailed
from neuralbot.evaluation import likelihood
from neuralbot.neural_chat.config import PipelineConfig
from neuralbot.textstream import NO_CONTROLS
from neuralbot.trial.rows import ROWS, TrialRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.finetune import Prepared

ANSWER_TOKENS = 32  # of a large model each takes a second
KNOWN = 0.2  # the loss of a row whose answer has to come back: its tokens have 80 % and more
ALIKE = 0.5  # so much of the answer has to be the row's
_SHOWN = 60  # characters of a text


@dataclass(frozen=True)
class Allowed:
    """loss: by what share it may differ; losses near 0 by that share of `_NEAR_0`, too.

    tie: nats by which a model may prefer its own token where answers part.
    """

    loss: float
    tie: float
    because: str


_NEAR_0 = 0.4
_EXACT = Allowed(0.005, 0.01, "rounding")
_ROUNDED = Allowed(0.05, 0.5, "rounding to bfloat16")
_QUANTIZED = {
    8: Allowed(0.12, 0.7, "training on 8 bits and serving on the whole base"),
    4: Allowed(0.40, 1.5, "training on 4 bits and serving on the whole base"),
}


@dataclass(frozen=True)
class Said:
    """The mean loss of all targets, that of each row, and the ids with which each prompt was answered."""

    loss: float
    losses: list[float]
    answers: list[list[int]]
    seconds: float  # for answering

    @property
    def tokens_per_s(self) -> float:
        """Of the answers, end tokens included."""
        return sum(len(answer) + 1 for answer in self.answers) / max(self.seconds, 1e-3)


def ask(engine: Engine, rows: Sequence[TrialRow]) -> Said:
    """Losses and greedy answers; the prompts are the beginnings of the trained ids."""
    found = likelihood.of_engine(engine, [row.encoded for row in rows], ROWS)
    start = time.monotonic()
    answers = engine.generate_batch([row.prompt for row in rows], Sampling(max_new_tokens=ANSWER_TOKENS))
    return Said(
        loss=-sum(one.log_probability for one in found) / sum(one.targets for one in found),
        losses=[-one.log_probability / one.targets for one in found],
        answers=answers,
        seconds=time.monotonic() - start,
    )


class ReadBack:
    """The run in `place`, read by a chatbot, and what it says of the rows.

    Raises ModelError. The checks return what they saw, or raise TrialFailed with what is wrong.
    """

    def __init__(self, place: Path, prepared: Prepared, rows: Sequence[TrialRow]) -> None:
        loaded = build_chatbot(PipelineConfig(str(place), engine="torch"))
        assert not isinstance(loaded.engine, RemoteEngine)
        self._engine, self._listener = loaded.engine, Listener(loaded.engine)
        self._chatbot = Chatbot(self._listener, loaded.serving, name="the run")
        self._rows = rows
        self._whole = [row for row in rows if _is_whole(row, prepared.tokenizer)]
        self._allowed = _allowed(prepared, self._engine)
        self.said = ask(self._engine, rows)

    def losses(self, trained: Said) -> str:
        """Whether it knows as much of the rows as the model that was trained."""
        said = f"loss {self.said.loss:.3f}, as trained {trained.loss:.3f}"
        if abs(self.said.loss - trained.loss) > self._allowed.loss * (trained.loss + _NEAR_0):
            raise TrialFailed(
                f"{said}: more than {self._allowed.because} explains; what is read back is not what was trained, and "
                "a whole run would be lost like that: please report it with the recipe"
            )
        return said

    def answers(self, trained: Said) -> str:
        """Whether the answers are the same, or part where two tokens are about as likely."""
        parted = []
        for row, mine, other in zip(self._rows, self.said.answers, trained.answers, strict=True):
            if mine != other:
                parted.append(_preference(self._engine, row.prompt, mine, other))
        same = len(self._rows) - len(parted)
        said = f"{same} of {len(self._rows)} greedy answers the same, token by token"
        if parted and max(parted) > self._allowed.tie:
            raise TrialFailed(
                f"{said}; one parts where the model read back prefers its own token by {max(parted):.2f} nats, more "
                f"than {self._allowed.because} explains: please report this with the recipe"
            )
        return f"{said}; the others part at near ties ({self._allowed.because})" if parted else said

    def prompts(self) -> str:
        """Whether questions are served with the ids that their rows begin with."""
        for row in self._whole:
            self._chatbot.reply(self._turns(row), Sampling(max_new_tokens=1)).close()
            _require_beginning(self._engine.tokenizer, self._listener.prompt, row.row["input_ids"])
        if not self._whole:
            return "not compared: none of the rows is a question with its answer, whole and without tools"
        return f"{len(self._whole)} questions are served with the ids that were trained"

    def request(self) -> str:
        """One request, answered as by `neuralbot chat`: whether the row known best comes back, if it is by heart."""
        config = replace(
            self._chatbot.generation_config, do_sample=False, repetition_penalty=1.0, max_new_tokens=ANSWER_TOKENS
        )
        if not self._whole:
            answer = self._chatbot.predict("Hello", config=config)
            return f"answered {_shown(answer)}"
        loss, row = min(
            ((loss, row) for loss, row in zip(self.said.losses, self._rows, strict=True) if row in self._whole),
            key=lambda pair: pair[0],
        )
        *history, question = row.conversation.turns[:-1]
        pieces, _ = self._chatbot.predict_stream(question.content, config=config, history=history)
        answer = "".join(pieces)
        expected = row.row["input_ids"][len(self._listener.prompt) :][:ANSWER_TOKENS]
        alike = difflib.SequenceMatcher(None, self._listener.answer, expected, autojunk=False).ratio()
        gold = row.conversation.turns[-1].content
        said = f"answered {_shown(answer)}, the row has {_shown(gold)}"
        if loss > KNOWN:
            return f"{said} (not known by heart yet: loss {loss:.2f})"
        if alike < ALIKE:
            raise TrialFailed(
                f"{said}, and the model knows this row by heart: it is asked otherwise than it was trained; look at "
                "section serving, and at the prompts by `neuralbot data preview`"
            )
        return said

    def _turns(self, row: TrialRow) -> list[Turn]:
        *history, question = row.conversation.turns[:-1]
        return self._chatbot.turns(question.content, history)


class Listener:
    """An engine that keeps what a chatbot asked of it last, and what it answered."""

    def __init__(self, engine: Engine) -> None:
        self.prompt: list[int] = []
        self.answer: list[int] = []
        self.tokenizer, self.context_length = engine.tokenizer, engine.context_length
        self._engine = engine

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[int]:
        self.prompt, self.answer = prompt_ids, []
        return self._heard(self._engine.stream(prompt_ids, sampling))

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        return self._engine.generate_batch(prompts, sampling)

    def _heard(self, tokens: Iterator[int]) -> Iterator[int]:
        for token in tokens:
            self.answer.append(token)
            yield token


def _allowed(prepared: Prepared, engine: Engine) -> Allowed:
    tuning = prepared.recipe.finetuning
    if tuning.qlora:
        return _QUANTIZED[tuning.bits]
    return _EXACT if prepared.plan.dtype == str(likelihood.model_of(engine).dtype)[6:] == "float32" else _ROUNDED


def _is_whole(row: TrialRow, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the row is a user's question that is answered in words, and nothing of it was cut."""
    conversation = row.conversation
    *asked, answer = conversation.turns
    if conversation.tools or answer.role != "assistant" or answer.tool_calls or not asked or asked[-1].role != "user":
        return False
    return encode(tokenizer, conversation).ids == row.row["input_ids"]


def _preference(engine: Engine, prompt: list[int], mine: list[int], other: list[int]) -> float:
    """By how many nats the engine's model prefers its own next token where two answers part.

    An answer that is shorter went on with an end token there.
    """
    pairs = itertools.zip_longest(mine, other, fillvalue=engine.tokenizer.eos_token_id)
    place, tokens = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
    begun = [*prompt, *mine[:place]]
    texts = [Encoded([*begun, token], [False] * len(begun) + [True]) for token in tokens]
    first, second = likelihood.of_engine(engine, texts, 2)
    return first.log_probability - second.log_probability


def _require_beginning(tokenizer: PreTrainedTokenizerBase, served: list[int], trained: list[int]) -> None:
    pairs = list(zip(served, trained, strict=False))
    place = next((place for place, pair in enumerate(pairs) if pair[0] != pair[1]), None)
    if place is None:
        return
    texts = [_shown(tokenizer.decode(ids[max(place - 5, 0) : place + 10])) for ids in (trained, served)]
    raise TrialFailed(
        f"the prompt that is served differs from the trained one at token {place + 1}: trained {texts[0]}, served "
        f"{texts[1]}; look at serving.system_prompt (rows need the same system message) and at data.prompt_style"
    )


def _shown(text: str) -> str:
    """A text of a row or a model in quotes, on one line, nothing in it that could command a terminal."""
    plain = " ".join(text.translate(NO_CONTROLS).split())
    return f'"{plain[:_SHOWN]}{"..." if len(plain) > _SHOWN else ""}"'
