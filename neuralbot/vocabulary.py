"""New tokens: added to a tokenizer, and given rows in a model's embeddings and output layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_tokens(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> tuple[int, ...]:
    """The ids of those of the tokens that the tokenizer did not have.

    One that the chat template writes is a control token: in a text it stays text. Any other is what rows write it for.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    fresh = [name for name in names if name not in known]
    template = str(tokenizer.chat_template or "")
    for name in fresh:
        tokenizer.add_tokens([AddedToken(name, normalized=False)], special_tokens=name in template)
    return tuple(tokenizer.convert_tokens_to_ids(fresh))


def make_room(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """Rows for new tokens, each the mean of the rows before them: none is likelier than the others at first."""
    import torch

    if not tokens:
        return
    grow(model, max(tokens) + 1)
    with torch.no_grad():
        for weight in {id(weight): weight for weight in _by_token(model)}.values():
            weight[list(tokens)] = weight[: min(tokens)].float().mean(0).to(weight.dtype)


def grow(model: PreTrainedModel, rows: int) -> None:
    """Give the model that many tokens, if it has fewer."""
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _by_token(model: PreTrainedModel) -> list[Any]:
    """The parameters that have a row for each token; tied ones more than once."""
    head = model.get_output_embeddings()
    found = [model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    return [parameter for parameter in found if parameter is not None]
