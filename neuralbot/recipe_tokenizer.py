"""The tokenizer of a recipe with the prompt style that it asks for: what training, and a preview of it, render with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuralbot import conversation, modeling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.recipe import Recipe


@dataclass(frozen=True)
class RecipeTokenizer:
    """style: the name of the prompt style that was set, or "tokenizer" for the chat template that it brings."""

    tokenizer: PreTrainedTokenizerBase
    style: str
    notices: tuple[str, ...]


def load(recipe: Recipe) -> RecipeTokenizer:
    """Load the tokenizer and set its prompt style. Raises ModelError."""
    model, style = recipe.model, recipe.data.prompt_style
    tokenizer = modeling.load_tokenizer(
        model.tokenizer_name or model.model_name_or_path or "",
        revision=model.model_revision, token=model.token, cache_dir=model.cache_dir,
    )  # fmt: skip
    replaced = f"data.prompt_style={style} is used instead of the tokenizer's own chat template"
    notices = (replaced,) if style and tokenizer.chat_template else ()
    set_style = conversation.ensure_chat_template(tokenizer, recipe.finetuning.task, style)
    return RecipeTokenizer(tokenizer, set_style, notices)
