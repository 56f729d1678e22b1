"""How every command of neuralbot ends: one message instead of a traceback, and an exit status that means something."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from neuralbot.errors import NeuralbotError


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
