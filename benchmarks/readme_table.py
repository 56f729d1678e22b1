"""The tables of results in the README and in docs/, made from committed files.

    python -m benchmarks.readme_table export runs/alpaca     one run -> benchmarks/results/recipe-alpaca.json
    python -m benchmarks.readme_table update                 result files -> the tables
    python -m benchmarks.readme_table check                  exit status 1 if a page holds other tables

Each table stands in its page between two marker lines. The form of a result file is in benchmarks/results/README.md.
Nothing is measured here: `neuralbot finetune` and `benchmarks.finetune` measure, this file copies and prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import activation_groups, engines, generate_table, large_data, paired, prompt_lookup, speed_table
from neuralbot.errors import NeuralbotError, RunFolderError, UsageError
from neuralbot.training.records import read_json, write_json, write_text
from neuralbot.training.run_folder import MANIFEST, RESULTS

ROOT = Path(__file__).resolve().parents[1]

_HEAD = ("recipe", "questions", "score", "before", "after (95 % interval)", "training rows", "tuning", "in all")
_ALIGNMENT = ("---", "---:", "---", "---:", "---:", "---:", "---:", "---:")
_SCORE_NAMES = {
    "exact_match": "exact match",
    "contains": "fact in the answer",
    "rougeL": "ROUGE-L",
    "pass_at_1": "tests passed",
}
_FROM_MANIFEST = (
    "task", "method", "trainable_parameters", "prompt_style", "hardware", "plan", "seed", "neuralbot", "versions",
    "commit", "commit_dirty", "started", "durations_s", "notices",
)  # fmt: skip


def export(run_dir: Path) -> dict[str, Any]:
    """The result file's content for a finished run. Raises RunFolderError if the run has no scores to show."""
    manifest, results = read_json(run_dir / MANIFEST), read_json(run_dir / RESULTS)
    if not manifest.get("finished"):
        raise RunFolderError(f"the run {run_dir} did not finish; only finished runs are exported: run its recipe again")
    if not results.get("after"):
        raise RunFolderError(f"the run {run_dir} has no scores after tuning; give its recipe data.test_file")
    facts = {key: manifest[key] for key in _FROM_MANIFEST if key in manifest}
    data = manifest.get("data", {})
    return {
        "schema": 1,
        "recipe": manifest.get("name") or run_dir.resolve().name,
        "base_model": manifest.get("base_model", {}).get("name"),
        "rows": data.get("rows", {}),
        "tokens": data.get("tokens", {}),
        "fingerprint": data.get("fingerprint", {}),
        **facts,
        "results": results,
    }


def recipe_table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown between the markers: one row for each result, then the machines they were measured on."""
    lines = [f"| {' | '.join(row)} |" for row in (_HEAD, _ALIGNMENT, *map(_row, results))]
    machines = sorted({_machine(result) for result in results})
    return "\n".join([*lines, "", *(f"Measured on {machine}." for machine in machines)])


# Name of the marker lines -> (the files it is made of, how).
TABLES: dict[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], str]]] = {
    "results": ("recipe-*.json", recipe_table),
    "speed": ("finetune-*.json", speed_table.table),
    "large": ("large-data.json", large_data.sentence),
    "engines": ("engines.json", engines.table),
    "answering": ("generate.json", generate_table.sentence),
    "generate": ("generate.json", generate_table.table),
    "paired": ("paired.json", paired.table),
    "lookup": ("prompt-lookup.json", prompt_lookup.table),
    "groups": ("activation-groups.json", activation_groups.sentence),
}
PAGES = {
    "README.md": ("results", "speed", "large", "answering"),
    "docs/itrex.md": ("engines",),
    "docs/openvino.md": ("generate", "paired", "groups", "lookup"),
}


def outdated(root: Path, results_dir: Path) -> dict[Path, str]:
    """The pages that do not hold the tables of the result files -> their text with them."""
    found = {}
    for name, tables in PAGES.items():
        page = root / name
        old = text = _read(page)
        for table in tables:
            pattern, made = TABLES[table]
            text = _with_table(text, table, made(_load(results_dir, pattern)), page)
        if text != old:
            found[page] = text
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme_table", description="The tables of results.")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="where README.md and docs/ are")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("export", help="copy runs' results").add_argument("runs", nargs="+", type=Path, metavar="RUN")
    verbs.add_parser("update", help="write the tables into their pages")
    verbs.add_parser("check", help="exit 1 if a page's tables are not those of the result files")
    chosen = parser.parse_args(arguments)
    try:
        return _do(chosen)
    except NeuralbotError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def _do(chosen: argparse.Namespace) -> int:
    if chosen.verb == "export":
        for path in _export_all(chosen.runs, chosen.results):
            print(path)
        return 0
    pages = outdated(chosen.root, chosen.results)
    for page, text in pages.items():
        if chosen.verb == "update":
            write_text(page, text)
            print(f"{page}: written")
        else:
            remedy = "run `python -m benchmarks.readme_table update`"
            print(f"error: {page} does not hold the tables of {chosen.results}; {remedy}", file=sys.stderr)
    return int(bool(pages) and chosen.verb == "check")


def _export_all(runs: Iterable[Path], results_dir: Path) -> Iterable[Path]:
    for run in runs:
        content = export(run)
        path = results_dir / f"recipe-{content['recipe']}.json"
        write_json(path, content)
        yield path


def _load(results_dir: Path, pattern: str) -> list[dict[str, Any]]:
    paths = sorted(results_dir.glob(pattern))
    if not paths:
        raise UsageError(f"{results_dir} holds no {pattern}; measure first, see {results_dir.name}/README.md")
    return [read_json(path) for path in paths]


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    scores, seconds = result["results"], result.get("durations_s", {})
    main = scores["main_score"]
    return (
        f"`{result['recipe']}`",
        f"{scores['after']['n']:,}",
        _SCORE_NAMES.get(main, main),
        _score(scores.get("before"), main, interval=False),
        _score(scores["after"], main, interval=True),
        f"{result['rows']['train']:,}" if "train" in result["rows"] else "",
        f"{seconds['train']:.0f} s" if "train" in seconds else "",
        f"{sum(seconds.values()):.0f} s" if seconds else "",
    )


def _score(measured: Mapping[str, Any] | None, name: str, *, interval: bool) -> str:
    if measured is None:
        return "not measured"
    low, high = (_shown(value, name) for value in measured["interval"])
    value = _shown(measured["scores"][name], name)
    return f"**{value}** ({low} to {high})" if interval else value


def _shown(value: float, name: str) -> str:
    return f"{value:.3f}" if name.startswith("rouge") else f"{value:.1%}".replace("%", " %")


def _machine(result: Mapping[str, Any]) -> str:
    hardware, plan, versions = (result.get(key) or {} for key in ("hardware", "plan", "versions"))
    facts = [
        f"{hardware.get('cpu', 'an unknown processor')} ({hardware.get('isa', 'unknown')})",
        f"{plan['threads']} threads" if "threads" in plan else None,
        plan.get("dtype"),
        *(f"{name} {versions[name]}" for name in ("python", "torch", "transformers") if versions.get(name)),
    ]
    return ", ".join(fact for fact in facts if fact)


def _with_table(text: str, name: str, content: str, page: Path) -> str:
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(f"{first}\n")
    _, end, after = rest.partition(f"{last}\n")
    if not begin or not end or first in after:
        raise UsageError(f"{page} needs one line {first} and, below it, one line {last}")
    return f"{before}{begin}\n{content}\n\n{end}{after}"


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {page}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
