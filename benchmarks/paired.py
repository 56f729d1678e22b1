"""A chatbot and OpenVINO GenAI alone by turns: how much of the engine's own speed a user gets.

    python -m benchmarks.paired --work FOLDER

Both are loaded at once, and each prompt goes to one and then to the other, the first of them by turns, so that both
meet the same minute of the machine: where its memory's speed swings by a third, medians of rounds say little. What
counts is the median of the ratios of such pairs. The checkpoint is that of `python -m benchmarks.generate`; the form of
the result file is in benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import generate
from benchmarks.generation.job import Job, Stream, rate_together
from benchmarks.peers import methods
from neuralbot.command import run as run_command
from neuralbot.training.records import write_json

RESULT = generate.RESULTS / "paired.json"
PAIR = ("neuralbot", "genai")
_NEW_TOKENS, _MANY_TOKENS, _STREAMS = 64, 48, 8
_MEASURES = ("prefill", "decode", "many")
_SAMPLES = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paired", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=generate.SHAPES, default="llama-1.1b", help="size of the model (default: %(default)s)")
    add("--kept", default=",".join(generate.KEPT), metavar="A,B", help="precisions (default: %(default)s)")
    add("--pairs", type=int, default=12, help="single prompts of each precision (default: %(default)s)")
    add("--many-pairs", type=int, default=6, help=f"rounds of {_STREAMS} streams at once (default: %(default)s)")
    add("--threads", type=int, help="default: one for each core that may be used")
    add("--work", type=Path, metavar="FOLDER", help="keep checkpoint and exports here (default: nothing is kept)")
    add("--quick", action="store_true", help="a tiny model and short prompts, to see that all of it runs")
    add("--output", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _command(arguments), debug=False)


def _command(arguments: argparse.Namespace) -> int:
    if arguments.work:
        return _measured(arguments, arguments.work.absolute())
    with tempfile.TemporaryDirectory(prefix="paired-benchmark-") as folder:
        return _measured(arguments, Path(folder))


def _measured(arguments: argparse.Namespace, work: Path) -> int:
    arguments.rounds = arguments.pairs
    named = {f"{who}-{kept}": generate.METHODS[f"{who}-{kept}"] for kept in arguments.kept.split(",") for who in PAIR}
    inputs = generate.prepare(arguments, named, work, singles=arguments.pairs)
    content = generate.facts(arguments, named, inputs) | {"precisions": {}}
    content["settings"] |= {"pairs": arguments.pairs, "many_pairs": arguments.many_pairs}
    for kept in arguments.kept.split(","):
        with _loaded(inputs, kept) as programs:
            found = _pairs(programs, arguments.pairs, arguments.many_pairs, content["settings"]["prompt_tokens"])
        content["precisions"][kept] = found
        write_json(arguments.output, content)
        print(kept, ", ".join(f"{name} {_interval(own)}" for name, own in found.items()), flush=True)
    print(arguments.output)
    return 0


def _interval(own: Mapping[str, Any]) -> str:
    low, high = own["interval"]
    return f"{own['ratio']:.2f} ({low:.2f} to {high:.2f})"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown between the markers: a row for each precision, then how it was measured."""
    (result,) = results
    settings, machine = result["settings"], result["hardware"]
    rows = [
        f"| {kept} | {' | '.join(_interval(found[name]) for name in _MEASURES)} |"
        for kept, found in result["precisions"].items()
    ]
    return "\n".join(
        [
            f"| weights | prefill | decode | {_STREAMS} streams |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"neuralbot's chatbot over OpenVINO GenAI alone with the same settings: medians of the ratios of "
            f"{settings['pairs']} pairs of prompts of {settings['prompt_tokens']} tokens ({settings['many_pairs']} "
            f"pairs of {_STREAMS} streams), 95 % intervals by bootstrap over the pairs; {result['shape']['name']}, "
            f"{machine['cpu']} ({machine['isa']}), {result['threads']} threads (`python -m benchmarks.paired`).",
        ]
    )


Programs = dict[str, subprocess.Popen[str]]


@contextmanager
def _loaded(inputs: generate.Inputs, kept: str) -> Iterator[Programs]:
    programs: Programs = {}
    try:
        for who in PAIR:
            programs[who] = _started(inputs, generate.METHODS[f"{who}-{kept}"], who)
            _answer(programs[who])
        yield programs
    finally:
        for program in programs.values():
            program.kill()
            program.wait()


def _started(inputs: generate.Inputs, method: generate.Method, who: str) -> subprocess.Popen[str]:
    stored = str(inputs.stored[method.program, method.kept])
    job = Job(
        str(inputs.model), str(inputs.prompts), method.kept, method.engine, stored, inputs.threads, _NEW_TOKENS, 0
    )
    path = inputs.work / f"turns-{who}.json"
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.generation.turns", method.program, str(path)],
        cwd=inputs.work,
        env=methods.environment(inputs.threads, inputs.work) | {"XDG_CACHE_HOME": str(inputs.work / "cache")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(program: subprocess.Popen[str]) -> list[list[float]]:
    assert program.stdout is not None
    times: list[list[float]] = json.loads(program.stdout.readline())
    return times


def _asked(program: subprocess.Popen[str], places: list[int], count: int) -> list[list[float]]:
    assert program.stdin is not None
    program.stdin.write(f"{json.dumps([places, count])}\n")
    program.stdin.flush()
    return _answer(program)


def _pairs(programs: Programs, pairs: int, many_pairs: int, prompt_tokens: int) -> dict[str, Any]:
    """Measure -> the rates of both by turns, in tokens per second, and what came of them."""
    rates: dict[str, dict[str, list[float]]] = {name: {who: [] for who in PAIR} for name in _MEASURES}
    for number in range(pairs):
        for who in _order(number):
            [times] = _asked(programs[who], [number], _NEW_TOKENS)
            rates["prefill"][who].append(prompt_tokens / times[0])
            rates["decode"][who].append((len(times) - 1) / (times[-1] - times[0]))
    for number in range(many_pairs):
        for who in _order(number):
            places = list(range(pairs, pairs + _STREAMS))
            streams = [Stream(times=times) for times in _asked(programs[who], places, _MANY_TOKENS)]
            rates["many"][who].append(rate_together(streams) or float("nan"))
    return {name: compared(own["neuralbot"], own["genai"]) for name, own in rates.items()}


def _order(number: int) -> tuple[str, ...]:
    return PAIR[:: -1 if number % 2 else 1]


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The median of the ratios of the pairs, with its 95 % interval by bootstrap over the pairs."""
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(_SAMPLES))
    return {
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(medians[int(_SAMPLES * share)], 4) for share in (0.025, 0.975)],
        "neuralbot": [round(rate, 3) for rate in ours],
        "genai": [round(rate, 3) for rate in theirs],
    }


if __name__ == "__main__":
    sys.exit(main())
