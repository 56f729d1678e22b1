"""Names and numbers of a run in the words that all its reports use.

Folders are left out of paths: they tell who made it where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from neuralbot.textstream import NO_CONTROLS

_METHODS = {
    "full": "a model with all its weights tuned from",
    "lora": "a LoRA adapter for",
    "ptun": "a prompt, learned by p-tuning, for",
    "prompt": "a prompt, learned by prompt tuning, for",
    "prefix": "a prefix, learned by prefix tuning, for",
    "llama_adapter": "a LLaMA-Adapter for",
}
METRIC_MEANING = {
    "exact_match": "share of answers that equal the reference, white space at the ends aside",
    "contains": "share of answers that hold the expected fact as whole words",
    "rouge": "mean F1 of ROUGE against the reference (rouge_score, no stemmer)",
    "f1": "mean F1 over words against the reference, as SQuAD measures it",
    "bleu": "BLEU and chrF over all rows (sacrebleu)",
    "unit_tests": "share of questions whose code passes the unit tests of the row, run in a sandbox (pass@k: the "
    "unbiased estimator)",
    "labels": "share of questions whose gold label the model finds likeliest",
    "loss": "mean negative log-likelihood of the answers' tokens, their end included (lower is better)",
}
_SCORE_NAMES = {
    "exact_match": "exact match",
    "contains": "fact in the answer",
    "f1": "F1",
    "squad_exact_match": "exact match (SQuAD)",
    "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum",
    "bleu": "BLEU", "chrf": "chrF",
    "pass_at_1": "tests passed",
}  # fmt: skip
_SHARES = ("exact_match", "contains", "squad_exact_match", "accuracy", "accuracy_norm", "token_accuracy")
# An absolute path but for its last name; not the slashes of an address, nor those between words.
_FOLDERS = re.compile(r"~?(?<![\w/.:])/(?:[^\s/:,;'\"()]+/)+(?=[^\s/])")


def score_name(name: str) -> str:
    return _SCORE_NAMES.get(name) or re.sub(r"^pass_at_(\d+)$", r"pass@\1", name).replace("_", " ")


def score(name: str, value: float) -> str:
    """A score as it is read: shares in per cent, all else as it is."""
    if name in _SHARES or name.startswith("pass_at_"):
        return f"{value:.1%}".replace("%", " %")
    return f"{value:.3f}"


def count(value: int | float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count(value)}" for name, value in found.items())


def duration(seconds: float) -> str:
    """With the precision that a person reads: 4.2 s, 103 s, 12 min 5 s, 3 h 4 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def memory(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def energy(joules: float) -> str:
    return f"{joules / 3600:.2f} Wh" if joules < 3.6e6 else f"{joules / 3.6e6:.2f} kWh"


def without_folders(text: str) -> str:
    """Somebody's sentence, its absolute paths cut to their last names."""
    return _FOLDERS.sub("", text)


def without_controls(text: str) -> str:
    """Any text, so that it can be written and commands no reader."""
    return text.translate(NO_CONTROLS).encode("utf-8", "replace").decode()


def file_names(paths: Sequence[str]) -> list[str]:
    """The paths as they are; absolute ones by their last part, with as many folders as it takes to tell them apart."""
    shown = []
    for path in paths:
        parts = PurePosixPath(path).parts if path.startswith(("/", "~", "..")) else ()
        tails = ("/".join(parts[-size:]) for size in range(1, len(parts)))
        others = [other for other in paths if other != path]
        alone = (tail for tail in tails if not any(f"/{other}".endswith(f"/{tail}") for other in others))
        shown.append(next(alone, path))
    return shown


def base_name(manifest: Mapping[str, Any]) -> str | None:
    """The base model's name; of a path only the last part, as the rest says more about a machine than about a model."""
    name = base(manifest).get("name")
    if not name:
        return None
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return Path(name).name if looks_like_path else str(name)


def base(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    return manifest.get("base_model") or {}


def made(manifest: Mapping[str, Any]) -> str:
    """What a run made of its base: "a LoRA adapter for"."""
    return _METHODS.get(str(manifest.get("method")), "a model tuned from")


def machine(manifest: Mapping[str, Any]) -> str:
    hardware = manifest.get("hardware") or {}
    size = hardware.get("memory_bytes")
    facts = [
        hardware.get("cpu"),
        hardware.get("isa"),
        f"{hardware['usable_cpus']} CPUs" if "usable_cpus" in hardware else None,
        f"{size / 2**30:.0f} GiB" if size else None,
    ]
    return ", ".join(str(fact) for fact in facts if fact)


def how_answered(result: Mapping[str, Any]) -> str:
    drawn = result.get("drawn")
    if not drawn:
        return "the likeliest answer to each"
    return f"{drawn['samples']} answers to each drawn at temperature {drawn['temperature']:g} with seed {drawn['seed']}"


def versions(manifest: Mapping[str, Any]) -> str:
    found = {"neuralbot": manifest.get("neuralbot"), **manifest.get("versions", {})}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def commit(manifest: Mapping[str, Any]) -> str:
    """The commit, and whether it was changed; empty where neuralbot was installed."""
    changed = " with uncommitted changes" if manifest.get("commit_dirty") else ""
    return f"{manifest['commit']}{changed}" if manifest.get("commit") else ""


def last_losses(records: Sequence[Mapping[str, Any]]) -> str:
    named = {"loss": "training", "eval_loss": "held out"}
    last = {key: record[key] for record in records for key in named if record.get(key) is not None}
    return ", ".join(f"{name} {last[key]:.3f}" for key, name in named.items() if key in last)


def known(facts: Mapping[str, Any]) -> dict[str, str]:
    """Those facts that there are, as texts."""
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}
