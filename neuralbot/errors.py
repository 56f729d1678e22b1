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
    ├── TrialFailed                6   `neuralbot test` found that the recipe would not do what it should
    └── Interrupted              130   stopped by the user after saving

A message says what happened, the value, what was expected and what to do next. Nothing here is ever
matched by its text: catch the class. `code` is ITREX's number for what happened, for scripts that look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuralbot.error_codes import ErrorCodes


class NeuralbotError(Exception):
    """Base of all errors a user can cause or repair.

    `exit_status` is what a command ends with. `code`: one of ErrorCodes, that of the class unless it is given.
    """

    exit_status = 1
    code: int = ErrorCodes.ERROR_GENERIC

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


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


# A problem with one of these keys -> the code that ITREX has for it.
_CODE_OF_KEY: dict[str, int] = {
    "model_name_or_path": ErrorCodes.ERROR_MODEL_NOT_FOUND,
    "config_name": ErrorCodes.ERROR_MODEL_CONFIG_NOT_FOUND,
    "tokenizer_name": ErrorCodes.ERROR_TOKENIZER_NOT_FOUND,
    "model_revision": ErrorCodes.ERROR_INVALID_MODEL_VERSION,
    "dataset_name": ErrorCodes.ERROR_DATASET_NOT_FOUND,
    "dataset_config_name": ErrorCodes.ERROR_DATASET_CONFIG_NOT_FOUND,
    "train_file": ErrorCodes.ERROR_TRAIN_FILE_NOT_FOUND,
    "validation_file": ErrorCodes.ERROR_VALIDATION_FILE_NOT_FOUND,
    "device": ErrorCodes.ERROR_DEVICE_NOT_SUPPORTED,
}


class RecipeError(NeuralbotError):
    """A recipe (`subject`) that cannot be used; `problems` lists all that is wrong with it, in file order."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem], subject: str = "the recipe") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{subject} has {count} problem{'s' if count != 1 else ''}:"
        keys = (problem.key.rpartition(".")[2] for problem in self.problems)
        code = next((_CODE_OF_KEY[key] for key in keys if key in _CODE_OF_KEY), None)
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]), code=code)


class DataError(NeuralbotError):
    exit_status = 3
    code = ErrorCodes.ERROR_DATASET_NOT_FOUND


class ModelError(NeuralbotError):
    exit_status = 4
    code = ErrorCodes.ERROR_MODEL_NOT_FOUND


class ResourceError(NeuralbotError):
    exit_status = 4


class RunFolderError(NeuralbotError):
    exit_status = 4


class GenerationError(NeuralbotError):
    code = ErrorCodes.ERROR_MODEL_INFERENCE_FAIL


class TrainingDiverged(NeuralbotError):
    exit_status = 5


class TrialFailed(NeuralbotError):
    exit_status = 6


class Interrupted(NeuralbotError):
    exit_status = 130
