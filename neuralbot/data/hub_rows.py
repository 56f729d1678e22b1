"""Data sets of the hub, and local folders in their layout -> rows: dictionaries from column to value.

A revision is looked up before anything is read, so that what is read is of that commit, whatever the cache holds.

Does not: know what columns mean (`formats`), split (`splits`), run data set scripts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from neuralbot import hub
from neuralbot.data.strict_json import Row
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import DataError


class HubRows:
    """The rows of one split; each iteration reads them anew, from the disk or, streamed, from the hub."""

    def __init__(self, name: str, config: str | None, split: str, loaded: Any, token: str | None) -> None:
        self._name, self._config, self._split, self._loaded, self._token = name, config, split, loaded, token

    def __iter__(self) -> Iterator[Row]:
        row = None
        with _hub_errors(self._name, self._config, self._split, token=self._token):
            for row in self._loaded:
                yield Row(row)
        if row is None:
            what = f"the data set {self._name}, split {self._split!r}, has no rows"
            raise DataError(f"{what}; choose another split or data set")


def load_hub(
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    cache_dir: str | None,
    token: str | None,
    streaming: bool,
    *,
    limit: int | None = None,
) -> HubRows:
    """The rows (the first `limit`) of one split of a hub data set, or of a local folder in that layout.

    streaming: they are fetched while they are read, instead of all beforehand. Data set scripts are never run: only
    json, csv, parquet and text files are read. Raises DataError, here or while reading.
    """
    import datasets

    with _hub_errors(name, config, split, revision, token):
        place, commit = _at(name, revision, token)
        loaded = datasets.load_dataset(
            place, config, split=split, revision=commit, cache_dir=cache_dir, token=token, streaming=streaming
        )
        return HubRows(name, config, split, loaded if limit is None else loaded.take(limit), token)


def hub_splits(
    name: str, config: str | None, revision: str | None, token: str | None, cache_dir: str | None = None
) -> list[str]:
    """The names of the splits that a hub data set or local folder has. Raises DataError."""
    import datasets

    with _hub_errors(name, config, revision=revision, token=token):
        place, commit = _at(name, revision, token)
        where: dict[str, Any] = {"revision": commit, "cache_dir": cache_dir, "token": token}
        try:
            builder = datasets.load_dataset_builder(place, config, **where)
        except ValueError as error:
            _refuse_config(name, config, datasets.get_dataset_config_names(place, **where), error)
        if commit and builder.hash != commit:  # offline, `datasets` takes the copy that was made last
            raise DataError(
                f"the data set {name} is in the cache at another revision than {revision or 'main'!r}: unset "
                "HF_HUB_OFFLINE to download this one"
            )
        return [str(split) for split in datasets.get_dataset_split_names(place, config, **where)]


def _refuse_config(name: str, config: str | None, known: list[str], error: ValueError) -> NoReturn:
    """Raise a DataError that lists the configurations if `config` is none of them, else `error`."""
    if config in known or hub.is_offline():  # offline they cannot be listed
        raise error
    what = f"no configuration {config!r}" if config else "several configurations"
    raise DataError(
        f"the data set {name} has {what}: set data.dataset_config_name (config in data.sources) to one of "
        f"{', '.join(known)}",
        code=ErrorCodes.ERROR_DATASET_CONFIG_NOT_FOUND,
    ) from error


def _at(name: str, revision: str | None, token: str | None) -> tuple[str, str | None]:
    """Today's name and the commit of a data set of the hub; of a folder, itself and None."""
    return (name, None) if Path(name).is_dir() else hub.find("dataset", name, revision=revision, token=token)


@contextlib.contextmanager
def _hub_errors(
    name: str, config: str | None, split: str = "", revision: str | None = None, token: str | None = None
) -> Iterator[None]:
    """Turns what the `datasets` library raises into a DataError with a next step."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    with hub.in_plain_words("dataset", name, revision, DataError):
        try:
            yield
        except (DatasetsError, OSError, ValueError, RuntimeError, LookupError) as error:
            if isinstance(error, DatasetNotFoundError) and (told := hub.refused_access("dataset", name, token)):
                raise told from error  # `datasets` has lost it on the way
            what = f"the data set {name}{f' ({config})' if config else ''}{f', split {split!r},' if split else ''}"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{what} cannot be loaded: {reason[:600]}; check data.dataset_name and data.dataset_config_name, or "
                "give files with data.train_file"
            ) from error
