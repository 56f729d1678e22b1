"""The tokenizer of a recipe with the prompt style that it asks for: what training, and a preview of it, render with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuralbot import conversation, modeling, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.recipe import Recipe


@dataclass(frozen=True)
class RecipeTokenizer:
    """style: the name of the prompt style that was set, or "tokenizer" for the chat template that it brings.

    new_tokens: ids of the tokens that the recipe adds, for which the model has no rows yet.
    """

    tokenizer: PreTrainedTokenizerBase
    style: str
    new_tokens: tuple[int, ...]
    notices: tuple[str, ...]


def load(recipe: Recipe) -> RecipeTokenizer:
    """Load the tokenizer, set its prompt style and add the recipe's tokens. Raises ModelError."""
    model, style, wanted = recipe.model, recipe.data.prompt_style, recipe.data.special_tokens or []
    tokenizer = modeling.load_tokenizer(
        model.tokenizer_name or model.model_name_or_path or "",
        revision=model.model_revision, token=model.token, cache_dir=model.cache_dir,
    )  # fmt: skip
    replaced = f"data.prompt_style={style} is used instead of the tokenizer's own chat template"
    notices = [replaced] if style and tokenizer.chat_template else []
    set_style = conversation.ensure_chat_template(tokenizer, recipe.finetuning.task, style)
    new_tokens = vocabulary.add_tokens(tokenizer, wanted)
    if had := len(wanted) - len(new_tokens):
        notices.append(f"data.special_tokens: the tokenizer had {had} of {len(wanted)} already")
    return RecipeTokenizer(tokenizer, set_style, new_tokens, tuple(notices))
