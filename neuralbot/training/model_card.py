"""README.md of the run folder: a model card in Hugging Face form, made only from the files that the run wrote.

Not done here: charts (`plot`), measuring anything; the card says nothing that no file says.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from neuralbot.training.plot import PLOT
from neuralbot.training.records import read_json, read_jsonl, read_text, write_text
from neuralbot.training.run_folder import MANIFEST, METRICS, RECIPE, RESULTS, SAMPLES

CARD = "README.md"
_SHOWN_SAMPLES = 3
_SHOWN_CHARS = 600
_ADAPTER = "adapter_config.json"

_METHODS = {
    "lora": "a LoRA adapter for",
    "ptun": "a prompt, learned by p-tuning, for",
    "prompt": "a prompt, learned by prompt tuning, for",
    "prefix": "a prefix, learned by prefix tuning, for",
    "llama_adapter": "a LLaMA-Adapter for",
}
_METRIC_MEANING = {
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


def write_model_card(run_dir: Path) -> Path:
    """Writes README.md into a run folder. Raises RunFolderError if a file that it reads is missing or broken."""
    write_text(run_dir / CARD, model_card(run_dir))
    return run_dir / CARD


def model_card(run_dir: Path) -> str:
    """The text of the card. results.json, samples.jsonl and the plot may be missing; their parts are then left out."""
    manifest = read_json(run_dir / MANIFEST)
    results = read_json(run_dir / RESULTS) if (run_dir / RESULTS).exists() else {}
    samples = read_jsonl(run_dir / SAMPLES) if (run_dir / SAMPLES).exists() else []
    parts = (
        _front_matter(run_dir, manifest),
        _title(run_dir, manifest),
        _scores(results),
        _training(run_dir, manifest),
        _samples(samples),
        _loading(run_dir),
        _settings(run_dir),
        _origin(manifest),
        _limits(manifest),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    base = _base(manifest)
    tags = ["neuralbot", "text-generation", *(str(manifest[key]) for key in ("method", "task") if manifest.get(key))]
    facts: dict[str, Any] = {
        "library_name": _library(run_dir),
        "base_model": _base_name(manifest),
        "license": base.get("license"),
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    # JSON strings and lists are YAML too, and need no quoting rules of our own.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items() if value]
    return "\n".join(["---", *lines, "---"])


def _title(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    how = _METHODS.get(str(manifest.get("method")), "a model with all its weights tuned from")
    base, task = _base_name(manifest) or "a base model", manifest.get("task", "text")
    state = "" if manifest.get("finished") else "\n\n**This run did not finish;** what follows is what it had written."
    name = manifest.get("name") or run_dir.resolve().name
    return f"# {name}\n\nThis is {how} `{base}`, finetuned by neuralbot for the task {task}.{state}"


def _scores(results: Mapping[str, Any]) -> str:
    after, before = results.get("after"), results.get("before")
    known = after or before
    if not known:
        return ""
    main = results.get("main_score")
    rows = [
        (name, _score(before, name, main), _score(after, name, main))
        for name in sorted(known["scores"], key=lambda name: name != main)
    ]
    meaning = _METRIC_MEANING.get(str(results.get("metric")), "")
    notes = _list(known.get("notices", ()))
    return (
        f"## Scores on held-out rows\n\n{_table(('score', 'before tuning', 'after tuning'), rows)}\n\n"
        f"{known['n']} questions, {_how(known)}; in brackets the 95 % interval (bootstrap over rows). "
        f"{results.get('metric')}: {meaning}.{notes}"
    )


def _how(result: Mapping[str, Any]) -> str:
    drawn = result.get("drawn")
    if not drawn:
        return "the likeliest answer to each"
    return f"{drawn['samples']} answers to each drawn at temperature {drawn['temperature']:g} with seed {drawn['seed']}"


def _score(result: Mapping[str, Any] | None, name: str, main: str | None) -> str:
    if result is None or name not in result["scores"]:
        return "not measured"
    value = f"{result['scores'][name]:.3f}"
    low, high = result["interval"]
    return f"{value} ({low:.3f} to {high:.3f})" if name == main else value


def _training(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    data, base, plan = manifest.get("data", {}), _base(manifest), manifest.get("plan", {})
    rows, tokens, seconds = data.get("rows", {}), data.get("tokens", {}), manifest.get("durations_s", {})
    facts = {
        "rows": _counts(rows),
        "training tokens": _counts(tokens),
        "parameters": _number(base.get("parameters")),
        "trainable parameters": _number(manifest.get("trainable_parameters")),
        "prompt style": manifest.get("prompt_style"),
        "seed": manifest.get("seed"),
        "final losses": _last_losses(run_dir),
        "time": ", ".join(f"{name.replace('_', ' ')} {value:.0f} s" for name, value in seconds.items()),
        "machine": _machine(manifest),
        "computed in": ", ".join(f"{name} {value}" for name, value in plan.items()),
    }
    files = [(name, f"`{digest[:16]}`") for name, digest in data.get("fingerprint", {}).items()]
    parts = ["## Training", _table(("", ""), _known(facts))]
    parts += [_table(("data file", "SHA-256 begins with"), files)] if files else []
    parts += [f"![Loss over the steps]({PLOT})"] if (run_dir / PLOT).exists() else []
    return "\n\n".join(parts)


def _last_losses(run_dir: Path) -> str:
    records = read_jsonl(run_dir / METRICS) if (run_dir / METRICS).exists() else []
    named = {"loss": "training", "eval_loss": "held out"}
    last = {key: record[key] for record in records for key in named if record.get(key) is not None}
    return ", ".join(f"{name} {last[key]:.3f}" for key, name in named.items() if key in last)


def _machine(manifest: Mapping[str, Any]) -> str:
    hardware = manifest.get("hardware") or {}
    memory = hardware.get("memory_bytes")
    facts = [
        hardware.get("cpu"),
        hardware.get("isa"),
        f"{hardware['usable_cpus']} CPUs" if "usable_cpus" in hardware else None,
        f"{memory / 2**30:.0f} GiB" if memory else None,
    ]
    return ", ".join(str(fact) for fact in facts if fact)


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    count = min(_SHOWN_SAMPLES, len(rows))
    shown = [rows[place * len(rows) // count] for place in range(count)]
    head = f"## Samples\n\n{count} of {len(rows)} held-out questions, at even distances, not chosen by their answers."
    return "\n\n".join([head, *(_sample(number, row) for number, row in enumerate(shown, 1))])


def _sample(number: int, row: Mapping[str, Any]) -> str:
    texts = {"Question": row["prompt"], "Expected": row["expected"]}
    for when in ("before", "after"):
        answer = row.get(when)
        if answer:
            texts[f"Answer {when} tuning (scored {answer['correct']:.2f})"] = answer["answer"] or "(empty)"
    return "\n\n".join([f"### {number}", *(f"{name}:\n\n{_fenced(text)}" for name, text in texts.items())])


def _loading(run_dir: Path) -> str:
    name = run_dir.as_posix()
    quoted = json.dumps(name, ensure_ascii=False)
    loader, package = ("AutoModelForCausalLM", "transformers")
    if _library(run_dir) == "peft":
        loader, package = ("AutoPeftModelForCausalLM", "peft")
    return f"""## How to use it

Commands and paths as seen from the folder in which the run was started.

```sh
neuralbot chat {shlex.quote(name)}
```

```python
from neuralbot import PipelineConfig, build_chatbot

chatbot = build_chatbot(PipelineConfig(model_name_or_path={quoted}))
print(chatbot.predict(query="..."))
```

Without neuralbot (the prompt format is the tokenizer's chat template):

```python
from {package} import {loader}
from transformers import AutoTokenizer

model = {loader}.from_pretrained({quoted})
tokenizer = AutoTokenizer.from_pretrained({quoted})
```"""


def _settings(run_dir: Path) -> str:
    text = read_text(run_dir / RECIPE).strip()
    return f"## Settings\n\n`{RECIPE}` in this folder repeats the run:\n\n{_fenced(text, 'yaml', limit=None)}"


def _origin(manifest: Mapping[str, Any]) -> str:
    commit = manifest.get("commit")
    changed = " with uncommitted changes" if manifest.get("commit_dirty") else ""
    versions = {"neuralbot": manifest.get("neuralbot"), **manifest.get("versions", {})}
    facts = {
        "commit": f"`{commit}`{changed}" if commit else None,
        "started": manifest.get("started"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }
    digests = _base(manifest).get("weights_sha256", {})
    weights = [(f"SHA-256 of base {file}", f"`{digest}`") for file, digest in digests.items()]
    notices = _list(manifest.get("notices", ()))
    said = f"\n\nWhat was adapted to make the run possible:{notices}" if notices else ""
    return f"## Origin\n\n{_table(('', ''), [*_known(facts), *weights])}{said}"


def _limits(manifest: Mapping[str, Any]) -> str:
    lines = [
        "The scores hold for rows like the held-out ones; other questions were not measured.",
        "Answers may be wrong, and nothing in the training makes them safe for people who rely on them.",
        "What the base model learned, its licence and its faults come along.",
    ]
    if _base_name(manifest) == "seedling":
        lines.insert(0, "`seedling` is a small demonstration model: it knows its families of tasks and nothing else.")
    return f"## Limits{_list(lines)}"


def _library(run_dir: Path) -> str:
    return "peft" if (run_dir / _ADAPTER).exists() else "transformers"


def _base(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    return manifest.get("base_model") or {}


def _base_name(manifest: Mapping[str, Any]) -> str | None:
    """The base model's name; of a path only the last part, as the rest says more about a machine than about a model."""
    name = _base(manifest).get("name")
    if not name:
        return None
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return Path(name).name if looks_like_path else str(name)


def _known(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_number(count)}" for name, count in counts.items())


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|")


def _list(lines: Iterable[str]) -> str:
    """A list after a blank line; nothing for no lines."""
    items = [f"- {_inline(line)}" for line in lines]
    return "\n".join(["\n", *items]) if items else ""


def _inline(text: str) -> str:
    return " ".join(escape(text, quote=False).split())


def _fenced(text: str, language: str = "text", limit: int | None = _SHOWN_CHARS) -> str:
    """A code block that no text can leave: its fence is longer than any run of backticks inside."""
    if limit is not None and len(text) > limit:
        text = text[:limit].rstrip() + " ..."
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
