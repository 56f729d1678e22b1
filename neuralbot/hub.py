"""The Hugging Face hub: which commit a name stands for, the files of a model, and in plain words why it gives none.

The environment of huggingface_hub counts: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT. Older copies are taken only
where HF_HUB_OFFLINE=1 asks for it: a hub that does not answer is an error, and a quick one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import NeuralbotError

# Read when huggingface_hub is first imported: else it tells the hub the version of torch and which tool runs it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1" and "huggingface_hub.constants" in sys.modules:  # a script was first
    sys.modules["huggingface_hub.constants"].HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]

Kind = Literal["model", "dataset"]

_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_THING = {"model": "the model", "dataset": "the data set"}
_REVISION_KEY = {"model": "model.model_revision", "dataset": "data.dataset_revision (revision in data.sources)"}
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def find(
    kind: Kind, name: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> tuple[str, str]:
    """(name, commit) that a name and revision stand for: the name of today where the repository has moved.

    With HF_HUB_OFFLINE=1 both are those of the last time it was asked. Raises what huggingface_hub raises.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    api, today = HfApi(token=token), name
    if not is_offline():
        # With a time limit, and first: the calls that follow would wait for minutes, or take an older copy unsaid.
        try:
            today = api.repo_info(name, repo_type=kind, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).id
        except json.JSONDecodeError as error:
            raise errors.FileMetadataError("a page that no hub sends") from error
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    if is_offline():
        commit = _noted_commit(cache, kind, name, revision)
    else:  # of no file: what the revision stands for is asked, and noted in the cache for a time without a hub
        folder: str = snapshot_download(
            name, repo_type=kind, revision=revision, token=token, cache_dir=cache_dir, allow_patterns=[]
        )
        commit = Path(folder).name
    if is_offline() and "/" not in name:
        moved = next(cache.glob(f"{kind}s--*--{name}/snapshots/{commit}"), None)
        today = moved.parents[1].name.split("--", 1)[1].replace("--", "/") if moved else name
    return today, commit


def _noted_commit(cache: Path, kind: Kind, name: str, revision: str | None) -> str:
    """What the revision stood for when the hub was asked last; the layout of the cache is a documented one."""
    from huggingface_hub import errors

    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        return (cache / f"{kind}s--{name.replace('/', '--')}" / "refs" / (revision or "main")).read_text().strip()
    except OSError as error:
        raise errors.LocalEntryNotFoundError(f"{name} was never asked for at {revision or 'main'}") from error


def download_model(
    name: str,
    *,
    weights: bool,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
) -> Path:
    """The folder with a model's files in the cache, what is missing downloaded: never pickles, never code.

    weights: those too, not only config and tokenizer. Raises what huggingface_hub raises.
    """
    from huggingface_hub import snapshot_download

    if not revision or not _COMMIT.fullmatch(revision):  # a commit that is in the cache needs no hub
        _, revision = find("model", name, revision=revision, token=token, cache_dir=cache_dir)
    folder: str = snapshot_download(
        name,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        allow_patterns=[*_SETTINGS, *(_WEIGHTS if weights else ())],
        local_files_only=is_offline(),
    )
    return Path(folder)


def refused_access(kind: Kind, name: str, token: str | None = None) -> Exception | None:
    """What the hub says against reading the files of a repository; None: nothing."""
    import httpx
    from huggingface_hub import HfApi

    try:
        HfApi(token=token).auth_check(name, repo_type=kind)
    except (httpx.HTTPError, OSError) as error:
        return error
    return None


@contextmanager
def in_plain_words(kind: Kind, name: str, revision: str | None, raises: type[NeuralbotError]) -> Iterator[None]:
    """Where the hub is the reason for an exception in the block: raise `raises`, which says why and what to do."""
    try:
        yield
    except Exception as error:  # what the hub's libraries raise shares no class
        for cause in _causes(error):
            if told := _sentence(cause, kind, name, revision):
                raise raises(told, code=_code(cause, kind)) from error
        raise


def _code(error: BaseException, kind: Kind) -> int | None:
    """ITREX's number where it is not that of the exception's class."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ErrorCodes.ERROR_HF_TOKEN_NOT_PROVIDED
    if isinstance(error, errors.RepositoryNotFoundError):  # answered by 401 too
        return None
    if isinstance(error, errors.RevisionNotFoundError) and kind == "model":
        return ErrorCodes.ERROR_INVALID_MODEL_VERSION
    refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401
    return ErrorCodes.ERROR_HF_TOKEN_NOT_PROVIDED if refused else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _sentence(error: BaseException, kind: Kind, name: str, revision: str | None) -> str | None:
    import httpx
    from huggingface_hub import constants, errors

    thing = f"{_THING[kind]} {name}"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    later = "set HF_HUB_OFFLINE=1 to work with what was downloaded before"
    missing = (errors.EntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(error, errors.GatedRepoError):
        if error.response.status_code == 401:
            return f"{thing} is gated: accept its licence at {page}, then {_LOG_IN}"
        return f"{thing} is gated and your token may not read it: ask for access at {page}, with the token's account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{thing} is no folder here and not on the hub: check the name; if it is private, {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{thing} has no revision {revision!r}: give a branch, tag or commit of it as {_REVISION_KEY[kind]}"
    if isinstance(error, missing) and is_offline():
        at = f" at revision {revision!r}" if revision else ""
        return f"{thing}{at} is not in the cache and HF_HUB_OFFLINE is set: unset it to download, or give a folder"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401:
        return f"the hub refuses your token: {_LOG_IN} to a valid one ({constants.ENDPOINT}/settings/tokens)"
    if isinstance(error, errors.HfHubHTTPError):
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        return f"the hub answered {status} when asked for {thing}: try again later, or {later}"
    if isinstance(error, errors.FileMetadataError):
        return f"what answers at {constants.ENDPOINT} is not a hub: check HF_ENDPOINT, the proxy and the network"
    if isinstance(error, httpx.RemoteProtocolError | httpx.NetworkError) and not isinstance(error, httpx.ConnectError):
        return f"the download of {thing} broke off ({error}): run it again, complete files are kept"
    if isinstance(error, httpx.TransportError):
        return (
            f"{thing} is no folder here and the hub at {constants.ENDPOINT} cannot be reached ({error}): check the "
            f"name and the network, or {later}"
        )
    return None
