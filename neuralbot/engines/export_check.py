"""Whether an exported model answers as the model that it was made from, before anybody is answered with it.

A few tokens are asked of both, greedily. Some families are exported without a complaint and then crash, or compute
something else. Rounding moves probabilities a little, so that near ties may fall the other way; from each place of the
model's own answer the exported one goes on by itself, and what it picks has to be nearly as likely in the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neuralbot import hardware
from neuralbot.engines.openvino_engine import Exported, OpenVinoEngine
from neuralbot.engines.protocol import Sampling
from neuralbot.errors import GenerationError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PROMPT, TOKENS = 24, 8
_EXACT, _ROUNDED = 0.001, 0.1  # see Known.tolerance; with weights in float32, in bfloat16


@dataclass(frozen=True)
class Known:
    """What the model itself answers. logprobs: (TOKENS, vocabulary), those of all tokens at each place.

    tolerance: how much likelier the best token may be, and how far a probability may be off; in logarithms, as a share
    of the span from a usual token to the best one.
    """

    prompt: list[int]
    ids: list[int]
    logprobs: torch.Tensor
    computed: Literal["f32", "bf16"]
    tolerance: float


def reference(model: PreTrainedModel, source: str) -> Known:
    """The model's own answer. Raises ModelError where a weight, or what is computed, is no number."""
    import torch

    for name, weight in model.named_parameters():
        if not weight.detach().sum(dtype=torch.float32).isfinite():
            raise _damaged(source, f"{name} holds NaN or infinity")
    vocabulary = model.config.get_text_config().vocab_size
    prompt = [(7919 * place + 13) % vocabulary for place in range(PROMPT)]
    ids, rows = list(prompt), []
    with torch.inference_mode():
        for _ in range(TOKENS):
            rows.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1))
            ids.append(int(rows[-1].argmax()))
    if torch.stack(rows).isnan().any():
        raise _damaged(source, "it computes NaN instead of probabilities")
    half = model.dtype == torch.bfloat16
    computed: Literal["f32", "bf16"] = "bf16" if half and hardware.has_bf16() else "f32"
    return Known(prompt, ids[PROMPT:], torch.stack(rows), computed, _ROUNDED if half else _EXACT)


def _damaged(source: str, what: str) -> ModelError:
    return ModelError(f"the model {source} is damaged, or its training has diverged: {what}; use another checkpoint")


def differs(folder: Path, known: Known) -> str | None:
    """How the answer of the exported model in `folder` is another one; None: it is the same.

    Raises ResourceError where it had not the memory to answer.
    """
    try:
        found = answers(folder, known)
    except (ModelError, GenerationError) as error:
        return str(error).rpartition(f"{folder}: ")[2]
    places = [place for place, (ids, logprobs) in enumerate(found) if not _goes_on(known, place, ids, logprobs)]
    return f"it answers otherwise than the model, from token {places[0] + 1} of {TOKENS} on" if places else None


def answers(folder: Path, known: Known) -> list[tuple[list[int], list[float]]]:
    """What the exported model says at each place of the known answer, with its logarithmic probabilities."""
    tokenizer: Any = None
    engine = OpenVinoEngine(Exported(folder, None, len(known.logprobs[0]), frozenset(), known.computed), tokenizer)
    sampling = Sampling(max_new_tokens=TOKENS, logprobs=True)
    try:
        streams: list[Any] = [engine.stream(known.prompt + known.ids[:place], sampling) for place in range(TOKENS)]
        return [(list(stream), stream.logprobs) for stream in streams]
    finally:
        engine.close()


def _goes_on(known: Known, place: int, ids: list[int], logprobs: list[float]) -> bool:
    """Whether what follows at `place` is what the model would say, until the answers part at a near tie."""
    if len(ids) < TOKENS:
        return False
    for row, own, token, logprob in zip(known.logprobs[place:], known.ids[place:], ids, logprobs, strict=False):
        best = float(row.max())
        span = max(1.0, best - float(row.median()))
        off = best - float(row[token]), abs(float(row[token]) - logprob)
        if not all(value <= known.tolerance * span for value in off):  # nor does NaN pass
            return False
        if token != own:
            break
    return True
