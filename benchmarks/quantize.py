"""What each precision costs and saves: loss, score and size of tuned runs and of a model, one after the other.

    python -m benchmarks.quantize runs/alpaca runs/chat runs/code runs/summarization
    python -m benchmarks.quantize --stories FOLDER          a model whose rows are drawn from itself (TinyStories-656K)
    python -m benchmarks.quantize --speed runs/alpaca       prefill and decode too: on a machine with nothing else to do

Each precision is exported as `neuralbot export` does, and OpenVINO computes the loss on the recipe's test rows, as a
chatbot would run it. Results are added to the file. Its form is in benchmarks/results/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.openvino_loss import loss
from benchmarks.peers import methods
from neuralbot import hardware, modeling, recipe
from neuralbot.calibration import Calibration, Method
from neuralbot.command import run as run_command
from neuralbot.conversation import Conversation, Encoded, encode_many
from neuralbot.data.splits import load_splits
from neuralbot.engines import export
from neuralbot.engines.export_cache import Entry
from neuralbot.engines.openvino_engine import ACTIVATION_GROUP, Exported, OpenVinoEngine
from neuralbot.engines.protocol import Sampling, end_ids
from neuralbot.precision import Kept
from neuralbot.training.provenance import environment
from neuralbot.training.records import write_json
from neuralbot.training.run_folder import RECIPE

RESULT = methods.ROOT / "benchmarks" / "results" / "quantize.json"
GROUP = 64
_STORIES, _STORY_TOKENS, _START = 128, 160, "<|start_story|>"
_PROMPT_TOKENS, _NEW_TOKENS, _REPEATS = 192, 48, 5  # the embedded model reads 256


@dataclass(frozen=True)
class Way:
    """How weights are kept: NNCF's rounding, or integers that a method chooses."""

    kept: Kept
    method: Method | None = None


WAYS = {
    "fp32": Way("fp32"),
    "bf16": Way("bf16"),
    "int8": Way("int8"),
    "int8 gptq": Way("int8", "gptq"),
    "int4": Way("int4"),
    "int4 rtn": Way("int4", "rtn"),
    "int4 gptq": Way("int4", "gptq"),
    "int4 awq": Way("int4", "awq"),
    "int4 teq": Way("int4", "teq"),
    "int4 autoround": Way("int4", "autoround"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--stories", type=Path, metavar="FOLDER", help="the folder of TinyStories-656K")
    parser.add_argument("--ways", default=",".join(WAYS), help="which, by name, with commas between (default: all)")
    parser.add_argument("--rows", type=int, default=512, metavar="N", help="rows to calibrate on (default: 512)")
    parser.add_argument("--score", action="store_true", help="the score of the recipe's own metric too")
    parser.add_argument("--speed", action="store_true", help="prefill and decode too")
    parser.add_argument("--output", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _command(arguments), debug=False)


def _command(arguments: argparse.Namespace) -> int:
    modeling.hide_loading_bars()
    known = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    models: dict[str, dict[str, Any]] = known.get("models", {})
    with tempfile.TemporaryDirectory() as scratch:
        subjects = [_tuned(folder) for folder in arguments.runs]
        subjects += [_drawn(arguments.stories, Path(scratch) / "stories.jsonl")] if arguments.stories else []
        for subject in subjects:
            measured = models.setdefault(subject.folder.name, {})
            for name in arguments.ways.split(","):
                measured[name] = measured.get(name, {}) | _measured(subject, WAYS[name], arguments)
                print(subject.folder.name, name, measured[name], flush=True)
                content = {"schema": 1, "group_size": GROUP, "calibration_rows": arguments.rows, "models": models}
                write_json(arguments.output, content | {"hardware": asdict(hardware.probe()), **environment()})
    return 0


@dataclass(frozen=True)
class Subject:
    """A model, the rows whose loss is told, those that are asked, and a file to calibrate on; None: the run's own."""

    folder: Path
    rows: list[Encoded]
    questions: tuple[Conversation, ...] = ()
    data: Path | None = None


def _tuned(folder: Path) -> Subject:
    trained = recipe.load(folder / RECIPE)
    test = load_splits(trained.data, trained.finetuning.task, do_eval=False).test
    return Subject(folder, encode_many(modeling.load_tokenizer(str(folder)), test), test)


def _drawn(folder: Path, data: Path) -> Subject:
    """Stories that the model itself tells, drawn in float32: half of them to calibrate on, which go into `data`."""
    import torch

    tokenizer = modeling.load_tokenizer(str(folder))
    model = modeling.load_base(str(folder), torch.float32)
    torch.manual_seed(0)
    begin = torch.full((2 * _STORIES, 1), tokenizer.convert_tokens_to_ids(_START))
    lengths = {"max_new_tokens": _STORY_TOKENS, "min_new_tokens": _STORY_TOKENS}
    ids: list[list[int]] = model.generate(begin, do_sample=True, top_k=0, pad_token_id=0, **lengths).tolist()
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids[:_STORIES]]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return Subject(folder, [Encoded(row, [True] * len(row)) for row in ids[_STORIES:]], data=data)


def _measured(subject: Subject, way: Way, arguments: argparse.Namespace) -> dict[str, float]:
    data = None if subject.data is None else str(subject.data)
    chosen = None if way.method is None else Calibration(way.method, data, arguments.rows)
    began = time.monotonic()
    spec = export.Spec(str(subject.folder), way.kept, group_size=GROUP, calibration=chosen)
    entry = export.exported(spec, lambda _: None)
    group = min(ACTIVATION_GROUP, GROUP) if way.kept == "int4" else ACTIVATION_GROUP if way.kept == "int8" else 0
    figures = {
        "export_s": round(time.monotonic() - began, 1),
        "bytes": (entry.folder / "openvino_model.bin").stat().st_size,
        "loss": round(loss(entry.folder, group, subject.rows), 6),
    }
    if arguments.score and subject.questions:
        figures["score"] = _score(subject, entry, group)
    return figures | (_speeds(subject, entry, group) if arguments.speed else {})


def _engine(subject: Subject, entry: Entry, group: int, *, endless: bool = False) -> OpenVinoEngine:
    tokenizer, facts = modeling.load_tokenizer(str(subject.folder)), entry.facts
    ends = frozenset() if endless else end_ids(facts["eos_token_id"], tokenizer)
    exact = facts["precision"] == "fp32" or not hardware.has_bf16()
    exported = Exported(
        entry.folder, facts["context_length"], facts["vocabulary"], ends, "f32" if exact else "bf16", group
    )
    return OpenVinoEngine(exported, tokenizer)


def _score(subject: Subject, entry: Entry, group: int) -> float:
    """The main score of the recipe's own metric."""
    from neuralbot.evaluation.evaluate import evaluate
    from neuralbot.evaluation.metrics import MAIN_SCORE

    trained = recipe.load(subject.folder / RECIPE)
    engine = _engine(subject, entry, group)
    found = evaluate(engine, subject.questions, trained.evaluation, trained.finetuning.task)
    engine.close()
    return round(found.scores[MAIN_SCORE[found.metric]], 4)


def _speeds(subject: Subject, entry: Entry, group: int) -> dict[str, float]:
    """Tokens of a prompt, and tokens of an answer, in a second: medians. Each prompt is another one."""
    engine = _engine(subject, entry, group, endless=True)
    ids = [token for row in subject.rows for token in row.ids]
    read, written = [], []
    for place in range(_REPEATS + 1):
        prompt = ids[place * _PROMPT_TOKENS : (place + 1) * _PROMPT_TOKENS]
        began = time.monotonic()
        stream = iter(engine.stream(prompt, Sampling(max_new_tokens=_NEW_TOKENS, do_sample=False)))
        next(stream)
        first = time.monotonic()
        count = sum(1 for _ in stream)
        read.append(len(prompt) / (first - began))
        written.append(count / (time.monotonic() - first))
    engine.close()
    rates = {"prefill_tokens_per_s": read, "decode_tokens_per_s": written}
    return {name: round(statistics.median(values[1:]), 1) for name, values in rates.items()}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The words between the markers: a row for each model and precision."""
    (result,) = results
    lines = [
        "| model | weights | loss | score | MB | prefill | decode |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, ways in result["models"].items():
        plain = ways["fp32"]["loss"]
        for name, figures in ways.items():
            change = "" if name == "fp32" else f" ({figures['loss'] / plain - 1:+.2%})".replace("%", " %")
            cells = [f"{figures['loss']:.4f}{change}", _shown(figures, "score", ".1%"), f"{figures['bytes'] / 1e6:.1f}"]
            cells += [_shown(figures, f"{what}_tokens_per_s", ",.0f") for what in ("prefill", "decode")]
            lines.append(f"| {model if name == 'fp32' else ''} | {name} | {' | '.join(cells)} |")
    machine = result["hardware"]
    return "\n".join(
        [
            *lines,
            "",
            f"Groups of {result['group_size']} in int4, calibrated on {result['calibration_rows']} rows of the "
            f"training; tokens per second. {machine['cpu']} ({machine['isa']}), `python -m benchmarks.quantize`.",
        ]
    )


def _shown(figures: Mapping[str, float], name: str, form: str) -> str:
    return format(figures[name], form).replace("%", " %") if name in figures else ""


if __name__ == "__main__":
    sys.exit(main())
