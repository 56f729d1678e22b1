"""The command `neuralbot <verb>`: reads the command line, calls the verb's module, prints, exits.

The verbs of FORWARDED have modules of their own that read the rest of the line; they are imported when asked
for, so that `neuralbot --help` stays quick. Exit codes are those of errors.py; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from neuralbot import __version__
from neuralbot.command import run
from neuralbot.errors import RecipeError, UsageError

# Verb -> (module with main(argv) -> int, what it does).
FORWARDED: dict[str, tuple[str, str]] = {
    "finetune": ("neuralbot.finetune", "tune a model by a recipe: neuralbot finetune RECIPE [section.key=value ...]"),
    "test": ("neuralbot.trial.command", "try a recipe before a long run: neuralbot test RECIPE"),
    "watch": ("neuralbot.watch", "follow a run from another terminal: neuralbot watch RUN"),
    "eval": ("neuralbot.eval_commands", "score a model: neuralbot eval RUN --data FILE, eval compare A B"),
    "export": ("neuralbot.export_commands", "write a run as one model, for the OpenVINO engine: neuralbot export RUN"),
    "cache": ("neuralbot.cache_commands", "the exported models that are kept: neuralbot cache list, cache prune"),
    "chat": ("neuralbot.terminal", "chat with a tuned model: neuralbot chat RUN"),
    "serve": ("neuralbot.server.command", "answer clients of OpenAI, TGI and SageMaker: neuralbot serve RUN"),
    "itrex": ("neuralbot.itrex.commands", "the archived package itself, as an engine: neuralbot itrex setup"),
    "report": ("neuralbot.report.commands", "make the report of a run again: neuralbot report RUN"),
    "data": ("neuralbot.data_commands", "look at rows before training: neuralbot data preview RECIPE, data check FILE"),
    "migrate": ("neuralbot.migrate", "print what moves a script of ITREX to neuralbot: neuralbot migrate SCRIPT"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of the process) and return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    if args and args[0] in FORWARDED:
        return run(lambda: _forward(args[0], args[1:]), debug)
    options = _parser().parse_args(args)
    if options.command is None:
        options.parser.print_help()
        return 0
    return run(lambda: options.command(options), debug)


def _forward(verb: str, rest: list[str]) -> int:
    status: int = import_module(FORWARDED[verb][0]).main(rest)
    return status


class _Parser(argparse.ArgumentParser):
    """Names the nearest word for a wrong one; the exit status of a wrong command line is 2."""

    def error(self, message: str) -> NoReturn:
        from neuralbot.recipe.fields import did_you_mean

        if "invalid choice: '" in message:
            word, _, choices = message.partition("invalid choice: '")[2].partition("'")
            message += did_you_mean(word, [choice.strip(" '()") for choice in choices[14:].split(",")])
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="neuralbot", description="Finetune and serve a language model on a CPU server.")
    parser.add_argument("--version", action="version", version=f"neuralbot {__version__}")
    parser.set_defaults(command=None, parser=parser)
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>")
    for verb, (_, text) in FORWARDED.items():
        verbs.add_parser(verb, help=text, add_help=False)
    _add_recipes(verbs.add_parser("recipes", help="list, show and check recipes; print their JSON schema"))
    return parser


def _add_recipes(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(parser=parser)
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>")
    listing = verbs.add_parser("list", help="the recipes that come with neuralbot")
    listing.set_defaults(command=_list)
    show = verbs.add_parser("show", help="print a recipe")
    show.add_argument("name", help="a recipe file, or the name of one that comes with neuralbot")
    show.set_defaults(command=_show)
    validate = verbs.add_parser("validate", help="check recipes; nothing is loaded or written")
    validate.add_argument("files", nargs="+", metavar="FILE", help="recipe files or names")
    validate.set_defaults(command=_validate)
    schema = verbs.add_parser("schema", help="print the JSON schema of recipes, for editors")
    schema.add_argument("-o", "--output", metavar="FILE", help="write it to a file instead")
    schema.set_defaults(command=_schema)
    for verb in (listing, show, validate, schema):
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from neuralbot import recipe

    table = Table("name", "what it trains", box=None, pad_edge=False)
    for path in recipe.shipped_recipes():
        table.add_row(path.stem, _headline(path))
    Console().print(table)
    return 0


def _headline(path: Path) -> str:
    """The first comment line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def _show(options: argparse.Namespace) -> int:
    from neuralbot.recipe.loading import recipe_file

    print(recipe_file(options.name).read_text(encoding="utf-8"), end="")
    return 0


def _validate(options: argparse.Namespace) -> int:
    from neuralbot import recipe

    status = 0
    for file in options.files:
        try:
            notices = recipe.validate(file)
        except RecipeError as error:
            status = error.exit_status
            print(f"{file}: {error}", file=sys.stderr)
        else:
            print(f"{file}: ok")
            for notice in notices:
                print(f"  {notice}")
    return status


def _schema(options: argparse.Namespace) -> int:
    from neuralbot import recipe

    text = json.dumps(recipe.json_schema(), indent=2) + "\n"
    if options.output is None:
        print(text, end="")
        return 0
    try:
        Path(options.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {options.output}: {error.strerror}") from None
    print(f"wrote {options.output}")
    return 0
