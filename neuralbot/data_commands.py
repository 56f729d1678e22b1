"""`neuralbot data ...`: look at rows before a model is trained on them.

preview: what training will see of a recipe's rows. check: the problems of an OpenAI-style file, repaired on request.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.command import text_console
from neuralbot.errors import DataError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from neuralbot.data.checks import Finding
    from neuralbot.data.openai_jsonl import Checked, Problem
    from neuralbot.recipe import Recipe

_MOST_SHOWN = 1000  # rows
_PER_KIND = 10  # problems of one kind that are printed one by one


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return the exit status. Raises NeuralbotError."""
    parser, commands = _parser()
    if argv and argv[0] in commands:
        # a parser of its own: overrides may stand behind options, which argparse allows without sub-commands only
        options = commands[argv[0]].parse_intermixed_args(argv[1:])
        status: int = options.command(options)
        return status
    parser.parse_args(argv)
    parser.print_help()
    return 0


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="neuralbot data", description="Look at rows before training on them.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>")
    preview = _verb(verbs, "preview", "what training will see of a recipe's rows; loads no model")
    preview.set_defaults(command=_preview)
    preview.add_argument("recipe", help="path of a recipe, or the name of a shipped one (`neuralbot recipes list`)")
    preview.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    preview.add_argument("--html", metavar="FILE", type=Path, help="write the same as a page, too")
    preview.add_argument("--rows", metavar="N", type=_row_count, default=3, help="training rows to show (default: 3)")
    check = _verb(verbs, "check", "find and repair problems of an OpenAI-style JSON lines file")
    check.set_defaults(command=_check)
    check.add_argument("file", metavar="FILE", type=Path, help="prompt and completion, or messages, on each line")
    check.add_argument("--repair", metavar="OUT", type=Path, help="write the rows to this new file, repaired")
    check.add_argument("--format", choices=("auto", "prompt", "chat"), default="auto", help="default: by the keys")
    for command in (preview, check):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser, {"preview": preview, "check": check}


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser


def _row_count(text: str) -> int:
    if not text.isdecimal() or int(text) > _MOST_SHOWN:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows; expected 0 to {_MOST_SHOWN:,}")
    return int(text)


def _preview(options: argparse.Namespace) -> int:
    from neuralbot import modeling, recipe
    from neuralbot.data import checks

    page: Path | None = options.html
    if page and page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {page}: expected a name that ends in .html")
    loaded = recipe.load(options.recipe, options.overrides)
    modeling.hide_loading_bars()
    console = text_console(record=page is not None)
    findings = _show(loaded, options.rows, console)
    if page:
        _write_page(console, page)
    checks.stop(findings)
    return 0


def _show(recipe: Recipe, shown: int, console: Console) -> Sequence[Finding]:
    """Read the rows as a run would, print what was found, and return the findings."""
    from neuralbot import modeling, recipe_tokenizer
    from neuralbot.data import report
    from neuralbot.data.preview import preview
    from neuralbot.data.splits import load_splits

    rendering = recipe_tokenizer.load(recipe)
    limit = modeling.row_limit(recipe.model, recipe.data.max_seq_length, recipe.finetuning.virtual_tokens)
    splits = load_splits(recipe.data, recipe.finetuning.task, do_eval=recipe.evaluates, token=recipe.model.token)
    for line in (*splits.detected, f"prompt style: {rendering.style}"):
        console.print(report.plain(line))
    notices = [*recipe.notices, *rendering.notices]
    if limit < recipe.data.max_seq_length:
        notices.append(f"data.max_seq_length={recipe.data.max_seq_length}, but the model reads only {limit:,} tokens")
    found = preview(
        splits, rendering.tokenizer, limit=limit, train_on_inputs=recipe.finetuning.train_on_inputs, shown=shown,
        max_prompt_length=recipe.data.max_prompt_length, notices=notices,
    )  # fmt: skip
    for section in report.sections(found):
        console.print(section)
    return found.findings


def _write_page(console: Console, page: Path) -> None:
    from neuralbot.data.report import HTML

    try:
        page.write_text(console.export_html(code_format=HTML), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {page}: {error.strerror}") from None
    console.print(f"\nwrote {page}")


def _check(options: argparse.Namespace) -> int:
    from neuralbot.data import openai_jsonl

    checked = openai_jsonl.check(options.file, options.format)
    console = text_console()
    _print_problems(checked, console)
    by_hand = sum(problem.kind.repair is None for problem in checked.problems)
    if not checked.problems:
        if options.repair:
            console.print(f"nothing to repair: {options.repair} is not written")
        return 0
    if options.repair is None:
        repairable = len(checked.problems) - by_hand
        console.print(f"problems that --repair OUT.jsonl repairs: {repairable:,}; left to a person: {by_hand:,}")
        return DataError.exit_status
    openai_jsonl.write(checked, options.repair)
    console.print(
        f"wrote {options.repair}: {len(checked.rows):,} of {checked.total:,} rows, {checked.changed:,} repaired, "
        f"{checked.total - len(checked.rows):,} left out; problems left to a person: {by_hand:,}"
    )
    return DataError.exit_status if by_hand else 0


def _print_problems(checked: Checked, console: Console) -> None:
    """The first problems of each kind with their places, then how many there are and what the repair does."""
    from rich.table import Table

    from neuralbot.data.report import plain

    kinds: dict[str, list[Problem]] = {}
    for problem in checked.problems:
        kinds.setdefault(problem.kind.name, []).append(problem)
    for name, problems in kinds.items():
        for problem in problems[:_PER_KIND]:
            console.print(plain(problem.text))
        if len(problems) > _PER_KIND:
            console.print(f"... and {len(problems) - _PER_KIND:,} more: {name}")
    form = "prompts with completions" if checked.form == "prompt" else "messages"
    clean = "" if kinds else "; no problems"
    console.print(plain(f"{checked.path}: {checked.total:,} rows, {form}{clean}"))
    if kinds:
        table = Table("problem", "rows", "repair", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for name, problems in kinds.items():
            table.add_row(name, f"{len(problems):,}", problems[0].kind.repair or "by hand")
        console.print(table)
    for note in checked.notes:
        console.print(plain(f"note: {note}"))
