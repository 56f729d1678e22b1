"""`neuralbot itrex setup` and `status`: the environment of the genuine package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from neuralbot.itrex import environment


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return the exit status. Raises NeuralbotError."""
    parser = argparse.ArgumentParser(
        prog="neuralbot itrex", description=f"The genuine package, as an engine. {environment.WARNING}"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>", dest="verb")
    setup = verbs.add_parser("setup", help="make its environment: about 8 GB, some minutes")
    setup.add_argument("--python", metavar="FILE", help="a Python 3.11 (default: this one, or python3.11)")
    verbs.add_parser("status", help="say whether the environment is there")
    for verb in verbs.choices.values():
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if options.verb is None:
        parser.print_help()
        return 0
    if options.verb == "status":
        print(f"{environment.folder()}: {'ready' if environment.is_ready() else 'not made; `neuralbot itrex setup`'}")
        return 0
    _say(f"note: {environment.WARNING}")
    environment.setup(options.python, _say)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
