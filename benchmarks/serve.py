"""The server: what it costs over its engine called directly, and how it stands a recorded trace of arrivals.

    python -m benchmarks.serve --model MODEL --trace AzureLLMInferenceTrace_conv.csv --rate 2
    python -m benchmarks.serve --trace FILE --llama-python llama/bin/python
        in it: pip install 'llama-cpp-python[server]' gguf

The cost: the same number of tokens is asked of the engine in the server's process and over HTTP by turns, one stream
and eight at once; the client is a process of its own on the same machine. The replay: requests come when they came in
the trace, sped up or slowed down to --rate, and every answer is as long as it was there; the first token of a request
counts its time in the queue. llama.cpp's server gets the same texts at the same times. The form of the result file is
in benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.generate import KEPT, RESULTS, SHIPPED_ROWS
from benchmarks.serving import figures, servers, trace
from benchmarks.serving.client import Question, ask
from neuralbot import hardware, modeling
from neuralbot.command import run as run_command
from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.training.provenance import environment
from neuralbot.training.records import write_json

RESULT = RESULTS / "serve.json"
SLOTS = 8
_SPARE = 16  # tokens: a text cut out of another one may have some more than it was cut for
_WAYS = ("direct", "http")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _command(arguments), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=modeling.SEEDLING, help="run, folder or name (default: %(default)s)")
    add("--engine", choices=("openvino", "torch"), default="openvino", help="default: %(default)s")
    add("--kept", choices=KEPT, default="bf16", help="precision of the weights (default: %(default)s)")
    add("--threads", type=int, help="default: one for each core that may be used")
    add("--pairs", type=int, default=20, help="turns of both ways, of one stream and of eight (default: %(default)s)")
    add("--prompt-tokens", type=int, default=256, help="of a turn (default: %(default)s)")
    add("--new-tokens", type=int, default=64, help="of a turn (default: %(default)s)")
    add("--trace", type=Path, metavar="FILE", help=f"CSV file with {', '.join(trace.COLUMNS)} (default: no replay)")
    add("--requests", type=int, default=300, help="the first of the trace (default: %(default)s)")
    add("--rate", type=float, default=1.0, help="requests per second, on the mean (default: %(default)s)")
    add("--first-token-limit", type=float, default=2.0, metavar="S", help="of goodput (default: %(default)s)")
    add("--token-limit", type=float, default=0.2, metavar="S", help="of goodput, per token (default: %(default)s)")
    add("--llama-python", type=Path, metavar="FILE", help="the Python of an environment with llama.cpp's server")
    add("--quick", action="store_true", help="few and short requests, to see that all of it runs")
    add("--output", type=Path, metavar="FILE", help="default: serve.json in results")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    if arguments.quick and arguments.output is None:
        raise UsageError("--quick measures nothing worth keeping: name another file with --output")
    if arguments.llama_python and not arguments.trace:
        raise UsageError("--llama-python is for the replay: give --trace FILE")
    arguments.output = arguments.output or RESULT
    if arguments.quick:
        arguments.pairs, arguments.prompt_tokens, arguments.new_tokens, arguments.requests = 2, 32, 8, 12
    with tempfile.TemporaryDirectory(prefix="serve-benchmark-") as folder:
        return _measured(arguments, Path(folder))


def _measured(arguments: argparse.Namespace, work: Path) -> int:
    texts = Texts.of(arguments.model)
    threads = arguments.threads or hardware.plan(hardware.probe()).threads
    arrivals = _arrivals(arguments, texts.context)
    content = _facts(arguments, threads) | {"replay": {}}
    form = (arguments.engine, arguments.kept, SLOTS, max(arguments.requests, SLOTS), threads, work)
    with servers.own(arguments.model, *form) as server:
        content["overhead"] = _overhead(arguments, server, texts)
        write_json(arguments.output, content)
        questions = [texts.question(number, arrival) for number, arrival in enumerate(arrivals)]
        if questions:
            content["replay"]["neuralbot"] = _watched(server, lambda: _replayed(arguments, server.url, questions))
    if arguments.llama_python:
        folder = modeling.local_folder(arguments.model, weights=True)
        with servers.llama_cpp(
            arguments.llama_python.absolute(), folder, arguments.kept, texts.context, threads, work
        ) as url:
            content["replay"]["llama.cpp"] = _replayed(arguments, url, questions, texts.endless)
    write_json(arguments.output, content)
    print(table([content]))
    print(arguments.output)
    return 0


@dataclass(frozen=True)
class Texts:
    """Prompts cut out of the shipped rows at places of their own: no server has read the beginning of one before."""

    tokenizer: Any
    ids: list[int]
    context: int

    @classmethod
    def of(cls, model: str) -> Texts:
        parts = modeling.parts_of(model)
        tokenizer = parts.load_tokenizer()
        rows = json.loads(SHIPPED_ROWS.read_text(encoding="utf-8"))
        text = "\n\n".join(f"{row['instruction']} {row['input']} {row['output']}" for row in rows)
        config = modeling.local_folder(parts.base, weights=False) / "config.json"
        context = int(json.loads(config.read_text(encoding="utf-8"))["max_position_embeddings"])
        return cls(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"], context)

    @property
    def endless(self) -> dict[str, Any]:
        """What keeps llama.cpp from ending an answer early."""
        return {"logit_bias": {str(number): -100 for number in self.tokenizer.all_special_ids}}

    def cut(self, place: int, tokens: int) -> list[int]:
        """So many ids; where they begin is drawn by the number `place`."""
        start = random.Random(place).randrange(len(self.ids) - tokens)
        return self.ids[start : start + tokens]

    def question(self, place: int, arrival: trace.Arrival) -> Question:
        text = self.tokenizer.decode(self.cut(10**6 + place, arrival.prompt_tokens))
        return Question(arrival.at, text, arrival.new_tokens)


def _arrivals(arguments: argparse.Namespace, context: int) -> list[trace.Arrival]:
    if arguments.trace is None:
        return []
    context = min(context, 128) if arguments.quick else context
    return trace.read(arguments.trace, arguments.requests, arguments.rate, context - _SPARE)


def _overhead(arguments: argparse.Namespace, server: servers.Own, texts: Texts) -> dict[str, Any]:
    def turns() -> dict[str, Any]:
        found: dict[str, dict[str, list[float]]] = {way: {"first_token_s": [], "tokens_per_s": []} for way in _WAYS}
        for pair in range(-1, arguments.pairs):  # the first one warms up
            for name, count in (("first_token_s", 1), ("tokens_per_s", SLOTS)):
                for turn, way in enumerate(_WAYS[:: -1 if pair % 2 else 1]):
                    places = [((pair + 1) * 2 + turn) * 100 + count + place for place in range(count)]
                    prompts = [texts.cut(place, arguments.prompt_tokens) for place in places]
                    first, last = _asked(server, way, prompts, arguments.new_tokens)
                    if pair >= 0:
                        rate = count * arguments.new_tokens / last
                        found[way][name].append(first if count == 1 else rate)
        return figures.compared(found["direct"], found["http"])

    return _watched(server, turns)


def _asked(server: servers.Own, way: str, prompts: list[list[int]], count: int) -> tuple[float, float]:
    """Seconds to the first token of the first prompt, and to the last one of all."""
    if way == "direct":
        times = server.direct(prompts, count)
        return times[0][0], max(own[-1] for own in times)
    answers = ask(server.url, [Question(0.0, prompt, count) for prompt in prompts])
    for answer in answers:
        if answer.error:
            raise NeuralbotError(f"the server did not answer as asked: {answer.error}")
    return answers[0].first - answers[0].sent, max(answer.last for answer in answers)


def _watched(server: servers.Own, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, and how late the event loop was meanwhile."""
    before = server.metrics()
    found = measure()
    return found | {"event_loop_lag_p99_ms": figures.lag_p99_ms(before, server.metrics())}


def _replayed(
    arguments: argparse.Namespace, url: str, questions: Sequence[Question], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    print(f"{len(questions)} requests in about {questions[-1].at:.0f} s", flush=True)
    limits = figures.Limits(arguments.first_token_limit, arguments.token_limit)
    load = round(os.getloadavg()[0], 2)
    return figures.replayed(ask(url, questions, more), limits) | {"load_before": load}


def _facts(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """All of the result file that is no measurement."""
    names = "engine kept pairs prompt_tokens new_tokens requests rate first_token_limit token_limit"
    path = arguments.trace
    return {
        "schema": 1,
        "model": Path(arguments.model).name,
        "settings": {name: getattr(arguments, name) for name in names.split()} | {"streams": SLOTS},
        "trace": path and {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "not_measured": {} if arguments.llama_python else {"llama.cpp": "no --llama-python was given"},
        "hardware": asdict(hardware.probe()),
        "threads": threads,
        **environment(),
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown of the one result."""
    (result,) = results
    cost, settings = result["overhead"], result["settings"]
    lines = [
        f"Over the engine called directly: {cost['first_token_difference_ms']:+.1f} ms to the first token of one "
        f"stream, {cost['throughput_ratio']:.3f} of the throughput of {settings['streams']} streams, the event loop "
        f"late by {cost['event_loop_lag_p99_ms']} ms at most in 99 % of its turns."
    ]
    if result["replay"]:
        head = "| server | first token p50, p95 | per token p50, p95 | whole p50, p95 | good | waiting: mean, most |"
        lines += ["", head, "|---|---:|---:|---:|---:|---:|"]
    for name, found in result["replay"].items():
        spreads = " | ".join(_spread(found[key]) for key in ("first_token_s", "per_token_s", "end_to_end_s"))
        waited = f"{found['waiting']['mean']:.1f}, {found['waiting']['max']}"
        lines.append(f"| {name} | {spreads} | {found['good']} of {found['requests']} | {waited} |")
    return "\n".join(lines)


def _spread(found: Mapping[str, float | None]) -> str:
    return ", ".join("-" if found[key] is None else f"{found[key]:.3f} s" for key in ("p50", "p95"))


if __name__ == "__main__":
    sys.exit(main())
