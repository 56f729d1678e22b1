"""A chatbot and OpenVINO GenAI alone by turns: how much of the engine's own speed a user gets.

    python -m benchmarks.paired --work FOLDER

Both are loaded at once, and each prompt goes to one and then to the other, the first of them by turns, so that both
meet the same minute of the machine: where its memory's speed swings by a third, medians of rounds say little. And both
are loaded several times, for one process may stay some percent slower than the next: by where its weights came to lie.
What counts is the median of the ratios of all pairs. The checkpoint is that of `python -m benchmarks.generate`; the
form of the result file is in benchmarks/results/README.md.
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
from itertools import chain
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
    add("--loads", type=int, default=6, help="of both, for each precision (default: %(default)s)")
    add("--pairs", type=int, default=3, help="single prompts of each load (default: %(default)s)")
    add("--many-pairs", type=int, default=1, help=f"{_STREAMS} streams at once, of each load (default: %(default)s)")
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
    settings = content["settings"]
    settings |= {"loads": arguments.loads, "pairs": arguments.pairs, "many_pairs": arguments.many_pairs}
    for kept in arguments.kept.split(","):
        loads = [_pairs(inputs, kept, number, settings) for number in range(arguments.loads)]
        content["precisions"][kept] = found = {name: compared([own[name] for own in loads]) for name in _MEASURES}
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
            f"{settings['loads']} x {settings['pairs']} pairs of prompts of {settings['prompt_tokens']} tokens "
            f"({settings['loads']} x {settings['many_pairs']} pairs of {_STREAMS} streams), both loaded "
            f"{settings['loads']} times; 95 % intervals by bootstrap over the loads. {result['shape']['name']}, "
            f"{machine['cpu']} ({machine['isa']}), {result['threads']} threads (`python -m benchmarks.paired`).",
        ]
    )


Programs = dict[str, subprocess.Popen[str]]


@contextmanager
def _loaded(inputs: generate.Inputs, kept: str, order: Sequence[str]) -> Iterator[Programs]:
    programs: Programs = {}
    try:
        for who in order:
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


Rates = dict[str, list[float]]


def _pairs(inputs: generate.Inputs, kept: str, load: int, settings: Mapping[str, Any]) -> dict[str, Rates]:
    """Measure -> the rates of both by turns, in tokens per second, of one load."""
    rates: dict[str, Rates] = {name: {who: [] for who in PAIR} for name in _MEASURES}
    many = list(range(settings["pairs"], settings["pairs"] + _STREAMS))
    with _loaded(inputs, kept, _order(load)) as programs:
        for number in range(settings["pairs"]):
            for who in _order(number + load):
                [times] = _asked(programs[who], [number], _NEW_TOKENS)
                rates["prefill"][who].append(settings["prompt_tokens"] / times[0])
                rates["decode"][who].append((len(times) - 1) / (times[-1] - times[0]))
        for number in range(settings["many_pairs"]):
            for who in _order(number + load):
                streams = [Stream(times=times) for times in _asked(programs[who], many, _MANY_TOKENS)]
                rates["many"][who].append(rate_together(streams) or float("nan"))
    return rates


def _order(number: int) -> tuple[str, ...]:
    return PAIR[:: -1 if number % 2 else 1]


def compared(loads: Sequence[Rates]) -> dict[str, Any]:
    """The median of the ratios of the pairs, with its 95 % interval by bootstrap over the loads."""
    ratios = [[own / other for own, other in zip(*(rates[who] for who in PAIR), strict=True)] for rates in loads]
    chance = random.Random(0)
    drawn = (chance.choices(ratios, k=len(ratios)) for _ in range(_SAMPLES))
    medians = sorted(statistics.median(chain.from_iterable(load)) for load in drawn)
    return {
        "ratio": round(statistics.median(chain.from_iterable(ratios)), 4),
        "interval": [round(medians[int(_SAMPLES * share)], 4) for share in (0.025, 0.975)],
        **{who: [[round(rate, 3) for rate in rates[who]] for rates in loads] for who in PAIR},
    }


if __name__ == "__main__":
    sys.exit(main())
