"""The reference engine: a short decoding loop over a transformers model with a key/value cache.

Written out rather than `model.generate`, because a stream must stop the moment its reader does, and because
rows of a batch must not influence one another. It decodes as `generate` does; a test holds the two together.
It does not load models (modeling), render prompts (conversation) or see text: stop strings are cut by textstream.

Shape letters: B rows still running, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuralbot import modeling
from neuralbot.engines import assisted
from neuralbot.engines.forward import Forward
from neuralbot.engines.picking import Picked, Picker, check_numbers, generator, random_seed, scored
from neuralbot.engines.prompt_cache import PromptCache
from neuralbot.engines.protocol import Sampling, TokenBudget, check_prompt, end_ids, token_budget
from neuralbot.engines.virtual_tokens import VirtualTokens, without_adapter
from neuralbot.errors import GenerationError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


_LOGPROBS_AT_ONCE = 256  # tokens whose logits are held in float32


class TorchEngine:
    """Answers prompts with a model in this process, on the device and in the precision the model has.

    Streams of several threads take turns token by token. Generating switches the model to evaluation mode. Its weights
    have to stay as they are: what was computed of a prompt is kept for the next one (see `prompt_cache`).
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        assistant: PreTrainedModel | None = None,
    ) -> None:
        self.model, self.virtual = without_adapter(model)
        self.tokenizer = tokenizer
        context = modeling.context_length(model.config)
        self.context_length = context and context - self.virtual.count
        self._token_budget = TokenBudget(self.context_length)
        self.end_ids = end_token_ids(self.model, tokenizer)
        self._forward = Forward(self.model)
        self._prompts = PromptCache(self._forward, self.virtual)
        self._assistant: assisted.Model | None = None
        if assistant is not None:
            helper = Forward(assistant)
            self._assistant = assisted.Model(helper, PromptCache(helper))

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Answer:
        """The answer's ids, one by one. Raises GenerationError at once for a prompt or value it cannot use."""
        if sampling.num_beams > 1:
            raise GenerationError(
                f"num_beams={sampling.num_beams}: beam search knows its answer only at the end, so it cannot be "
                "streamed; use num_beams=1, or ask for the whole answer"
            )
        budget = self._budget(prompt_ids, sampling)
        if self._assistant is not None:
            model = assisted.Model(self._forward, self._prompts, self.virtual.count)
            return Answer(assisted.decode(model, self._assistant, prompt_ids, budget, sampling, self.end_ids))
        return Answer(picked for _, picked in self._decode([prompt_ids], [budget], sampling))

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        """The answers' ids in the order of `prompts`, decoded side by side.

        Each row is what `stream` gives for it; float rounding may differ, so a near tie can fall the other way.
        """
        if sampling.logprobs:
            raise GenerationError("logprobs=True is for `stream`: a batch gives ids alone")
        if sampling.num_beams > 1:
            return [answer for prompt in prompts for answer in self._beams(prompt, sampling)]
        prompts = [prompt for prompt in prompts for _ in range(sampling.num_return_sequences)]
        budgets = [self._budget(prompt, sampling) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        for row, picked in self._decode(prompts, budgets, sampling) if prompts else ():
            answers[row].append(picked.token)
        return answers

    @torch.inference_mode()
    def score(self, ids: list[int], top: int = 0) -> list[Picked]:
        """Each id behind the first with its logarithmic probability given those before it, and the `top` likeliest.

        Of a prompt and its answer. Raises GenerationError for ids that do not fit the model, and where it gives no
        numbers.
        """
        check_prompt(ids, self.model.config.get_text_config().vocab_size)
        token_budget(len(ids) - 1, 1, self.context_length)
        self.model.eval()
        cache, found = self.virtual.cache(1), list[Picked]()
        at_once = _LOGPROBS_AT_ONCE if self._prompts.in_blocks else len(ids)
        for start in range(0, len(ids) - 1, at_once):
            known = ids[start : min(start + at_once, len(ids) - 1)]
            ids_BT = torch.tensor([known], device=self.model.device)
            logits_TV = self._forward(ids_BT, cache, keep=len(known))[0]
            check_numbers(logits_TV)
            following = torch.tensor(ids[start + 1 : start + 1 + len(known)], device=self.model.device)
            found += scored(logits_TV, following, top)
        return found

    def logprobs(self, ids: list[int]) -> list[float]:
        """The logarithmic probabilities of `score` alone."""
        return [float(one.logprob or 0.0) for one in self.score(ids)]

    def _budget(self, prompt_ids: Sequence[int], sampling: Sampling) -> int:
        vocabulary = self.model.config.get_text_config().vocab_size
        check_prompt(prompt_ids, vocabulary)
        if sampling.json_schema or sampling.regex:
            raise GenerationError("json_schema and regex need the OpenVINO engine: see docs/openvino.md")
        words, biased = sampling.bad_words_ids or (), [token for token, _ in sampling.logit_bias]
        for name, ids in (("bad_words_ids", [token for word in words for token in word]), ("logit_bias", biased)):
            if unknown := [token for token in ids if token >= vocabulary]:
                raise GenerationError(f"{name} holds {unknown[0]}: the vocabulary ends at {vocabulary - 1}")
        return self._token_budget(len(prompt_ids), sampling.max_new_tokens)

    def _decode(
        self, prompts: Sequence[Sequence[int]], budgets: list[int], sampling: Sampling
    ) -> Generator[tuple[int, Picked]]:
        """Yields (row, token) in the order of the tokens' steps; end tokens are left out."""
        self.model.eval()
        batch = _Batch(prompts, self.virtual, self._cache(prompts), self.model.device, sampling)
        picker = Picker(sampling, self.end_ids, batch.ids_BT.shape[1])
        while batch.rows:
            tokens = self._next_tokens(batch, picker)
            keep = []
            for place, (row, picked) in enumerate(zip(batch.rows, tokens, strict=True)):
                if picked.token in self.end_ids:
                    continue
                yield row, picked
                budgets[row] -= 1
                if budgets[row] > 0:
                    keep.append(place)
            batch.advance([picked.token for picked in tokens], keep)

    def _cache(self, prompts: Sequence[Sequence[int]]) -> DynamicCache:
        """With what is known of the one prompt; several stand behind padding, where nothing is known."""
        if len(prompts) > 1:
            return self.virtual.cache(len(prompts))
        return self._prompts.begin(prompts[0], self.virtual.empty_cache())

    # Entered anew for each token: inference mode left open between two tokens would leak into the reader's code.
    @torch.inference_mode()
    def _next_tokens(self, batch: _Batch, picker: Picker) -> list[Picked]:
        logits_BV = self._forward(batch.fresh_ids(), batch.cache, positions=batch.fresh_positions(), mask=batch.mask_BT)
        return picker.pick(batch.ids_BT, logits_BV[:, -1], batch.generators)

    @torch.inference_mode()
    def _beams(self, prompt: list[int], sampling: Sampling) -> list[list[int]]:
        from transformers import LogitsProcessorList

        budget = self._budget(prompt, sampling)
        known = [prompt[0]] * self.virtual.count
        ids_BT = torch.tensor([known + prompt], device=self.model.device)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        chosen = {} if sampling.greedy else _sampling_values(sampling)
        # `generate` draws from the global generator: it is lent for the call and put back.
        with self._forward.lock, torch.random.fork_rng(devices, enabled=not sampling.greedy):
            if not sampling.greedy:
                torch.random.manual_seed(random_seed() if sampling.seed is None else sampling.seed)
            self.model.eval()
            output_BT = self.model.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                past_key_values=self.virtual.cache(sampling.num_beams) if known else None,
                num_beams=sampling.num_beams,
                num_return_sequences=sampling.num_return_sequences,
                max_new_tokens=budget,
                do_sample=not sampling.greedy,
                repetition_penalty=float(sampling.repetition_penalty),
                bad_words_ids=[list(word) for word in sampling.bad_words_ids or ()] or None,
                eos_token_id=sorted(self.end_ids) or None,
                pad_token_id=prompt[0],
                logits_processor=LogitsProcessorList([_numbers]),
                **chosen,
            )
        return [_until_end(answer, self.end_ids) for answer in output_BT[:, ids_BT.shape[1] :].tolist()]


class Answer:
    """The ids of one answer; `logprobs` and `tops` have those of the ids read so far, where they were asked for.

    Closing it, or dropping it, ends the work.
    """

    def __init__(self, picked: Generator[Picked]) -> None:
        self.logprobs: list[float] = []
        self.tops: list[tuple[tuple[int, float], ...]] = []
        self._picked = picked

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        picked = next(self._picked)
        if picked.logprob is not None:
            self.logprobs.append(picked.logprob)
            self.tops.append(picked.top)
        return picked.token

    def close(self) -> None:
        self._picked.close()


class _Batch:
    """The rows still running: their ids so far, the key/value cache, the padding mask, one generator a row."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        virtual: VirtualTokens,
        cache: DynamicCache,
        device: torch.device,
        sampling: Sampling,
    ) -> None:
        longest = virtual.count + max(len(prompt) for prompt in prompts)
        # A row's own first token stands for what has none (virtual tokens, already in the cache, and padding, masked
        # for attention): it is no news to the repetition penalty.
        padded = [[*[prompt[0]] * (longest - len(prompt)), *prompt] for prompt in prompts]
        self.rows = list(range(len(prompts)))
        self.ids_BT = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        places = torch.arange(longest, device=device)
        self.mask_BT: Tensor | None = None
        if len(set(lengths.tolist())) > 1:
            self.mask_BT = ((places >= (longest - lengths)[:, None]) | (places < virtual.count)).long()
        self.cache = cache
        seed, several = None if sampling.greedy else sampling.seed, sampling.num_return_sequences
        self.generators = [generator(seed, device, row % several) for row in self.rows]
        self._cached = cache.get_seq_length()

    def fresh_ids(self) -> Tensor:
        """(B, n) the ids the cache has not seen: those of the prompt first, later one token a row."""
        return self.ids_BT[:, self._cached :]

    def fresh_positions(self) -> Tensor | None:
        """(B, n) their positions where rows are padded; None: counted from the cache."""
        if self.mask_BT is None:
            return None
        return (self.mask_BT.cumsum(dim=1) - 1).clamp(min=0)[:, self._cached :]

    @torch.inference_mode()
    def advance(self, tokens: list[int], keep: list[int]) -> None:
        """Appends one token to each row and drops the rows whose place is not in `keep`."""
        self._cached = self.ids_BT.shape[1]
        column = torch.tensor(tokens, device=self.ids_BT.device)[:, None]
        self.ids_BT = torch.cat([self.ids_BT, column], dim=1)
        if self.mask_BT is not None:
            self.mask_BT = torch.cat([self.mask_BT, torch.ones_like(column)], dim=1)
        if len(keep) < len(self.rows):
            self._select(keep)

    def _select(self, keep: list[int]) -> None:
        self.rows = [self.rows[place] for place in keep]
        self.generators = [self.generators[place] for place in keep]
        if not keep:
            return
        index = torch.tensor(keep, device=self.ids_BT.device)
        self.ids_BT = self.ids_BT[index]
        self.mask_BT = None if self.mask_BT is None else self.mask_BT[index]
        self.cache.batch_select_indices(index)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer of this model; see `end_ids`."""
    return end_ids(getattr(model.generation_config, "eos_token_id", None), tokenizer)


def _sampling_values(sampling: Sampling) -> dict[str, Any]:
    return {"temperature": float(sampling.temperature), "top_k": sampling.top_k, "top_p": float(sampling.top_p)}


def _until_end(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token in end_ids]
    return ids[: ends[0]] if ends else ids


def _numbers(ids_BT: Tensor, scores_BV: Tensor) -> Tensor:
    """A logits processor that changes nothing; see `check_numbers`."""
    check_numbers(scores_BV)
    return scores_BV
