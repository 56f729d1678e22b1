"""Answering in every way a user could pick, side by side: prefill, decode, eight streams at once, a known beginning.

    python -m benchmarks.generate --work FOLDER --rounds 3
    python -m benchmarks.generate --quick --methods neuralbot-int8,genai-int8
    python -m benchmarks.generate --llama-python llama/bin/python      in it: pip install llama-cpp-python gguf

Every method gets the same checkpoint of random weights and the same prompts, and makes so many tokens of each, end
tokens or not, always the likeliest one. Each measurement is a fresh process; the methods run in turn, one at a time, in
rounds, so that a slow minute of the machine meets all of them. Checkpoint and exports are made under --work once, about
9 GB for llama-1.1b. The form of the result file is in benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.generation import prompts
from benchmarks.generation.job import Job
from benchmarks.peers import machine, methods, rows
from benchmarks.shapes import SHAPES
from neuralbot import hardware, modeling
from neuralbot.command import run as run_command
from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.training.provenance import environment
from neuralbot.training.records import write_json

RESULTS = methods.ROOT / "benchmarks" / "results"
SHIPPED_ROWS = methods.ROOT / "data" / "alpaca" / "train.json"
KEPT = ("bf16", "int8", "int4")
# Programs that run in an environment of their own -> the option that names its Python, and how it is made.
ENVIRONMENTS = {
    "llama_cpp_generate": (
        "--llama-python",
        "make one with `python3 -m venv llama && llama/bin/pip install llama-cpp-python gguf`, then give "
        "--llama-python llama/bin/python",
    ),
    "itrex_generate": (
        "--itrex-python",
        "make it with `neuralbot itrex setup`, then give --itrex-python FOLDER/bin/python",
    ),
}
RATES = ("prefill_tokens_per_s", "decode_tokens_per_s", "many_tokens_per_s")
_OTHERS = ("cold_first_token_s", "warm_first_token_s", "load_s", "peak_bytes")
_PROMPT_TOKENS, _SYSTEM_TOKENS, _MANY = 512, 1000, 8
_NEW_TOKENS, _MANY_TOKENS = 64, 48
_BANDWIDTH_NOTE = (
    "share_of_bandwidth: bytes of the weights that a token needs (all but the input embeddings, of which a row is "
    "looked up; keys and values are not counted) times decode_tokens_per_s, over the best bandwidth that any round saw"
)


@dataclass(frozen=True)
class Method:
    """program: a module of benchmarks.generation. kept: precision of the weights. many_tokens: 0: cannot.

    changes: properties of OpenVINO other than neuralbot's.
    """

    program: str
    kept: str
    engine: str = ""
    many_tokens: int = _MANY_TOKENS
    changes: dict[str, Any] = field(default_factory=dict)


METHODS = {
    **{f"neuralbot-{kept}": Method("chatbot", kept, "openvino") for kept in KEPT},
    **{f"genai-{kept}": Method("genai", kept) for kept in KEPT},
    **{f"genai-{kept}-defaults": Method("genai", kept, "defaults") for kept in KEPT},
    "neuralbot-torch": Method("chatbot", "bf16", "torch", many_tokens=0),
    "transformers": Method("transformers_generate", "bf16"),
    "itrex": Method("itrex_generate", "bf16", many_tokens=0),
    **{f"llama.cpp-{kept}": Method("llama_cpp_generate", kept, many_tokens=0) for kept in KEPT},
}
_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
_CHANGES: dict[str, dict[str, Any]] = {
    "as-it-is": {},
    "computed-in-f32": {"INFERENCE_PRECISION_HINT": "f32"},
    "one-thread": {"INFERENCE_NUM_THREADS": 1},
    "hint-latency": {"PERFORMANCE_HINT": "LATENCY"},
    "hint-throughput": {"PERFORMANCE_HINT": "THROUGHPUT"},
    "threads-pinned": {"ENABLE_CPU_PINNING": True},
}
_CHANGES_OF_INTEGERS: dict[str, dict[str, Any]] = {
    "keys-and-values-bf16": {"KV_CACHE_PRECISION": "bf16"},
    "activations-not-rounded": {_GROUP: 0},
    **{f"activation-groups-{size}": {_GROUP: size} for size in (32, 64, 256)},
}
TRIES = {
    f"{kept}-{name}": Method("genai", kept, changes=changes)
    for kept in KEPT
    for name, changes in (_CHANGES if kept == "bf16" else _CHANGES | _CHANGES_OF_INTEGERS).items()
} | {"bf16-keys-and-values-u8": Method("genai", "bf16", changes={"KV_CACHE_PRECISION": "u8"})}


@dataclass(frozen=True)
class Inputs:
    """What is made once. stored: (program, kept) -> the weights that a method reads; bytes: so many for a token."""

    work: Path
    model: Path
    prompts: Path
    threads: int
    stored: dict[tuple[str, str], Path]
    bytes: dict[tuple[str, str], int]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 1 a method failed, 2 wrong arguments."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _command(arguments), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="llama-1.1b", help="size of the model (default: %(default)s)")
    add("--methods", metavar="A,B,...", help=f"some of {', '.join(METHODS)} (default: all that can run)")
    add("--rounds", type=_positive, default=3, help="measurements of each method (default: %(default)s)")
    add("--threads", type=_positive, help="default: one for each core that may be used")
    add("--llama-python", type=Path, metavar="FILE", help="the Python of an environment with llama-cpp-python and gguf")
    add("--itrex-python", type=Path, metavar="FILE", help="the Python that `neuralbot itrex setup` made")
    add("--work", type=Path, metavar="FOLDER", help="keep checkpoint and exports here (default: nothing is kept)")
    add("--tries", action="store_true", help="other settings of OpenVINO than neuralbot's, in place of the methods")
    add("--quick", action="store_true", help="a tiny model and short prompts, to see that all of it runs")
    add("--output", type=Path, metavar="FILE", help="default: generate.json, of tries generate-tries.json, in results")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: expected at least 1")
    return value


def _command(arguments: argparse.Namespace) -> int:
    selected = _selected(arguments)
    kept = arguments.output is None
    arguments.output = arguments.output or RESULTS / ("generate-tries.json" if arguments.tries else "generate.json")
    if not arguments.output.parent.is_dir():
        raise UsageError(f"--output {arguments.output}: there is no such folder; make it, or give another file")
    if arguments.quick and kept:
        raise UsageError("--quick measures nothing worth keeping: name another file with --output")
    if arguments.work:
        return _measured(arguments, selected, arguments.work.absolute())
    with tempfile.TemporaryDirectory(prefix="generate-benchmark-") as folder:
        return _measured(arguments, selected, Path(folder))


def _selected(arguments: argparse.Namespace) -> dict[str, Method]:
    known = TRIES if arguments.tries else METHODS
    if arguments.methods is None:
        return {name: method for name, method in known.items() if _python(method, arguments) is not None}
    names = [name.strip() for name in arguments.methods.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"--methods: there is no {name!r}; expected some of {', '.join(known)}")
        if _python(known[name], arguments) is None:
            _, advice = ENVIRONMENTS[known[name].program]
            raise UsageError(f"the method {name} runs in an environment of its own: {advice}")
    return {name: known[name] for name in dict.fromkeys(names)}


def _is_openvino(method: Method) -> bool:
    return method.program == "genai" or method.engine == "openvino"


def _python(method: Method, arguments: argparse.Namespace) -> str | None:
    """Which Python runs the method; None: none was given."""
    if method.program not in ENVIRONMENTS:
        return sys.executable
    given: Path | None = getattr(arguments, ENVIRONMENTS[method.program][0][2:].replace("-", "_"))
    return None if given is None else str(given.absolute())


def _measured(arguments: argparse.Namespace, selected: dict[str, Method], work: Path) -> int:
    inputs = prepare(arguments, selected, work)
    known = facts(arguments, selected, inputs)
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in selected}
    bandwidths: list[dict[str, float]] = []
    for number in range(1, arguments.rounds + 1):
        bandwidths.append(json.loads(_child(inputs, [sys.executable, "-m", "benchmarks.peers.machine", "bandwidth"])))
        for name, method in selected.items():
            load = round(os.getloadavg()[0], 2)
            samples[name].append({"load_before": load, **_sample(name, method, arguments, inputs, number)})
        # After each round, so that an interrupted run leaves the rounds that were whole.
        content = known | {"bandwidth_gb_per_s": bandwidths, "methods": summary(samples, selected, inputs, bandwidths)}
        write_json(arguments.output, content)
    print(table(content))
    print(arguments.output)
    return int(any("error" in sample for taken in samples.values() for sample in taken))


def prepare(arguments: argparse.Namespace, selected: dict[str, Method], work: Path, singles: int = 2) -> Inputs:
    """Checkpoint, prompts, exports: made where they are not there yet. Raises NeuralbotError."""
    model, texts = work / f"{arguments.shape if not arguments.quick else 'tiny'}", work / "prompts.json"
    threads = arguments.threads or hardware.plan(hardware.probe()).threads
    model.mkdir(parents=True, exist_ok=True)
    _, vocabulary = rows.write_tokenizer(modeling.local_folder(modeling.SEEDLING, weights=False), model)
    size = {"length": 64, "system": 200} if arguments.quick else {"length": _PROMPT_TOKENS, "system": _SYSTEM_TOKENS}
    prompts.write(texts, modeling.load_tokenizer(str(model)), SHIPPED_ROWS, many=_MANY, singles=singles, **size)
    inputs = Inputs(work, model, texts, threads, {}, {})
    if not (model / "model.safetensors.index.json").is_file():
        _child(
            inputs, [sys.executable, "-m", "benchmarks.shapes", model.name, str(model), "--vocab-size", str(vocabulary)]
        )
    shape = SHAPES[model.name]
    embeddings = max(shape.vocab, vocabulary) * shape.hidden
    for name, method in selected.items():
        print(f"preparing {name}", flush=True)
        _store(arguments, inputs, method, embeddings, shape.parameters(max(shape.vocab, vocabulary)))
    return inputs


def _store(arguments: argparse.Namespace, inputs: Inputs, method: Method, embeddings: int, parameters: int) -> None:
    """Make what the method reads, and note how many bytes of it a token needs."""
    key, width = (method.program, method.kept), 2 if method.kept == "bf16" else 1
    if _is_openvino(method):
        command = [sys.executable, "-m", "neuralbot", "export", str(inputs.model), "--precision", method.kept]
        folder = Path(_child(inputs, command).rpartition("\n")[0].splitlines()[-1].partition(": ")[0])
        inputs.stored[key] = folder
        inputs.bytes[key] = (folder / "openvino_model.bin").stat().st_size - embeddings * width
    elif method.program == "llama_cpp_generate":
        file = inputs.work / f"{inputs.model.name}-gguf" / f"{method.kept}.gguf"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            python = str(_python(method, arguments))
            _child(inputs, [python, "-m", "benchmarks.generation.gguf_files", str(inputs.model), str(file.parent)])
        inputs.stored[key] = file
        bits = {"bf16": 16, "int8": 8.5, "int4": 4.5}[method.kept]  # q8_0 and q4_0 with a scale for 32 weights
        inputs.bytes[key] = file.stat().st_size - int(embeddings * bits / 8)
    else:
        inputs.stored[key] = inputs.model
        inputs.bytes[key] = parameters * width


def _sample(name: str, method: Method, arguments: argparse.Namespace, inputs: Inputs, number: int) -> dict[str, Any]:
    """One process; where it failed, the error in place of figures."""
    job_path, result_path = inputs.work / "job.json", inputs.work / "result.json"
    stored = str(inputs.stored[method.program, method.kept])
    job = Job(
        str(inputs.model), str(inputs.prompts), method.kept, method.engine, stored, inputs.threads, _NEW_TOKENS,
        method.many_tokens, method.changes,
    )  # fmt: skip
    job_path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    result_path.unlink(missing_ok=True)
    try:
        _child(
            inputs,
            [
                str(_python(method, arguments)),
                "-m",
                f"benchmarks.generation.{method.program}",
                str(job_path),
                str(result_path),
            ],
        )
    except NeuralbotError as error:
        print(f"round {number}, {name}: {error}", flush=True)
        return {"error": methods.without_folders(str(error))}
    sample: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
    rates = ", ".join(f"{rate.partition('_')[0]} {_median(sample[rate]) or 0:.1f}" for rate in RATES)
    print(f"round {number}, {name}: {rates} tokens/s, {sample['load_s']:.0f} s to load", flush=True)
    return sample


def summary(
    samples: dict[str, list[dict[str, Any]]],
    selected: dict[str, Method],
    inputs: Inputs,
    bandwidths: list[dict[str, float]],
) -> dict[str, Any]:
    """For each method: median, least and most of what was measured, its share of the bandwidth, and the samples."""
    best = max(rate for found in bandwidths for rate in found.values()) * 1e9
    whole: dict[str, Any] = {}
    for name, taken in samples.items():
        done = [sample for sample in taken if "error" not in sample]
        own: dict[str, Any] = {key: spread for key in (*RATES, *_OTHERS) if (spread := _spread(done, key))}
        if done:
            own["bytes_per_token"] = inputs.bytes[selected[name].program, selected[name].kept]
            own["share_of_bandwidth"] = round(own["decode_tokens_per_s"]["median"] * own["bytes_per_token"] / best, 3)
        whole[name] = own
    for name, own in whole.items():
        raw = whole.get(name.replace("neuralbot-", "genai-"), {})
        if raw is not own and own and raw:
            own["against_genai"] = {
                key: round(own[key]["median"] / raw[key]["median"], 3) for key in RATES if key in own and key in raw
            }
            first = [samples[each][0]["answers"] for each in (name, name.replace("neuralbot-", "genai-"))]
            own["same_tokens_as_genai"] = first[0] == first[1]
    for name, own in whole.items():
        own["versions"] = next((sample["versions"] for sample in samples[name] if "versions" in sample), {})
        own["samples"] = [
            {key: value for key, value in taken.items() if key not in ("answers", "versions")}
            for taken in samples[name]
        ]
    return whole


def _spread(done: list[dict[str, Any]], key: str) -> dict[str, float] | None:
    """Of all values, those of one process side by side with those of the others."""
    values = [value for sample in done for value in _listed(sample[key])]
    if not values:
        return None
    return {"median": round(statistics.median(values), 4), "min": min(values), "max": max(values)}


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _median(value: Any) -> float | None:
    return statistics.median(listed) if (listed := _listed(value)) else None


def table(content: dict[str, Any]) -> str:
    """The medians for people."""
    head = ("method", "prefill", "decode", "eight", "of bandwidth", "system prompt")
    lines = [head, *(_line(name, own) for name, own in content["methods"].items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _line(name: str, own: dict[str, Any]) -> tuple[str, ...]:
    if "decode_tokens_per_s" not in own:
        return (name, "failed", "", "", "", "")
    cells = [f"{own[rate]['median']:.1f}" if rate in own else "" for rate in RATES]
    cold, warm = own["cold_first_token_s"]["median"], own["warm_first_token_s"]["median"]
    return (name, *cells, f"{own['share_of_bandwidth']:.0%}", f"{cold:.2f} s, then {warm:.2f} s")


def facts(arguments: argparse.Namespace, selected: dict[str, Method], inputs: Inputs) -> dict[str, Any]:
    """All of the result file that is no measurement of a method."""
    shape = SHAPES[inputs.model.name]
    measured = {method.program for method in selected.values()}
    return {
        "schema": 1,
        "shape": {"name": inputs.model.name, **asdict(shape)},
        "settings": {
            "rounds": arguments.rounds,
            "prompt_tokens": 64 if arguments.quick else _PROMPT_TOKENS,
            "system_tokens": 200 if arguments.quick else _SYSTEM_TOKENS,
            "streams": _MANY,
            "new_tokens": _NEW_TOKENS,
            "many_new_tokens": {name: method.many_tokens for name, method in selected.items()},
        },
        "changes": {name: method.changes for name, method in selected.items() if method.changes},
        "not_measured": {
            program.removesuffix("_generate").replace("_", "."): f"no {option} was given"
            for program, (option, _) in ENVIRONMENTS.items()
            if program not in measured
        },
        "hardware": asdict(hardware.probe()),
        "threads": inputs.threads,
        **environment(),
        "onednn": {
            "torch": machine.read_onednn(
                _child(inputs, [sys.executable, "-m", "benchmarks.peers.machine", "products"], ONEDNN_VERBOSE="1")
            ),
            **{f"openvino-{method.kept}": _openvino(inputs, method) for method in _of_openvino(selected)},
        },
        "share_of_bandwidth_is": _BANDWIDTH_NOTE,
    }


def _of_openvino(selected: dict[str, Method]) -> list[Method]:
    """One for each precision."""
    return list({method.kept: method for method in selected.values() if _is_openvino(method)}.values())


def _openvino(inputs: Inputs, method: Method) -> dict[str, Any]:
    precision = "bf16" if hardware.has_bf16() else "f32"
    folder = str(inputs.stored[method.program, method.kept])
    command = [sys.executable, "-m", "benchmarks.peers.machine", "openvino", folder, precision]
    return machine.read_openvino(_child(inputs, command, ONEDNN_VERBOSE="1"))


def _child(inputs: Inputs, command: list[str], **variables: str) -> str:
    """What the command prints, in the environment of the methods. Raises NeuralbotError."""
    known = methods.environment(inputs.threads, inputs.work) | {"XDG_CACHE_HOME": str(inputs.work / "cache")}
    done = subprocess.run(
        command, cwd=inputs.work, env=known | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise NeuralbotError(f"{' '.join(command[1:3])} ended with status {done.returncode}: {said}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
