"""The small files of a run: JSON and JSON lines, written whole or not at all, without secrets, and read back.

Secrets (values of keys such as `token` or `password`, and Hugging Face tokens anywhere) are written as "***",
numbers that JSON does not have (NaN, infinity) as null.

Not done here: knowing what the files mean (`run_folder`), YAML.
"""

from __future__ import annotations

import errno
import json
import math
import numbers
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import RunFolderError

_HIDDEN = "***"
_SECRET_KEY = re.compile(r"(?i)password|secret|api_?key|private_?key|credential|(^|_)token$")
_TOKEN_OF_TEXT = re.compile(r"(?i)^(pad|eos|bos|unk|sep|cls|mask|start|end|image|stop)_token$")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_YAML_LINE = re.compile(r"^(?P<head>\s*(?:- )?(?P<key>[\w.-]+)\s*:\s+)(?P<value>\S.*)$")
_YAML_PLAIN = re.compile(r"(?i)null|~|true|false|[-+.\d]+|[|>][-+]?")


def hide_secrets(text: str) -> str:
    """YAML (or any) text with the values of secret keys, and Hugging Face tokens, replaced by "***"."""
    return "".join(_HUB_TOKEN.sub(_HIDDEN, _hide_line(line)) for line in text.splitlines(keepends=True))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value` as JSON, as `write_text` does."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run folder. Raises RunFolderError if it is missing or broken."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{path}:{error.lineno} is not valid JSON ({error.msg}); expected a file that a run wrote"
        ) from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}; expected an object, as a run writes it")
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line without its end (a run that was killed) is left out."""
    rows, number = [], 0
    try:
        for number, line in enumerate(read_text(path).split("\n")[:-1], 1):  # noqa: B007
            rows.append(json.loads(line))
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path}:{number} is not valid JSON ({error.msg}): {error.doc[:80]!r}") from error
    return rows


def json_line(record: Mapping[str, Any]) -> str:
    """One line of a JSON-lines file, its end included."""
    return json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any, key: str = "") -> Any:
    """The value in JSON's terms: finite numbers, no secrets."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part, str(name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, key) for part in value]
    if isinstance(value, str | os.PathLike):
        return _HIDDEN if _is_secret(key) and str(value) else _HUB_TOKEN.sub(_HIDDEN, str(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"{key}={value!r} of type {type(value).__name__} has no form in JSON")


def _is_secret(key: str) -> bool:
    return bool(_SECRET_KEY.search(key)) and not _TOKEN_OF_TEXT.search(key)


def _hide_line(line: str) -> str:
    found = _YAML_LINE.match(line.rstrip("\n"))
    if not found or not _is_secret(found["key"]) or _YAML_PLAIN.fullmatch(found["value"].strip()):
        return line
    return f'{found["head"]}"{_HIDDEN}"\n'


def write_text(path: Path, text: str) -> None:
    """Writes `text` so that a reader sees the old file or the new one, never a part. Raises RunFolderError."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def read_text(path: Path) -> str:
    """The text of a file that a run wrote. Raises RunFolderError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RunFolderError(f"cannot read {path}: {reason}; expected a file that a run wrote") from error


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    """The error to raise where `path` could not be written."""
    return RunFolderError(
        f"cannot write {path}: {error.strerror or error}; make room or set permissions, or choose another folder with "
        "--output-dir",
        code=ErrorCodes.ERROR_OUT_OF_STORAGE if error.errno in (errno.ENOSPC, errno.EDQUOT) else None,
    )
