"""What commands share: how they end (one message, an exit status that means something), and where they print rows."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from neuralbot.errors import NeuralbotError

if TYPE_CHECKING:
    from rich.console import Console


def run(command: Callable[[], int | None], debug: bool) -> int:
    """Call a command and turn what it raises into one message on stderr and an exit status.

    With `debug`, errors are raised as they are, so that Python prints the traceback.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except NeuralbotError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        print("this was not expected; run again with --debug for the traceback", file=sys.stderr)
        return 1


def text_console(*, record: bool = False) -> Console:
    """Standard output without markup, emoji codes and highlighting: rows may hold anything."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # rows may hold what the terminal's encoding does not
    return Console(record=record, soft_wrap=True, markup=False, emoji=False, highlight=False)
