"""`neuralbot migrate script.py` prints what to change so that a script of ITREX imports neuralbot, as a unified diff.

Changed are the import names, and TrainingArguments, which is then the one that takes the arguments of 2024. What is
imported but not offered is told with its line. Writes nothing: `neuralbot migrate script.py | patch -p0` does.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

from neuralbot.command import run
from neuralbot.errors import UsageError
from neuralbot.old_imports import OLD, todays_module

_ARGUMENTS = "TrainingArguments"
_BY_MODULE = f"transformers.{_ARGUMENTS}"

# (line, first column, last line, column after it, new text); lines count from 1, columns in characters from 0
Edit = tuple[int, int, int, int, str]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="neuralbot migrate", description="Print what moves a script of ITREX to neuralbot, as a unified diff."
    )
    parser.add_argument("scripts", nargs="+", metavar="script.py", help="scripts that import ITREX")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    return run(lambda: _command(options.scripts), debug=options.debug)


def _command(scripts: Sequence[str]) -> int:
    for script in scripts:
        diff, missing = migrate(Path(script))
        sys.stdout.write(diff)
        for remark in missing if diff else [f"{script}: nothing to change", *missing]:
            print(remark, file=sys.stderr)
    return 0


def migrate(script: Path) -> tuple[str, list[str]]:
    """The unified diff of the changes, "" if there are none; and a remark for each import that is not offered.

    Raises UsageError for a file that cannot be read as Python.
    """
    old = _read(script)
    try:
        tree = ast.parse(old)
    except (SyntaxError, ValueError) as error:
        where = f"{script}:{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else str(script)
        advice = "; `jupyter nbconvert --to script` makes one" if script.suffix == ".ipynb" else ""
        raise UsageError(f"{where}: is not a Python script: {getattr(error, 'msg', error)}{advice}") from None
    lines = old.splitlines(keepends=True)
    new = _edited(lines, _edits(tree, lines))
    diff = difflib.unified_diff(lines, new, str(script), str(script))
    return "".join(_with_end(line) for line in diff), list(_missing(tree, script))


def _read(script: Path) -> str:
    try:
        with tokenize.open(script) as file:  # knows the coding line
            return file.read()
    except OSError as error:
        raise UsageError(f"{script}: cannot be read: {error.strerror}") from None
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{script}: is not a Python script: {error}") from None


def _with_end(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _is_old(name: str | None) -> bool:
    return bool(name) and str(name).partition(".")[0] == OLD


def _imports(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, list[str]]]:
    """Each import statement with the modules it names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield node, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, [node.module or ""]


def _edits(tree: ast.AST, lines: Sequence[str]) -> list[Edit]:
    edits: list[Edit] = []
    if not any(_is_old(module) for _, modules in _imports(tree) for module in modules):
        return edits
    tokens = [token for token in tokenize.generate_tokens(iter(lines).__next__) if token.string == OLD]
    for node, modules in _imports(tree):
        if any(_is_old(module) and todays_module(module) for module in modules):
            first, last = (node.lineno, 0), (node.end_lineno or node.lineno, sys.maxsize)
            edits += [(*token.start, *token.end, "neuralbot") for token in tokens if first <= token.start <= last]
        elif isinstance(node, ast.ImportFrom) and node.module in ("transformers", "transformers.training_args"):
            edits += _training_arguments(node, lines)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == OLD]
    edits += [_replaced(node, "neuralbot", lines) for node in names]
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == _BY_MODULE]
    edits += [_replaced(node, _ARGUMENTS, lines) for node in used]
    if used:
        edits += [_with_import(node, lines) for node, modules in _imports(tree) if "transformers" in modules][:1]
    return edits


def _replaced(node: ast.expr | ast.stmt, text: str, lines: Sequence[str]) -> Edit:
    line, end_line = node.lineno, node.end_lineno or node.lineno
    end = _column(lines, end_line, node.end_col_offset or 0)
    return line, _column(lines, line, node.col_offset), end_line, end, text


def _with_import(node: ast.stmt, lines: Sequence[str]) -> Edit:
    """The import of a module, and below it that of our TrainingArguments."""
    indent = lines[node.lineno - 1][: _column(lines, node.lineno, node.col_offset)]
    return _replaced(node, f"{ast.unparse(node)}\n{indent}from neuralbot.transformers import {_ARGUMENTS}", lines)


def _training_arguments(node: ast.ImportFrom, lines: Sequence[str]) -> Iterator[Edit]:
    """TrainingArguments from neuralbot.transformers, the other names from where they were."""
    ours = [alias for alias in node.names if alias.name == _ARGUMENTS]
    others = [alias for alias in node.names if alias.name != _ARGUMENTS]
    if ours:
        statements = [ast.ImportFrom(node.module, others, 0)] if others else []
        statements.append(ast.ImportFrom("neuralbot.transformers", ours, 0))
        indent = "\n" + lines[node.lineno - 1][: _column(lines, node.lineno, node.col_offset)]
        yield _replaced(node, indent.join(map(ast.unparse, statements)), lines)


def _column(lines: Sequence[str], line: int, offset: int) -> int:
    """The column in characters of a place that ast tells in bytes."""
    return len(lines[line - 1].encode()[:offset].decode())


def _edited(lines: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    new = list(lines)
    for line, start, end_line, end, text in sorted(edits, reverse=True):
        whole = new[line - 1][:start] + text + new[end_line - 1][end:]
        new[line - 1 : end_line] = whole.splitlines(keepends=True)
    return new


def _missing(tree: ast.AST, script: Path) -> Iterator[str]:
    """What the script imports from ITREX that is not offered."""
    for node, modules in _imports(tree):
        for old in filter(_is_old, modules):
            new = todays_module(old)
            if new is None:
                yield f"{script}:{node.lineno}: neuralbot offers no {old}"
            elif isinstance(node, ast.ImportFrom):
                known = getattr(importlib.import_module(new), "__all__", ())
                for alias in node.names:
                    if alias.name not in (*known, "*") and todays_module(f"{old}.{alias.name}") is None:
                        yield f"{script}:{node.lineno}: neuralbot offers no {alias.name} in {new}"
