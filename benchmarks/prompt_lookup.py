"""Guessing tokens that the prompt holds already, on the shipped rows of each task: what it gains.

    python -m benchmarks.prompt_lookup runs/alpaca runs/chat runs/code runs/summarization

The same questions go to the engine with and without it, one after the other, in turn; their answers have to be the
same, token by token. The form of the result file is in benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers import methods
from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot, hardware
from neuralbot.command import run as run_command
from neuralbot.conversation import encode_prompt
from neuralbot.data import origins
from neuralbot.data.bad_rows import BadRows
from neuralbot.engines.protocol import Sampling
from neuralbot.errors import NeuralbotError
from neuralbot.evaluation.questions import collect_questions, resolve_metric, spread
from neuralbot.training.provenance import environment
from neuralbot.training.records import read_json, write_json

RESULT = methods.ROOT / "benchmarks" / "results" / "prompt-lookup.json"
ENGINES = {"plain": False, "lookup": True}
SAMPLING = Sampling(max_new_tokens=256)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prompt_lookup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", help="folders of finished runs of the shipped recipes")
    parser.add_argument("--questions", type=int, default=60, help="of each task (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="over all questions (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _command(arguments), debug=False)


def _command(arguments: argparse.Namespace) -> int:
    content: dict[str, Any] = {
        "schema": 1,
        "settings": {"questions": arguments.questions, "rounds": arguments.rounds, "weights": "float32"},
        "tasks": {},
        "hardware": asdict(hardware.probe()),
        **environment(),
    }
    for run in arguments.runs:
        name, found = _measured(run, arguments.questions, arguments.rounds)
        content["tasks"][name] = found
        print(f"{name}: {found['speedup']:.2f} times as fast, {found['tokens']} tokens, the same answers")
        write_json(arguments.output, content)
    return 0


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown between the markers: a row for each task."""
    (result,) = results
    settings = result["settings"]
    rows = [
        f"| {name} | {found['tokens']} | {found['speedup']:.2f} times as fast |"
        for name, found in result["tasks"].items()
    ]
    return "\n".join(
        [
            "| recipe | tokens of the answers | with prompt lookup |",
            "|---|---:|---:|",
            *rows,
            "",
            f"The embedded model tuned by each recipe, {settings['questions']} questions that it never saw, one after "
            f"the other; medians of {settings['rounds']} rounds, {result['hardware']['cpu']} "
            f"({result['hardware']['isa']}). All answers were the same.",
        ]
    )


def _measured(run: str, count: int, rounds: int) -> tuple[str, dict[str, Any]]:
    manifest = read_json(Path(run) / "manifest.json")
    [data] = (methods.ROOT / "data" / Path(run).name).glob("test.*")
    chatbots = {name: build_chatbot(_config(run, lookup)) for name, lookup in ENGINES.items()}
    prompts = _prompts(chatbots["plain"].engine.tokenizer, data, manifest["task"], count)
    seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
    ratios, tokens = [], 0
    for number in range(rounds):
        taken = dict.fromkeys(ENGINES, 0.0)
        for place, prompt in enumerate(prompts):
            answers = {}
            for name in sorted(ENGINES, reverse=bool((number + place) % 2)):
                start = time.perf_counter()
                answers[name] = list(chatbots[name].engine.stream(prompt, SAMPLING))
                taken[name] += time.perf_counter() - start
            if answers["plain"] != answers["lookup"]:
                raise NeuralbotError(f"{run}, question {place + 1}: prompt lookup changed the answer")
            tokens += len(answers["plain"]) if number == 0 else 0
        for name, spent in taken.items():
            seconds[name].append(round(spent, 3))
        ratios.append(round(taken["plain"] / taken["lookup"], 3))
    for chatbot in chatbots.values():
        chatbot.engine.close()
    found = {"task": manifest["task"], "questions": len(prompts), "tokens": tokens, "seconds": seconds}
    return Path(run).name, found | {"speedups": ratios, "speedup": statistics.median(ratios)}


def _config(run: str, lookup: bool) -> PipelineConfig:
    exact = MixedPrecisionConfig("float32")
    return PipelineConfig(model_name_or_path=run, engine="openvino", optimization_config=exact, prompt_lookup=lookup)


def _prompts(tokenizer: Any, data: Path, task: str, count: int) -> list[list[int]]:
    rows = list(origins.of_file(str(data), task, BadRows(), None))
    questions = collect_questions(rows, resolve_metric("auto", task, rows))
    return [encode_prompt(tokenizer, question.turns, question.tools) for question in spread(questions, count)]


if __name__ == "__main__":
    sys.exit(main())
