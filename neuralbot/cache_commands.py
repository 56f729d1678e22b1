"""`neuralbot cache list` and `cache prune`: the exported models that are kept, and the room they take."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from datetime import datetime

from neuralbot.engines import export_cache
from neuralbot.errors import UsageError


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return the exit status. Raises NeuralbotError."""
    parser = argparse.ArgumentParser(prog="neuralbot cache", description="The exported models that are kept.")
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>", dest="verb")
    verbs.add_parser("list", help="what is kept, the newest first")
    prune = verbs.add_parser("prune", help="remove what is kept, and what killed exports left behind")
    prune.add_argument("--keep", type=int, default=0, metavar="N", help="keep the newest N (default: 0)")
    for verb in (parser, *verbs.choices.values()):
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if options.verb is None:
        parser.print_help()
        return 0
    return _prune(options.keep) if options.verb == "prune" else _list()


def _list() -> int:
    from rich.table import Table

    from neuralbot.command import text_console

    table = Table("model", "precision", "MB", "made", "folder", box=None, pad_edge=False)
    for entry in export_cache.entries():
        made = datetime.fromtimestamp((entry.folder / export_cache.MANIFEST).stat().st_mtime)
        precision = "not supported" if "unsupported" in entry.facts else str(entry.facts.get("precision"))
        size = f"{entry.size_bytes / 1e6:,.1f}"
        table.add_row(str(entry.facts.get("source")), precision, size, f"{made:%Y-%m-%d %H:%M}", entry.folder.name[:12])
    console = text_console()
    console.print(export_cache.cache_folder())
    console.print(table)
    return 0


def _prune(keep: int) -> int:
    if keep < 0:
        raise UsageError(f"--keep={keep} cannot be used: expected 0 or more")
    freed = 0
    for entry in export_cache.entries()[keep:]:
        export_cache.remove(entry)
        freed += entry.size_bytes
    for part in export_cache.leftovers():
        freed += sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        shutil.rmtree(part, ignore_errors=True)
    print(f"{freed / 1e6:,.1f} MB freed in {export_cache.cache_folder()}")
    return 0
