"""Tokenized rows kept on the disk, so that the next run with the same rows and tokenizer begins at once.

An entry is one safetensors file in XDG_CACHE_HOME/neuralbot/rows, mapped into memory when it is used. Its name is a
digest of all that its content depends on: the turns, the tokenizer with its template, the settings, the code and the
libraries that it goes through. So an entry is never out of date, only unused; the oldest go when all take more than
KEPT_BYTES. Few rows are tokenized as quickly as they are looked up: they are not kept.

Does not: keep rows that are streamed, share entries between machines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import neuralbot
from neuralbot.conversation import Conversation
from neuralbot.data.tokenized import Tokenized, TokenRows, tokenize
from neuralbot.progress import Show, unseen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_BYTES = 10 * 2**30
WORTH_CHARACTERS = 2_000_000  # one to four seconds of a processor
_WAIT_S = 600
_ARRAYS = ("ids", "labels", "ends")


class _Damaged(Exception):
    """An entry that does not hold what was written."""


_UNREADABLE = (_Damaged, SafetensorError, KeyError, TypeError, ValueError)


def tokenize_or_recall(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    train_on_inputs: bool,
    where: str,
    max_prompt_length: int | None = None,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    show: Show = unseen,
) -> Tokenized:
    """`tokenize`, or what it gave for the same arguments in an earlier run.

    overwrite: make the rows anew even if they are there. say: tells a person why nothing happens for a while. show: the
    progress of tokenizing. A cache that cannot be used is a notice, not an error. Raises as `tokenize` does.
    """

    settings = (tokenizer, max_seq_length, train_on_inputs, where, max_prompt_length)

    def made() -> Tokenized:
        return tokenize(conversations, *settings, show=show)

    if sum(len(turn.content) for row in conversations for turn in row.turns) < WORTH_CHARACTERS:
        return made()
    try:
        entry = cache_folder() / f"{_key(conversations, *settings)}.safetensors"
        with _locked(entry.with_suffix(".lock"), say):
            return _recalled(entry, made, where, overwrite=overwrite)
    except OSError as error:  # a lock that is held too long is one
        return _noted(made(), where, f"tokenized without the cache: {error}")


def _recalled(entry: Path, made: Callable[[], Tokenized], where: str, *, overwrite: bool) -> Tokenized:
    notice = "tokenized anew, because of data.overwrite_cache" if overwrite else ""
    if entry.exists() and not overwrite:
        try:
            return _read(entry)
        except _UNREADABLE as error:
            notice = f"tokenized anew, the cached rows {entry} are damaged: {error}"
    done = made()
    try:
        _write(entry, done)
        _drop_oldest(entry)
        done = _read(entry)  # mapped from the disk, not in memory
    except (OSError, *_UNREADABLE) as error:
        notice = f"not kept in the cache: {error}"
    return _noted(done, where, notice)


def _noted(done: Tokenized, where: str, notice: str) -> Tokenized:
    return replace(done, notices=(*done.notices, f"{where}: {notice}")) if notice else done


def cache_folder() -> Path:
    """Where entries are; made if it is not there."""
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(root) / "neuralbot" / "rows"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Held while an entry is read or written. Raises Timeout."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another run tokenizes the same rows: waiting for it, at most {_WAIT_S} s (it holds {path})")
        lock.acquire(timeout=_WAIT_S)
    try:
        yield
    finally:
        lock.release()


def _key(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    train_on_inputs: bool,
    where: str,
    max_prompt_length: int | None = None,
) -> str:
    """A digest of all that the tokenized rows depend on."""
    digest = hashlib.sha256(_code().encode())
    specials = sorted(map(str, tokenizer.special_tokens_map.items()))
    settings = [tokenizer.chat_template, specials, max_seq_length, train_on_inputs, where, max_prompt_length]
    digest.update(json.dumps(settings).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for row in conversations:
        digest.update(repr((row.turns, row.tools)).encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:40]


@cache
def _code() -> str:
    """A digest of the code that rows go through: ours, and the versions of the libraries."""
    digest = hashlib.sha256()
    package = Path(neuralbot.__file__).parent
    for path in sorted((*package.glob("*.py"), *(package / "data").glob("*.py"))):
        digest.update(path.read_bytes())
    digest.update(" ".join(version(name) for name in ("transformers", "tokenizers", "jinja2")).encode())
    return digest.hexdigest()


def _read(entry: Path) -> Tokenized:
    with safe_open(entry, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        arrays = {name: file.get_tensor(name).numpy() for name in _ARRAYS}
    rows = TokenRows(**arrays)
    if about["sha256"] != _sha256(rows):
        raise _Damaged("its content does not fit its digest")
    os.utime(entry)  # it counts as the newest now
    return Tokenized(rows, about["dropped"], tuple(about["notices"]), about["cut"], about["shortened"])


def _write(entry: Path, done: Tokenized) -> None:
    about = {
        "sha256": _sha256(done.rows), "dropped": done.dropped, "notices": done.notices, "cut": done.cut,
        "shortened": done.shortened,
    }  # fmt: skip
    arrays = {name: torch.from_numpy(getattr(done.rows, name)) for name in _ARRAYS}
    partial = entry.with_suffix(".partial")
    save_file(arrays, partial, metadata={"about": json.dumps(about)})
    partial.replace(entry)


def _sha256(rows: TokenRows) -> str:
    digest = hashlib.sha256()
    for name in _ARRAYS:
        digest.update(getattr(rows, name))
    return digest.hexdigest()


def _drop_oldest(newest: Path) -> None:
    """Remove the entries that were not used for longest, until all take KEPT_BYTES at most; the newest stays."""
    entries = {path: path.stat() for path in newest.parent.glob("*.safetensors")}
    total = sum(entry.st_size for entry in entries.values())
    for path in sorted(entries, key=lambda path: entries[path].st_mtime):
        if total <= KEPT_BYTES or path == newest:
            break
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
        total -= entries[path].st_size
