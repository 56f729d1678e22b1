"""Recipes: strict YAML in, a checked Recipe out, or one report of everything that is wrong.

document       YAML text -> nodes with lines, and back
    fields         what one key accepts; training_keys reads those of transformers.TrainingArguments
    draft          what was set and where, problems and notices
    old_keys       names of transformers 4 and neural_chat
    support        what is refused or has no effect
    paths          files and models
    rules          contradictions
    loading        all of it in order: load, dump, json_schema
"""

from __future__ import annotations

from neuralbot.recipe.loading import Recipe, dump, json_schema, load, load_section, validate
from neuralbot.recipe.paths import find_file, shipped_recipes, shipped_root

__all__ = [
    "Recipe",
    "dump",
    "find_file",
    "json_schema",
    "load",
    "load_section",
    "shipped_recipes",
    "shipped_root",
    "validate",
]
