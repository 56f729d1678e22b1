"""The latest error of this process as a number, for scripts of ITREX that ask for it after each call.

Errors raise here; the number is kept beside that. A call that succeeds clears it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import NeuralbotError

__all__ = ["clear_latest_error", "get_latest_error", "get_latest_error_string", "set_latest_error"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_latest: int | None = None


def set_latest_error(error_code: int) -> None:
    """Keep and log an error; one of ErrorCodes. Raises NeuralbotError for another number."""
    global _latest
    if error_code not in ErrorCodes.error_strings:
        raise NeuralbotError(f"set_latest_error({error_code!r}): expected one of neural_chat.errorcode.ErrorCodes")
    _latest = error_code
    if error_code != ErrorCodes.SUCCESS:
        logger.error("neuralchat error %d: %s", error_code, ErrorCodes.error_strings[error_code])


def get_latest_error() -> int | None:
    """The code of the latest call that failed, None if the latest call succeeded."""
    return _latest


def get_latest_error_string() -> str | None:
    """What the latest error means in words, None if there is none."""
    return None if _latest is None else ErrorCodes.error_strings[_latest]


def clear_latest_error() -> None:
    global _latest
    _latest = None


def recorded(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, whose outcome `get_latest_error` tells afterwards; what it raises is raised."""

    @functools.wraps(call)
    def recording(*args: P.args, **kwargs: P.kwargs) -> T:
        global _latest
        try:
            result = call(*args, **kwargs)
        except Exception as error:  # not logged: it is raised
            _latest = error.code if isinstance(error, NeuralbotError) else ErrorCodes.ERROR_GENERIC
            raise
        clear_latest_error()
        return result

    return recording
