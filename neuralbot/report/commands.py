"""`neuralbot report RUN`: the report of a run, made again from what lies in its folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.report.facts import Report, gather
from neuralbot.report.model_card import write_model_card
from neuralbot.report.page import PAGE, html
from neuralbot.report.plot import plot_loss
from neuralbot.report.run import Run, read
from neuralbot.report.summary import SUMMARY, markdown
from neuralbot.training.records import write_text


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


def write(folder: Path, output: Path | None = None) -> list[Path]:
    """Write both files into the run folder, or the one named. Raises RunFolderError, UsageError."""
    if output and output.suffix not in _MAKERS:
        raise UsageError(f"--output {output}: expected a name that ends in {' or '.join(_MAKERS)}")
    run = read(folder)
    report = gather(run)
    files = [output] if output else [folder / PAGE, folder / SUMMARY]
    for file in files:
        write_text(file, _MAKERS[file.suffix](report, run))
    return files


_MAKERS: dict[str, Callable[[Report, Run], str]] = {".html": html, ".md": lambda report, run: markdown(report)}


def write_all(folder: Path) -> list[str]:
    """Everything that is told of a run, into its folder. What cannot be made is said in the answer, and not raised."""
    failed = []
    makers: tuple[Callable[[Path], object], ...] = (plot_loss, write, write_model_card)
    for make, name in zip(makers, ("the picture of the losses", "the report", "the model card"), strict=True):
        try:
            make(folder)
        except Exception as error:  # a drawing library, a full disk: the model is trained, and that counts
            said = str(error) if isinstance(error, NeuralbotError) else f"{type(error).__name__}: {error}"
            failed.append(f"{name} could not be made: {said}; later: neuralbot report {folder}")
    return failed
