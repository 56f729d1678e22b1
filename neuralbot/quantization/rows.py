"""The rows that a model is calibrated on: the run's own training rows, rendered as they were trained, or others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neuralbot import modeling, recipe
from neuralbot.arguments import DataArguments
from neuralbot.conversation import encode_many, ensure_chat_template
from neuralbot.data.splits import load_splits
from neuralbot.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neuralbot.calibration import Calibration
    from neuralbot.conversation import Conversation

RECIPE = "recipe.yaml"
_TASK = "chat"  # of rows without a recipe; only the prompt style depends on it


def token_rows(
    home: Path, tokenizer: PreTrainedTokenizerBase, settings: Calibration, token: str | None = None
) -> list[list[int]]:
    """The ids of `settings.rows` rows, evenly spread over all, answers included.

    home: the folder of the run or model. Raises ModelError where it names no rows, DataError for rows that cannot be
    read.
    """
    conversations, task = _conversations(home, settings.data, token)
    ensure_chat_template(tokenizer, task)
    step = max(1, len(conversations) // settings.rows)
    chosen = conversations[::step][: settings.rows]
    rows = [encoded.ids[: settings.longest] for encoded in encode_many(tokenizer, chosen)]
    rows = [ids for ids in rows if len(ids) > 1]
    if not rows:
        raise DataError(f"{settings.data or home / RECIPE} names no row with a text: nothing can be calibrated on it")
    return rows


def _conversations(home: Path, data: str | None, token: str | None) -> tuple[tuple[Conversation, ...], str]:
    """The rows and the task they are for."""
    trained = recipe.load(home / RECIPE) if (home / RECIPE).is_file() else None
    task = _TASK if trained is None else trained.finetuning.task
    if data is not None:
        return load_splits(_named(data), task, do_eval=False, token=token).sample(), task
    if trained is None:
        raise ModelError(
            f"{home} is no run with a {RECIPE}, so there are no rows to calibrate on: name a file with rows "
            "(neuralbot export --data FILE, or dataset='FILE' of the config)"
        )
    splits = load_splits(trained.data, task, do_eval=False, token=token)
    _require_same(home, splits.fingerprint)
    return splits.sample(), task


def _named(data: str) -> DataArguments:
    if Path(data).expanduser().exists():
        return DataArguments(train_file=data)
    return DataArguments(dataset_name=data)


def _require_same(home: Path, found: dict[str, str]) -> None:
    """The kept export is named by what the manifest says of the rows: they must be those."""
    manifest = home / "manifest.json"
    if not manifest.is_file():
        return
    known = modeling.read_json(manifest).get("data", {}).get("fingerprint", {})
    digests = set(known.values())
    for name, digest in found.items():
        if digests and digest not in digests:
            raise DataError(
                f"{name} has changed since {home} was trained on it: give the rows to calibrate on (--data FILE)"
            )
