"""One request on its way through the server: its place in the queue, its answers side by side, its end.

Whatever happens, `close` frees the slots and ends the work of the engine within a step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neuralbot.engines.protocol import Sampling
from neuralbot.errors import NeuralbotError
from neuralbot.server import failures
from neuralbot.server.failures import Failure
from neuralbot.textstream import FinishReason, TextMaker

if TYPE_CHECKING:
    from neuralbot.server.admission import Place
    from neuralbot.server.app import State
    from neuralbot.server.feed import Feed

_PATIENCE_S = 1.0  # so long the head of a stream waits for its work to begin: until then a refusal has its own status


@dataclass
class Choice:
    """One answer that is wanted. The maker turns its ids into text."""

    prompt: list[int]
    sampling: Sampling
    maker: TextMaker
    feed: Feed | None = None
    ids: list[int] = field(default_factory=list)

    @property
    def finish(self) -> FinishReason | None:
        return self.maker.finish_reason


@dataclass
class Token:
    """A token and the text that became certain with it; where asked for, its probability and the likeliest."""

    id: int
    logprob: float | None
    text: str
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Step:
    """What came of the choice at `index`: tokens, and text behind the last of them when it has ended."""

    index: int
    tokens: list[Token]
    rest: str = ""
    finish: FinishReason | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens) + self.rest


class Work:
    """The answers to one request."""

    def __init__(self, state: State, place: Place, choices: Sequence[Choice]) -> None:
        self.choices = list(choices)
        self._served = state.served
        self._metrics = state.metrics
        self._works = state.works
        self._place = place
        self._ping = state.settings.ping
        self._deadline = state.settings.deadline
        self._since = time.monotonic()
        self._arrived = asyncio.Event()
        self._began: asyncio.Task[None] | None = None
        self._before: Callable[[], Awaitable[None]] | None = None
        self._next = 0
        self._first = True
        self._stopped = False
        self._works.add(self)

    @property
    def prompt_tokens(self) -> int:
        """Those of each prompt once, however many answers it has."""
        prompts = {id(choice.prompt): len(choice.prompt) for choice in self.choices}
        return sum(prompts.values())

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.ids) for choice in self.choices)

    @property
    def state(self) -> str:
        """Where it is, in words, for one who waits."""
        if self._place.waits:
            return f"waiting, {self._place.position} before you"
        return f"reading {self.prompt_tokens} tokens" if self._first else "working"

    def first(self, doing: Callable[[], Awaitable[None]]) -> None:
        """Has something done in this request's slot before its answers."""
        self._before = doing

    async def begun(self) -> None:
        """Waits a moment for the work to begin. Raises Failure where the engine refuses it."""
        self._began = asyncio.create_task(self._begin())
        await asyncio.wait({self._began}, timeout=min(_PATIENCE_S, self._ping))
        if self._began.done():
            self._began.result()

    async def steps(self) -> AsyncIterator[Step | None]:
        """What comes, as it comes; None when it is time for a sign of life. Raises Failure."""
        began = self._began = self._began or asyncio.create_task(self._begin())
        began.add_done_callback(lambda _: self._arrived.set())
        while not began.done() or any(choice.finish is None for choice in self.choices):
            if not await self._wait():
                yield None
            if self._stopped:
                raise failures.stopping()
            for index, choice in enumerate(self.choices):
                if choice.feed is not None and (step := self._step(index, choice, choice.feed)) is not None:
                    yield step
            if began.done():
                began.result()
                await self._start_more()
        began.result()

    def stop(self) -> None:
        """Lets `steps` raise Failure: the server is about to end."""
        self._stopped = True
        self._arrived.set()

    def close(self) -> None:
        """Ends what is not finished and gives the slots back."""
        self._works.discard(self)
        if self._began is not None:
            self._began.cancel()
        for choice in self.choices:
            if choice.feed is not None:
                choice.feed.close()
                choice.feed = None
        self._place.leave()

    async def _begin(self) -> None:
        await self._place.turn(max(1, len(self.choices)))
        self._metrics.waited.observe(time.monotonic() - self._since)
        try:
            if self._before is not None:
                await self._before()
        except NeuralbotError as error:
            raise self._failure(error, asked=True) from error
        await self._start_more()

    async def _start_more(self) -> None:
        """As many choices at once as there are slots for them. Raises Failure."""
        while self._next < len(self.choices) and sum(one.feed is not None for one in self.choices) < self._place.size:
            choice = self.choices[self._next]
            self._next += 1
            try:
                choice.feed = await self._served.start(choice.prompt, choice.sampling, self._arrived)
            except NeuralbotError as error:
                raise self._failure(error, asked=True) from error

    async def _wait(self) -> bool:
        """Until something has come, or it is time for a sign of life. Raises Failure at the deadline."""
        left = self._deadline - (time.monotonic() - self._since)
        try:
            async with asyncio.timeout(min(self._ping, max(0.0, left))):
                await self._arrived.wait()
        except TimeoutError:
            if left <= self._ping:
                raise failures.late(self._deadline) from None
            return False
        self._arrived.clear()
        return True

    def _step(self, index: int, choice: Choice, feed: Feed) -> Step | None:
        try:
            ids, over = feed.take()
        except NeuralbotError as error:
            raise self._failure(error, asked=choice.sampling.json_schema or choice.sampling.regex) from error
        step = Step(index, [])
        for token in ids:
            place = len(choice.ids)
            logprob = feed.logprobs[place] if choice.sampling.logprobs else None
            top = feed.tops[place] if choice.sampling.top_logprobs else ()
            choice.ids.append(token)
            step.tokens.append(Token(token, logprob, choice.maker.push(token), top))
            if choice.finish is not None:
                break
        if over and choice.finish is None:
            step.rest = choice.maker.finish()
        self._count(len(step.tokens))
        if (finish := choice.finish) is not None:
            step.finish = finish
            feed.close()
            choice.feed = None
        return step if step.tokens or finish is not None else None

    def _count(self, tokens: int) -> None:
        if tokens and self._first:
            self._first = False
            self._metrics.first_token.observe(time.monotonic() - self._since)
        self._metrics.generated.inc(tokens)

    def _failure(self, error: NeuralbotError, *, asked: object) -> Failure:
        """asked: the reason is in what was asked, not in the engine."""
        if not self._served.alive:
            return Failure(503, "the engine has ended: the server has to be started anew", kind="server_error")
        if asked:
            return failures.of_error(error)
        return Failure(500, str(error), kind="server_error")


async def whole(work: Work, note: Callable[[Step], None]) -> None:
    """All of the answers; `note` is given each step. Raises Failure."""
    async for step in work.steps():
        if step is not None:
            note(step)
