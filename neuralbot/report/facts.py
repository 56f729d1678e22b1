"""All that the report says of a run, as texts and tables; what is not known is left out."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from neuralbot.errors import DataError, RunFolderError
from neuralbot.report import words
from neuralbot.report.outcome import Outcome, outcome
from neuralbot.report.run import Record, Run

Facts = dict[str, str]
_SHOWN_REJECTS = 5
_STAGES = {
    "prepare": "rows and model loaded",
    "evaluate_before": "scored before tuning",
    "train": "trained",
    "evaluate_after": "scored after tuning",
}
_REPORT = "report"  # a stage that the page cannot know of, as it is in it
_STYLES = {"tokenizer": "that of the tokenizer's chat template"}
_ROLES = {"train_file": "training", "validation_file": "held-out loss", "test_file": "scores"}
_SETTINGS = ("model", "data", "finetuning", "training", "evaluation", "serving")
_SAID_ELSEWHERE = ("output_dir", *_ROLES, "sources", "model_name_or_path", "task")


@dataclass(frozen=True)
class Bar:
    """share: 0..1 of the longest."""

    name: str
    value: str
    share: float


@dataclass(frozen=True)
class Report:
    """lead: what the run made, in a sentence. stopped: why it did not finish; empty for one that did.

    files: name, use, rows, beginning of its SHA-256. settings: section of the recipe -> its values.
    """

    name: str
    lead: str
    stopped: str
    outcome: Outcome
    highlights: Facts
    trained: Facts
    files: tuple[Sequence[str], ...]
    lengths: tuple[Bar, ...]
    lengths_note: str
    settings: dict[str, Facts]
    stages: tuple[Bar, ...]
    machine: Facts
    origin: Facts
    notices: tuple[str, ...]
    skipped: tuple[str, ...]
    commands: str
    script: str


def gather(run: Run) -> Report:
    """Raises RunFolderError if the files are not what a run writes."""
    try:
        found = outcome(run)
        return Report(
            name=run.name,
            lead=_lead(run),
            stopped=_stopped(run.manifest),
            outcome=found,
            highlights=_highlights(run),
            trained=_trained(run),
            files=tuple(_files(run)),
            lengths=tuple(_lengths(run.manifest)),
            lengths_note=_lengths_note(run.manifest),
            settings=_settings(run.recipe),
            stages=tuple(_stages(run.manifest)),
            machine=_machine(run.manifest),
            origin=_origin(run.manifest),
            notices=tuple(map(words.without_folders, (*run.manifest.get("notices", ()), *found.notices))),
            skipped=_skipped(run),
            commands=_commands(run),
            script=_script(run),
        )
    except (AttributeError, DataError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"the files of {run.name} are not what a run writes ({error!r}); expected them as finetune left them"
        ) from error


def _lead(run: Run) -> str:
    manifest = run.manifest
    how = words.made(manifest)
    base, task = words.base_name(manifest) or "a base model", manifest.get("task", "text")
    rows = manifest.get("data", {}).get("rows", {}).get("train")
    on = f" on {words.count(rows)} rows" if rows else ""
    return f"{how[0].upper()}{how[1:]} {base}, finetuned{on} for the task {task}."


def _stopped(manifest: Record) -> str:
    if manifest.get("finished"):
        return ""
    error = manifest.get("error")
    return (
        f"It was stopped: {words.without_folders(str(error))}"
        if error
        else "It is still running, or was ended from outside."
    )


def _highlights(run: Run) -> Facts:
    manifest, data = run.manifest, run.manifest.get("data", {})
    seconds = {name: value for name, value in manifest.get("durations_s", {}).items() if name != _REPORT}
    peak, joules = manifest.get("peak_memory_bytes"), (manifest.get("energy") or {}).get("joules")
    return words.known({
        "training rows": words.count(data.get("rows", {}).get("train")),
        "time in all": words.duration(sum(seconds.values())) if seconds else None,
        "of it training": words.duration(seconds["train"]) if "train" in seconds else None,
        "tokens/s in training": words.count(_speed(run.metrics)),
        "peak memory": words.memory(peak) if peak else None,
        "energy in training": words.energy(joules) if joules is not None else None,
    })  # fmt: skip


def _speed(records: Sequence[Record]) -> float | None:
    found = [record["tokens_per_s"] for record in records if record.get("tokens_per_s") is not None]
    return found[-1] if found else None


def _trained(run: Run) -> Facts:
    manifest, data, metrics = run.manifest, run.manifest.get("data", {}), run.results.get("metrics", {})
    base, tokens, bits = words.base(manifest), data.get("tokens", {}), manifest.get("base_bits")
    parameters, trainable = base.get("parameters"), manifest.get("trainable_parameters")
    name, rows = words.base_name(manifest), data.get("rows", {})
    return words.known({
        "base model": f"{name}, in {bits} bits" if name and bits else name,
        "task": manifest.get("task"),
        "method": manifest.get("method"),
        "parameters": words.count(parameters),
        "trained parameters": _of(trainable, (parameters or 0) + (trainable or 0)) if manifest.get("method") != "full"
        else words.count(trainable),
        "rows": words.counts({name: rows[name] for name in ("train", "validation", "test") if name in rows}),
        "tokens of the training rows": words.count(tokens.get("train")),
        "of them trained on": _of(tokens.get("targets"), tokens.get("train")),
        "prompt style": _STYLES.get(str(manifest.get("prompt_style")), manifest.get("prompt_style")),
        "steps": words.count(metrics.get("steps")),
        "tokens in all steps": words.count(metrics.get("tokens")),
        "seed": manifest.get("seed"),
        "kernels": ": ".join(filter(None, (manifest.get("kernels"), manifest.get("kernels_reason")))),
    })  # fmt: skip


def _of(part: int | None, whole: int | None) -> str:
    """A count with its share."""
    if part is None:
        return ""
    return f"{words.count(part)} ({part / whole:.1%})".replace("%", " %") if whole else words.count(part)


def _files(run: Run) -> Iterable[Sequence[str]]:
    data, asked = run.manifest.get("data", {}), run.recipe.get("data", {})
    uses = {str(asked[key]): use for key, use in _ROLES.items() if key in asked}
    uses |= {str(one["path"]): "training" for one in asked.get("sources", ()) if "path" in one}
    rows, sources = data.get("rows", {}), data.get("sources", {})
    of_use = {"training": rows.get("train"), "held-out loss": rows.get("validation"), "scores": rows.get("test")}
    digests = data.get("fingerprint", {})
    for path, name in zip(digests, words.file_names(list(digests)), strict=True):
        use = uses.get(path, "")
        count = sources.get(path) if sources else None
        count = of_use.get(use) if count is None and list(uses.values()).count(use) == 1 else count
        yield (name, use, words.count(count), digests[path][:16] if " " not in digests[path] else digests[path])


def _lengths(manifest: Record) -> Iterable[Bar]:
    found = manifest.get("data", {}).get("lengths") or {"edges": (), "counts": ()}
    for (low, high), count in zip(pairwise(found["edges"]), found["counts"], strict=True):
        name = words.count(low) if high - low == 1 else f"{words.count(low)} to {words.count(high - 1)}"
        yield Bar(name, words.count(count), count / max(found["counts"]))


def _lengths_note(manifest: Record) -> str:
    data = manifest.get("data", {})
    found = data.get("lengths")
    if not found:
        return ""
    of = "The first rows of the stream" if data.get("streamed") else "The training rows"
    return (
        f"{of} by their tokens, as they are trained on: the shortest has {found['minimum']:,}, the median "
        f"{found['median']:,}, 95 % have up to {found['p95']:,}, the longest {found['maximum']:,}."
    )


def _settings(recipe: Mapping[str, Record]) -> dict[str, Facts]:
    found = {
        section: {key: _plain(value) for key, value in recipe[section].items() if key not in _SAID_ELSEWHERE}
        for section in _SETTINGS
        if section in recipe
    }
    return {section: values for section, values in found.items() if values}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(part)}" for key, part in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return words.file_names([value])[0] if isinstance(value, str) else str(value)


def _stages(manifest: Record) -> Iterable[Bar]:
    seconds = {name: value for name, value in manifest.get("durations_s", {}).items() if name != _REPORT}
    for name, value in seconds.items():
        share = value / max(*seconds.values(), 1e-9)
        yield Bar(_STAGES.get(name, name.replace("_", " ")), words.duration(value), share)


def _machine(manifest: Record) -> Facts:
    hardware, plan = manifest.get("hardware") or {}, manifest.get("plan") or {}
    size, peak, used = (hardware.get("memory_bytes"), manifest.get("peak_memory_bytes"), manifest.get("energy"))
    return words.known({
        "processor": hardware.get("cpu"),
        "instruction set": hardware.get("isa"),
        "cores": hardware.get("physical_cores"),
        "threads": plan.get("threads"),
        "numbers": plan.get("dtype"),
        "device": plan.get("device"),
        "memory": words.memory(size) if size else None,
        "peak memory of the run": words.memory(peak) if peak else None,
        "energy in training": _energy(used) if used else None,
        "versions": words.versions(manifest),
    })  # fmt: skip


def _energy(used: Record) -> str:
    joules = used.get("joules")
    if joules is None:
        return f"not readable here: {used.get('why')}"
    return f"{words.energy(joules)} ({words.count(joules)} J; all that ran on {', '.join(used['counters'])})"


def _origin(manifest: Record) -> Facts:
    weights = {
        f"SHA-256 of base {name}": value for name, value in words.base(manifest).get("weights_sha256", {}).items()
    }
    times = {"started": manifest.get("started"), "ended": manifest.get("ended"), "commit": words.commit(manifest)}
    return words.known(times | weights)


def _skipped(run: Run) -> tuple[str, ...]:
    """What was wrong with the first rows that were skipped, and how many more there are."""
    said = [words.without_folders(str(row["problem"])) for row in run.rejects[:_SHOWN_REJECTS]]
    more = len(run.rejects) - len(said)
    return (*said, f"and {words.count(more)} more, in rejects.jsonl") if more else tuple(said)


def _commands(run: Run) -> str:
    folder = shlex.quote(run.folder)
    lines = [f"neuralbot chat {folder}"]
    lines += [f"neuralbot eval compare {folder}"] if run.samples else []
    return "\n".join([*lines, f"neuralbot report {folder}"])


def _script(run: Run) -> str:
    return (
        "from neuralbot import PipelineConfig, build_chatbot\n\n"
        f"chatbot = build_chatbot(PipelineConfig(model_name_or_path={run.folder!r}))\n"
        'print(chatbot.predict(query="..."))'
    )
