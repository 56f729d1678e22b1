"""`neuralbot report RUN`: the report of a run, made again from what lies in its folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from neuralbot.report.files import write
from neuralbot.report.page import PAGE
from neuralbot.report.summary import SUMMARY


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit status. Raises NeuralbotError."""
    options = _parser().parse_args(argv)
    for path in write(options.run, options.output):
        print(f"wrote {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot report",
        description=f"Make {PAGE} and {SUMMARY} of a run again, from the files of its folder; nothing is loaded.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder; also of a run that did not finish")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write only this file, a page (.html) or text (.md)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
