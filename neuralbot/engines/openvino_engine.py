"""The fast engine: a model exported for OpenVINO, answered by OpenVINO GenAI's continuous batching.

Many requests share each step, a prompt's known beginning is not computed again, and tokens may be guessed ahead: from
the prompt itself (lookup) or by a smaller model (draft). It takes and gives token ids, as the torch engine does; a test
holds the two together. What this engine cannot do (see `_beyond`) is asked of the torch engine, and said.

It does not export models (export), load tokenizers (chat_engine) or see text.
"""

from __future__ import annotations

import logging
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuralbot import hardware
from neuralbot.engines.openvino_worker import Request, Worker
from neuralbot.engines.protocol import Sampling, TokenBudget, check_prompt
from neuralbot.errors import GenerationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.engines.protocol import Engine

logger = logging.getLogger(__name__)

Mode = Literal["plain", "lookup", "draft"]
DRAFT_TOKENS = 5
LOOKUP_TOKENS, LOOKUP_NGRAM = 5, 3
ACTIVATION_GROUP = 128
_GIB = 2**30


@dataclass(frozen=True)
class Exported:
    """A model as it lies on the disk, and what has to be known of it.

    precision: what is computed in. activation_group: where the weights are integers, so many activations share a scale
    when they are rounded to 8 bits for a product; 0: they are no integers.
    """

    folder: Path
    context_length: int | None
    vocabulary: int
    end_ids: frozenset[int]
    precision: Literal["f32", "bf16"] = "f32"
    activation_group: int = 0


class OpenVinoEngine:
    """Answers prompts with an exported model; safe to use from several threads.

    mode: how tokens are guessed ahead for all requests; "draft" needs `draft`, the folder of a smaller model of the
    same vocabulary. reference: makes the engine that is asked for what this one cannot do; called once, if at all.
    """

    def __init__(
        self,
        exported: Exported,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mode: Mode = "plain",
        draft: Path | None = None,
        reference: Callable[[], Engine] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.exported = exported
        self.context_length = exported.context_length
        self._token_budget = TokenBudget(self.context_length)
        self._mode: Mode = mode
        self._draft = draft
        self._make_reference = reference
        self._reference: Engine | None = None
        self._lock, self._reference_lock = threading.Lock(), threading.Lock()
        self._workers: dict[Mode, Worker] = {}
        self.close = weakref.finalize(self, _close, self._workers)
        self._worker(mode)

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[int]:
        """The answer's ids, one by one. Raises GenerationError at once for a prompt or value it cannot use.

        The work begins at once, not at the first token that is asked for.
        """
        if (why := _beyond(sampling)) is not None:
            return self._asked_of_reference(why).stream(prompt_ids, sampling)
        return self._answer(prompt_ids, sampling)

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        """The answers' ids in the order of `prompts`, decoded side by side; see `Engine`."""
        if (why := _beyond(sampling)) is not None:
            return self._asked_of_reference(why).generate_batch(prompts, sampling)
        one = replace(sampling, num_return_sequences=1)
        several = [replace(one, seed=_later(sampling.seed, place)) for place in range(sampling.num_return_sequences)]
        answers = [self._answer(prompt, each) for prompt in prompts for each in several]
        return [list(answer) for answer in answers]

    def score(self, ids: list[int], top: int = 0) -> Any:
        """The probabilities of ids that are given, which GenAI does not tell; see `TorchEngine.score`."""
        engine: Any = self._asked_of_reference("the probability of a given text")
        return engine.score(ids, top)

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return not any(worker.closed for worker in list(self._workers.values()))

    def _answer(self, prompt_ids: list[int], sampling: Sampling) -> Answer:
        check_prompt(prompt_ids, self.exported.vocabulary)
        budget = self._token_budget(len(prompt_ids), sampling.max_new_tokens)
        # With a draft model GenAI draws from another distribution than the model's own: such answers go without.
        mode = "plain" if self._mode == "draft" and not sampling.greedy else self._mode
        values = _values(sampling, budget, self.exported.end_ids, mode)
        request = Request(list(prompt_ids), values, may_fail="structured_output_config" in values)
        return Answer(self._worker(mode), request, self.exported.end_ids)

    def _worker(self, mode: Mode) -> Worker:
        with self._lock:
            if mode not in self._workers:
                self._workers[mode] = Worker(settings(self.exported, mode, self._draft))
            return self._workers[mode]

    def _asked_of_reference(self, why: str) -> Engine:
        if self._make_reference is None:
            raise GenerationError(f"{why} is not offered by the OpenVINO engine")
        with self._reference_lock:
            if self._reference is None:
                logger.warning("%s is not offered by the OpenVINO engine: the torch engine is loaded beside it", why)
                self._reference = self._make_reference()
        return self._reference


class Answer:
    """The ids of one answer; `logprobs` has those of the ids read so far, where they were asked for.

    Closing it, or dropping it, ends the work on it within a step; a prompt that is being read is read to its end first.
    """

    def __init__(self, worker: Worker, request: Request, end_ids: frozenset[int]) -> None:
        self.logprobs: list[float] = []
        self._request = request
        self._items = worker.submit(request).items
        self._end_ids = end_ids
        self._ready: list[tuple[int, float]] = []
        self._over = False
        self.close = weakref.finalize(self, worker.cancel, request)
        self.close.atexit = False

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        while not self._ready:
            self._fetch()
        token, logprob = self._ready.pop(0)
        if token in self._end_ids:
            self._finish()
            raise StopIteration
        self.logprobs.append(logprob)
        return token

    def listen(self, ready: Callable[[], None]) -> None:
        """From now on `ready` is called, from another thread, when `take` has something to give."""
        self._request.on_item = ready
        ready()

    def take(self) -> tuple[list[int], bool]:
        """The ids that are there, without waiting, and whether there will be no more."""
        ids: list[int] = []
        while self._ready or not self._items.empty():
            if (token := next(self, None)) is None:
                break
            ids.append(token)
        return ids, self._over

    def _fetch(self) -> None:
        item = None if self._over or not self.close.alive else self._items.get()
        if item is None:
            self._finish()
            raise StopIteration
        if isinstance(item, Exception):
            self._finish()
            raise item
        self._ready = list(zip(*item, strict=True))

    def _finish(self) -> None:
        self._over = True
        self._ready = []
        self.close()


def _close(workers: dict[Mode, Worker]) -> None:
    for worker in workers.values():
        worker.close()


def settings(exported: Exported, mode: Mode = "plain", draft: Path | None = None) -> dict[str, Any]:
    """What the process of the pipeline is told; see openvino_process."""
    machine = hardware.probe()
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": exported.precision,
        "KV_CACHE_PRECISION": exported.precision,
        "INFERENCE_NUM_THREADS": min(machine.usable_cpus, machine.physical_cores),
    }
    if exported.activation_group:
        # Beside weights that are integers, keys and values in 8 bits cost no accuracy worth naming. OpenVINO's own
        # groups are of 32: larger ones are faster, and as exact (benchmarks/results/activation-groups.json).
        properties |= {
            "KV_CACHE_PRECISION": "u8",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": exported.activation_group,
        }
    return {
        "folder": str(exported.folder),
        "draft": str(draft) if mode == "draft" else None,
        "lookup": mode == "lookup",
        # A size has to be named: without one the cache is so small that known beginnings are soon overwritten. The
        # memory is taken only as it is filled.
        "scheduler": {"enable_prefix_caching": True, "cache_size": max(1, machine.memory_bytes // (8 * _GIB))},
        "properties": properties,
        "trial": _values(Sampling(max_new_tokens=2, logprobs=True), 2, frozenset(), mode),
    }


def _values(sampling: Sampling, budget: int, end_ids: frozenset[int], mode: Mode) -> dict[str, Any]:
    """The fields of GenerationConfig."""
    values: dict[str, Any] = {
        "max_new_tokens": budget,
        "stop_token_ids": sorted(end_ids),
        "ignore_eos": not end_ids,  # else GenAI takes what stands in generation_config.json
        "repetition_penalty": float(sampling.repetition_penalty),
        "logprobs": int(sampling.logprobs),
    }
    if not sampling.greedy:
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        values |= {
            "do_sample": True,
            "temperature": float(sampling.temperature),
            "top_p": float(sampling.top_p),
            "rng_seed": (seed ^ seed >> 32) & 0xFFFFFFFF,  # of a longer one GenAI would drop the upper half
        }
        if sampling.top_k:
            values["top_k"] = sampling.top_k
    form = {"json_schema": sampling.json_schema, "regex": sampling.regex}
    if form := {name: text for name, text in form.items() if text is not None}:
        values["structured_output_config"] = form
    if mode == "draft":
        values["num_assistant_tokens"] = DRAFT_TOKENS
    elif mode == "lookup":
        values |= {"num_assistant_tokens": LOOKUP_TOKENS, "max_ngram_size": LOOKUP_NGRAM}
    return values


def _beyond(sampling: Sampling) -> str | None:
    """What this engine has not, in words."""
    if sampling.num_beams > 1:
        return f"num_beams={sampling.num_beams}"
    # GenAI's penalties of these names are added to logits below zero, where OpenAI's are always taken away (a test
    # shows it).
    asked = ("bad_words_ids", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty")
    return next((name for name in asked if getattr(sampling, name)), None)


def _later(seed: int | None, place: int) -> int | None:
    return None if seed is None else (seed + place) % 2**63
