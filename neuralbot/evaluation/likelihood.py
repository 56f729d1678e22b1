"""How likely a model finds given texts: the log-probabilities of a row's target tokens, by one pass without sampling.

Loss, perplexity and token accuracy are sums of them; a label is chosen by them. This needs a model in this process
(`TorchEngine.model`), as an engine that only generates tells no probabilities of texts it did not choose.

Shape letters: B rows, T tokens, V vocabulary, N targets in the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuralbot.errors import ResourceError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from neuralbot.conversation import Encoded
    from neuralbot.engines.protocol import Engine
    from neuralbot.engines.virtual_tokens import VirtualTokens

_LOGITS_BYTES = 1 << 30  # what a batch's logits may take


@dataclass(frozen=True)
class Likelihood:
    """Of one row: its targets, the sum of their natural log-probabilities, how many were the likeliest token."""

    targets: int
    log_probability: float
    likeliest: int


def model_of(engine: Engine) -> PreTrainedModel:
    """The model behind an engine. Raises ResourceError for an engine that has none in this process."""
    model = getattr(engine, "model", None)
    if model is None:
        raise ResourceError(
            f"{type(engine).__name__} generates only and tells no likelihoods, which the metrics loss and labels need: "
            "use the torch engine, or another evaluation.metric"
        )
    found: PreTrainedModel = model
    return found


def of_engine(
    engine: Engine,
    rows: Sequence[Encoded],
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Likelihood]:
    """`likelihoods` by the model behind an engine, and what its adapter puts before each text."""
    return likelihoods(model_of(engine), rows, batch_size, on_progress, getattr(engine, "virtual", None))


def likelihoods(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    virtual: VirtualTokens | None = None,
) -> list[Likelihood]:
    """The likelihood of each row's targets, given all before them; a row's first token has none and never counts.

    `on_progress` gets rows done and rows. `virtual` stands before each row. Switches the model to evaluation mode.
    """
    model.eval()
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place].ids))
    found: dict[int, Likelihood] = {}
    while len(found) < len(rows):
        longest = len(rows[order[len(found)]].ids)
        fit = _LOGITS_BYTES // (4 * max(longest, 1) * model.config.get_text_config().vocab_size)
        batch = order[len(found) : len(found) + max(min(batch_size, fit), 1)]
        found |= dict(zip(batch, _of_batch(model, [rows[place] for place in batch], virtual), strict=True))
        on_progress(len(found), len(rows))
    return [found[place] for place in range(len(rows))]


def _of_batch(model: PreTrainedModel, rows: Sequence[Encoded], virtual: VirtualTokens | None) -> list[Likelihood]:
    import torch

    longest = max(len(row.ids) for row in rows)
    if longest < 2:
        return [Likelihood(0, 0.0, 0) for _ in rows]
    # padded on the right, where causal attention does not look; the mask spares models that count positions by it
    ids_BT = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows], device=model.device)
    target_BT = torch.tensor([[*row.target_mask, *[False] * (longest - len(row.ids))] for row in rows])
    mask_BT = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows], device=model.device)
    row_N, place_N = target_BT[:, 1:].nonzero(as_tuple=True)
    with torch.inference_mode():
        logits_NV = _logits(model, ids_BT, mask_BT, virtual)[row_N, place_N].float()
        wanted_N = ids_BT[row_N, place_N + 1]
        chosen_N = (logits_NV.gather(1, wanted_N[:, None])[:, 0] - logits_NV.logsumexp(dim=1)).double()
        best_N = (logits_NV.argmax(dim=1) == wanted_N).long()
    count = len(rows)
    sums = torch.zeros(count, dtype=torch.float64).index_add(0, row_N, chosen_N.cpu())
    hits = torch.zeros(count, dtype=torch.long).index_add(0, row_N, best_N.cpu())
    targets = row_N.bincount(minlength=count)
    return [Likelihood(*values) for values in zip(targets.tolist(), sums.tolist(), hits.tolist(), strict=True)]


def _logits(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, virtual: VirtualTokens | None) -> Tensor:
    """(B, T, V); what the model's forward does not take is not handed in."""
    import torch

    unwrapped: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(unwrapped.forward).parameters
    inputs: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    if virtual is not None and virtual.count:
        before_BV = mask_BT.new_ones(len(mask_BT), virtual.count)
        inputs |= {"attention_mask": torch.cat([before_BV, mask_BT], dim=1)}
        inputs |= {"past_key_values": virtual.cache(len(ids_BT)), "use_cache": True}
    logits: Tensor = model(**{name: value for name, value in inputs.items() if name in accepted}).logits
    return logits
