"""Finetuning in every way a user could pick, side by side: seconds, tokens, memory and losses of each.

    python -m benchmarks.finetune --shape llama-162m --methods hf,neuralbot,neuralbot-int8
    python -m benchmarks.finetune --shape llama-1.1b --count 64 --rows alpaca.json --tokenizer FOLDER --repeats 3 \\
        --methods hf,neuralbot,trl-packed --trl-python trl/bin/python

Every method gets the same checkpoint of random weights, the same rows in the same order and the same settings. Each
training is a fresh process; they run in turn, one at a time, so that a slow minute of the machine meets all of them.
The checkpoint is made under TMPDIR: llama-7b needs 13 GiB there.
The form of the result file is in benchmarks/results/README.md; how to make the peers' environments, in
benchmarks/peers/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import neuralbot
from benchmarks.peers import machine, methods, rows
from benchmarks.peers.job import Job
from benchmarks.shapes import SHAPES
from neuralbot import hardware
from neuralbot.command import run as run_command
from neuralbot.errors import NeuralbotError, UsageError
from neuralbot.modeling import SEEDLING
from neuralbot.training.provenance import environment
from neuralbot.training.records import write_json

RESULTS = methods.ROOT / "benchmarks" / "results"
SHIPPED_ROWS = methods.ROOT / "data" / "alpaca" / "train.json"
SHIPPED_TOKENIZER = Path(neuralbot.__file__).parent / SEEDLING
BASELINE = "hf"
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-4, "seed": 42, "lora_rank": 8, "lora_alpha": 16, "lora_modules": ["q_proj", "v_proj"],
}  # fmt: skip
SUMMED_UP = ("train_s", "load_s", "tokens_per_s", "target_tokens_per_s", "rss_before_training_bytes", "peak_bytes")
FLOP_NOTE = (
    "4 FLOP per parameter without the input embeddings and real token: 2 forward, 2 for the gradients of the "
    "activations; a frozen base needs none for its weights. Padding, attention and the adapter are not counted, and "
    "a method that leaves out what is not needed may exceed 1. Peak: the better of before and after."
)


@dataclass(frozen=True)
class Inputs:
    """What all methods read, and its facts for the result file."""

    job: Job  # without options, which are the method's
    work: Path
    parameters: int
    facts: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 done, 1 a method failed, 2 wrong arguments."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _command(arguments), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="llama-162m", help="size of the model (default: %(default)s)")
    add(
        "--methods",
        default="hf,neuralbot,neuralbot-int8",
        metavar="A,B,...",
        help=f"some of {', '.join(methods.METHODS)}",
    )
    add("--rows", type=Path, default=SHIPPED_ROWS, metavar="FILE", help="JSON list of Alpaca rows (default: shipped)")
    add("--count", type=_positive, default=256, help="so many rows, the first ones (default: %(default)s)")
    add("--tokenizer", type=Path, default=SHIPPED_TOKENIZER, metavar="FOLDER", help="default: the seedling's")
    add("--repeats", type=_positive, default=3, help="trainings of each method (default: %(default)s)")
    add("--batch", type=_positive, default=4, help="rows of a batch (default: %(default)s)")
    add("--accumulation", type=_positive, default=2, help="batches of a step (default: %(default)s)")
    add("--max-length", type=_positive, default=512, help="tokens of the longest row (default: %(default)s)")
    add("--threads", type=_positive, help="default: one for each core that may be used")
    add("--trl-python", type=Path, metavar="FILE", help="the Python of the environment for trl")
    add("--itrex-python", type=Path, metavar="FILE", help="the Python of the environment for itrex")
    add("--output", type=Path, metavar="FILE", help="default: benchmarks/results/finetune-SHAPE.json")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: expected at least 1")
    return value


def _command(arguments: argparse.Namespace) -> int:
    pythons = {methods.OWN: Path(sys.executable), "trl": arguments.trl_python, "itrex": arguments.itrex_python}
    pythons = {kind: path.absolute() if path else None for kind, path in pythons.items()}
    selected = methods.chosen([name.strip() for name in arguments.methods.split(",")], pythons)
    output = arguments.output or RESULTS / f"finetune-{arguments.shape}.json"
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}; make it, or give another file")
    with tempfile.TemporaryDirectory(prefix="finetune-benchmark-") as folder:
        inputs = prepare(arguments, Path(folder))
        known = facts(arguments, inputs)
        peaks = {"before": peak(inputs)}
        samples: dict[str, list[dict[str, Any]]] = {name: [] for name in selected}
        for number in range(arguments.repeats):
            for name, method in selected.items():
                samples[name].append(_sample(name, method, pythons[method.python], inputs, number + 1))
            # After each round, so that an interrupted run leaves the rounds that were whole.
            write_json(output, known | results(samples, inputs.parameters, peaks))
        peaks["after"] = peak(inputs)
    content = known | results(samples, inputs.parameters, peaks)
    write_json(output, content)
    print(table(content["methods"]))
    print(output)
    return int(any("error" in sample for taken in samples.values() for sample in taken))


def prepare(arguments: argparse.Namespace, work: Path) -> Inputs:
    """Rows, tokenizer and checkpoint, in files under `work`. Raises UsageError before anything large is made."""
    text = rows.read_rows(arguments.rows, arguments.count)
    model = work / "llama-base"  # itrex goes by the names of these two
    model.mkdir()
    special, vocabulary = rows.write_tokenizer(arguments.tokenizer, model)
    tokenized = rows.tokenize(text, rows.load_tokenizer(model), special, arguments.max_length)
    text_path, ids_path = work / "alpaca.json", work / "rows.json"
    text_path.write_text(json.dumps(text), encoding="utf-8")
    ids_path.write_text(json.dumps(tokenized), encoding="utf-8")
    plan = hardware.plan(hardware.probe())
    job = Job(
        model=str(model), rows=str(ids_path), text_rows=str(text_path), output_dir=str(work / "output"),
        threads=arguments.threads or plan.threads, bf16=plan.dtype == "bfloat16", batch=arguments.batch,
        accumulation=arguments.accumulation, max_length=arguments.max_length, options={}, **SETTINGS,
    )  # fmt: skip
    shape = SHAPES[arguments.shape]
    parameters = shape.parameters(max(shape.vocab, vocabulary))
    print(f"{arguments.shape}: {parameters:,} parameters beside the embeddings, {len(tokenized)} rows", flush=True)
    # In a process of its own, so that this one stays small beside those that are measured.
    _child(["-m", "benchmarks.shapes", arguments.shape, str(model), "--vocab-size", str(vocabulary)], job, work)
    facts = {
        "rows": len(tokenized),
        "tokens": sum(len(row["input_ids"]) for row in tokenized),
        "target_tokens": sum(label != -100 for row in tokenized for label in row["labels"]),
        "rows_file": _fingerprint(arguments.rows),
        "tokenizer": _fingerprint(arguments.tokenizer / "tokenizer.json"),
    }
    return Inputs(job, work, parameters, facts)


def results(
    samples: dict[str, list[dict[str, Any]]], parameters: int, peaks: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """All of the result file that is measured."""
    flops = max(peak["bf16_gflops"] for peak in peaks.values()) * 1e9
    return {
        "matrix_product_peak": peaks,
        "methods": summary(samples, flops_per_token=4 * parameters, peak_flops=flops),
    }


def summary(samples: dict[str, list[dict[str, Any]]], flops_per_token: int, peak_flops: float) -> dict[str, Any]:
    """For each method: median, least and most of what was measured, its ratios to the baseline, and the samples."""
    done = {name: [sample for sample in taken if "error" not in sample] for name, taken in samples.items()}
    summed = {name: _summed_up(good) if good else {} for name, good in done.items()}
    base = summed.get(BASELINE)
    for own in filter(None, summed.values()):
        own["share_of_peak"] = round(own["tokens_per_s"]["median"] * flops_per_token / peak_flops, 4)
        if base:
            own["speedup"] = round(own["tokens_per_s"]["median"] / base["tokens_per_s"]["median"], 3)
            own["peak_memory_ratio"] = round(own["peak_bytes"]["median"] / base["peak_bytes"]["median"], 3)
            own["loss_difference"] = round(own["last_losses"] / base["last_losses"] - 1, 6)
    return {
        name: {"note": methods.METHODS[name].note, "options": methods.METHODS[name].options, **summed[name],
               "samples": taken}
        for name, taken in samples.items()
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The medians for people."""
    head = ("method", "seconds", "tokens/s", "speedup", "of peak", "memory", "loss difference")
    lines = [head, *(_line(name, result) for name, result in results.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _line(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    if "train_s" not in result:
        return (name, "failed", "", "", "", "", "")
    return (
        name,
        f"{result['train_s']['median']:.1f}",
        f"{result['tokens_per_s']['median']:,.0f}",
        f"{result['speedup']:.2f}x" if "speedup" in result else "",
        f"{result['share_of_peak']:.0%}",
        f"{result['peak_bytes']['median'] / 2**30:.2f} GiB",
        f"{result['loss_difference']:+.2%}" if "loss_difference" in result else "",
    )


def _sample(name: str, method: methods.Method, python: Path | None, inputs: Inputs, number: int) -> dict[str, Any]:
    """One training, with its rates; where it failed, the error in place of figures."""
    assert python is not None  # methods.chosen has seen to it
    job = Job(**(asdict(inputs.job) | {"options": dict(method.options)}))
    try:
        sample = methods.run(method, python, job, inputs.work)
    except methods.MethodFailed as error:
        print(f"round {number}, {name}: {error}", flush=True)
        return {"error": methods.without_folders(str(error))}
    for rate, tokens in (("tokens_per_s", "tokens"), ("target_tokens_per_s", "target_tokens")):
        sample[rate] = round(sample[tokens] / sample["train_s"], 2)
    print(
        f"round {number}, {name}: {sample['train_s']:.1f} s, {sample['tokens_per_s']:,.0f} tokens/s, "
        f"{sample['peak_bytes'] / 2**30:.2f} GiB, loss {sample['losses'][0]:.4f} to {sample['losses'][-1]:.4f}",
        flush=True,
    )
    return sample


def _summed_up(samples: list[dict[str, Any]]) -> dict[str, Any]:
    spread = {key: _spread([sample[key] for sample in samples]) for key in SUMMED_UP}
    lasts = [statistics.fmean(losses[-max(1, len(losses) // 4) :]) for losses in (s["losses"] for s in samples)]
    first = samples[0]
    counts = {key: first[key] for key in ("tokens", "target_tokens", "computed_tokens", "threads", "versions")}
    return counts | {"steps": len(first["losses"])} | spread | {"last_losses": round(statistics.median(lasts), 6)}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def facts(arguments: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """All of the result file that is no measurement of a method."""
    job = asdict(inputs.job)
    shape = asdict(SHAPES[arguments.shape])
    kept = ("bf16", "batch", "accumulation", "max_length", *SETTINGS)
    return {
        "schema": 1,
        "shape": {"name": arguments.shape, **shape, "parameters_without_embeddings": inputs.parameters},
        "data": inputs.facts,
        "settings": {"epochs": 1, "repeats": arguments.repeats} | {key: job[key] for key in kept},
        "hardware": asdict(hardware.probe()),
        "threads": inputs.job.threads,
        **environment(),
        "onednn": _onednn(inputs),
        "share_of_peak_is": FLOP_NOTE,
    }


def _onednn(inputs: Inputs) -> dict[str, str | None]:
    arguments = ["-m", "benchmarks.peers.machine", "products"]
    return machine.read_onednn(_child(arguments, inputs.job, inputs.work, ONEDNN_VERBOSE="1"))


def peak(inputs: Inputs) -> dict[str, float]:
    peak: dict[str, float] = json.loads(_child(["-m", "benchmarks.peers.machine", "peak"], inputs.job, inputs.work))
    return peak


def _child(arguments: list[str], job: Job, work: Path, **variables: str) -> str:
    """What this Python prints, run with these arguments in the environment of the methods."""
    command = [sys.executable, *arguments]
    variables = methods.environment(job.threads, work) | variables
    done = subprocess.run(command, cwd=work, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()[-2000:]
        raise NeuralbotError(f"{' '.join(arguments)} ended with status {done.returncode}: {said}")
    return done.stdout


def _fingerprint(path: Path) -> dict[str, str]:
    with path.open("rb") as stream:
        return {"name": path.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


if __name__ == "__main__":
    sys.exit(main())
