"""API keys: only their SHA-256 is kept, and a key that is presented is compared with each in constant time.

A plain hash is enough because keys are made here with 256 random bits: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from neuralbot.errors import UsageError

SHORTEST = 16  # characters of a key that somebody else made
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_LINE = re.compile(r"(?P<name>[\w.-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})", re.ASCII)


class Keys:
    """digests: name -> SHA-256 of its key. Empty: no key is asked for."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    def __len__(self) -> int:
        return len(self._digests)

    def name_of(self, key: str) -> str | None:
        """Whose key it is; takes as long for each one, right or wrong."""
        given = _digest(key)
        found = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found


def read(path: Path | None, own: str | None = None) -> Keys:
    """The keys of a file of lines `NAME sha256:DIGEST`, and `own`, a key as it is, named "default".

    Raises UsageError.
    """
    digests = {} if path is None else _read_file(path)
    if own:
        if len(own) < SHORTEST:
            raise UsageError(f"NEURALBOT_API_KEY has {len(own)} characters: expected at least {SHORTEST}")
        digests["default"] = _digest(own)
    return Keys(digests)


def make(name: str, path: Path) -> str:
    """Adds a new key under `name` to the file and returns it: it can be read this once. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--make-key {name!r} cannot be used: expected letters, digits, '.', '_' and '-', 64 at most")
    if path.exists() and name in _read_file(path):
        raise UsageError(f"{path} has a key named {name} already: take out its line, or choose another name")
    key = f"nb-{secrets.token_urlsafe(32)}"
    try:
        path.touch(mode=0o600)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{name} sha256:{_digest(key).hex()}\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return key


def _read_file(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the keys in {path} cannot be read: {error}") from error
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not (line := line.partition("#")[0].strip()):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match["name"] in digests:
            raise UsageError(
                f"{path}:{number}: expected NAME sha256:DIGEST, each name once; "
                f"`neuralbot serve --make-key NAME --api-keys {path}` writes such a line"
            )
        digests[match["name"]] = bytes.fromhex(match["digest"])
    if not digests:
        raise UsageError(f"{path} has no keys: `neuralbot serve --make-key NAME --api-keys {path}` makes one")
    return digests


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
