"""Writes what is told of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.report.facts import Report, gather
from neuralbot.report.model_card import write_model_card
from neuralbot.report.page import PAGE, html
from neuralbot.report.plot import plot_loss
from neuralbot.report.run import Run, read
from neuralbot.report.summary import SUMMARY, markdown
from neuralbot.training.records import write_text

_MAKERS: dict[str, Callable[[Report, Run], str]] = {".html": html, ".md": lambda report, run: markdown(report)}


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
