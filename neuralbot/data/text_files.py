"""Files -> text: unpacked where they are .gz, strict UTF-8 without a byte order mark, held to limits.

Does not: know what stands in a line, read parquet.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import math
from collections.abc import Iterator
from pathlib import Path

from neuralbot.data import strict_json
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.strict_json import fail, located, too_large
from neuralbot.errors import DataError

_BOMB_BYTES, _BOMB_RATIO = 64 * 2**20, 100  # compressed text beyond both is no data set
_EXCERPT_BYTES = 400


class Bytes:
    """The bytes of an open file. Raises DataError when a .gz unpacks to far more than any text would."""

    def __init__(self, path: Path, stream: gzip.GzipFile | io.BufferedReader) -> None:
        self._path = path
        self._stream = stream
        packed = path.suffix.lower() == ".gz"
        self._most = max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size) if packed else math.inf
        self._count = 0

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(size))

    def readline(self, size: int) -> bytes:
        return self._counted(self._stream.readline(size))

    def _counted(self, raw: bytes) -> bytes:
        self._count += len(raw)
        if self._count > self._most:
            what = f"unpacks to more than {_BOMB_RATIO} times its size"
            fail(self._path, what, "if this is meant, unpack it and give the unpacked file")
        return raw


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[Bytes]:
    """The file, unpacked, behind its byte order mark. Raises DataError if it is UTF-16."""
    stream: gzip.GzipFile | io.BufferedReader
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        mark = stream.peek(3)[:3]
        if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            fail(f"{path}:1:1", "the file is UTF-16, not UTF-8", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8`")
        if mark == codecs.BOM_UTF8:
            stream.read(len(mark))
        yield Bytes(path, stream)


def lines(path: Path, bad: BadRows) -> Iterator[tuple[int, str]]:
    """(line number, text with its line end). Lines that are too long or no text go to `bad`."""
    longest = strict_json.ROW_LIMIT_BYTES
    with open_bytes(path) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(longest + 1), b""), start=1):
            try:
                if len(raw) > longest:
                    too_large(f"{path}:{number}", raw[:_EXCERPT_BYTES].decode("utf-8", errors="replace"))
                text, _ = decode(path, raw, number)
            except DataError as error:
                bad.add(error, raw.decode("utf-8", errors="replace"))
                while len(raw) > longest and not raw.endswith(b"\n"):
                    raw = stream.readline(longest + 1) or b"\n"
            else:
                yield number, text


def decode(path: Path, raw: bytes, line: int, column: int = 1, *, more: bool = False) -> tuple[str, int]:
    """The text of bytes that begin at line:column of the file, and how many bytes it took.

    All of them, unless there is `more` of the file and they end inside a character. Raises DataError at the first
    byte that is not UTF-8, or NUL.
    """
    try:
        text, used = codecs.utf_8_decode(raw, "strict", not more)
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        excerpt = raw[raw.rfind(b"\n", 0, error.start) + 1 :][:_EXCERPT_BYTES]
        fail(
            located(path, before, len(before), line, column), f"byte 0x{raw[error.start]:02x} is not UTF-8",
            "save the file as UTF-8, for instance with `iconv -f WINDOWS-1252 -t UTF-8`",
            excerpt.decode("utf-8", errors="replace").split("\n", 1)[0],
        )  # fmt: skip
    if (nul := text.find("\x00")) >= 0:
        where = located(path, text, nul, line, column)
        fail(where, "a NUL character", "take it out, text has none", text[max(nul - 40, 0) : nul + 40])
    return text, used
