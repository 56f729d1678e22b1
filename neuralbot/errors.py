"""Every exception neuralbot raises on purpose, and the exit status each one ends a command with.

    NeuralbotError                 1   something failed
    ├── UsageError                 2   the command line is wrong
    ├── RecipeError                2   the recipe is wrong: carries every problem found, not the first
    ├── DataError                  3   a data file is missing, unreadable or has no usable rows
    ├── ModelError                 4   a model, tokenizer or adapter cannot be loaded
    ├── ResourceError              4   the machine cannot do what was asked (memory, disk, device)
    ├── RunFolderError             4   the run folder cannot be written, or holds another run
    ├── GenerationError            1   an answer could not be generated (prompt too long, bad sampling value)
    ├── TrainingDiverged           5   the loss stopped being a number
    └── Interrupted              130   stopped by the user after saving

A message says what happened, the value, what was expected and what to do next. Nothing here is ever
matched by its text: catch the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NeuralbotError(Exception):
    """Base of all errors a user can cause or repair; `exit_status` is what a command ends with."""

    exit_status = 1


class UsageError(NeuralbotError):
    exit_status = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe: where it stands, what it is, and what to write instead."""

    where: str  # "recipes/alpaca.yaml:12" or "command line"
    key: str  # "training.learning_rate"
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class RecipeError(NeuralbotError):
    """A recipe that cannot be used; `problems` lists all that is wrong with it, in file order."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"the recipe has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class DataError(NeuralbotError):
    exit_status = 3


class ModelError(NeuralbotError):
    exit_status = 4


class ResourceError(NeuralbotError):
    exit_status = 4


class RunFolderError(NeuralbotError):
    exit_status = 4


class GenerationError(NeuralbotError):
    pass


class TrainingDiverged(NeuralbotError):
    exit_status = 5


class Interrupted(NeuralbotError):
    exit_status = 130
