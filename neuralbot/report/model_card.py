"""README.md of the run folder: a model card in Hugging Face form, made only from the files that the run wrote.

Not done here: charts (`plot`), measuring anything; the card says nothing that no file says.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralbot.report import words
from neuralbot.report.markdown import bullets, fenced, table
from neuralbot.report.page import PAGE
from neuralbot.report.plot import PLOT
from neuralbot.training.records import read_json, read_jsonl, read_text, write_text
from neuralbot.training.run_folder import MANIFEST, METRICS, RECIPE, RESULTS, SAMPLES

CARD = "README.md"
_SHOWN_SAMPLES = 3
_ADAPTER = "adapter_config.json"


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
    base = words.base(manifest)
    tags = ["neuralbot", "text-generation", *(str(manifest[key]) for key in ("method", "task") if manifest.get(key))]
    facts: dict[str, Any] = {
        "library_name": _library(run_dir),
        "base_model": words.base_name(manifest),
        "license": base.get("license"),
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    # JSON strings and lists are YAML too, and need no quoting rules of our own.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items() if value]
    return "\n".join(["---", *lines, "---"])


def _title(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    base, task = words.base_name(manifest) or "a base model", manifest.get("task", "text")
    state = "" if manifest.get("finished") else "\n\n**This run did not finish;** what follows is what it had written."
    name = manifest.get("name") or run_dir.resolve().name
    more = f"\n\nCharts, answers and all figures of the run: [{PAGE}]({PAGE})." if (run_dir / PAGE).exists() else ""
    return (
        f"# {name}\n\nThis is {words.made(manifest)} `{base}`, finetuned by neuralbot for the task {task}.{state}{more}"
    )


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
    meaning = words.METRIC_MEANING.get(str(results.get("metric")), "")
    notes = bullets(known.get("notices", ()))
    return (
        f"## Scores on held-out rows\n\n{table(('score', 'before tuning', 'after tuning'), rows)}\n\n"
        f"{known['n']} questions, {words.how_answered(known)}; in brackets the 95 % interval (bootstrap over rows). "
        f"{results.get('metric')}: {meaning}.{notes}"
    )


def _score(result: Mapping[str, Any] | None, name: str, main: str | None) -> str:
    if result is None or name not in result["scores"]:
        return "not measured"
    value = f"{result['scores'][name]:.3f}"
    low, high = result["interval"]
    return f"{value} ({low:.3f} to {high:.3f})" if name == main else value


def _training(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    data, base, plan = manifest.get("data", {}), words.base(manifest), manifest.get("plan", {})
    rows, tokens, seconds = data.get("rows", {}), data.get("tokens", {}), manifest.get("durations_s", {})
    facts = {
        "rows": words.counts(rows),
        "training tokens": words.counts(tokens),
        "parameters": words.count(base.get("parameters")),
        "trainable parameters": words.count(manifest.get("trainable_parameters")),
        "prompt style": manifest.get("prompt_style"),
        "seed": manifest.get("seed"),
        "final losses": words.last_losses(_records(run_dir)),
        "time": ", ".join(f"{name.replace('_', ' ')} {value:.0f} s" for name, value in seconds.items()),
        "machine": words.machine(manifest),
        "computed in": ", ".join(f"{name} {value}" for name, value in plan.items()),
    }
    files = [(name, f"`{digest[:16]}`") for name, digest in data.get("fingerprint", {}).items()]
    parts = ["## Training", table(("", ""), words.known(facts).items())]
    parts += [table(("data file", "SHA-256 begins with"), files)] if files else []
    parts += [f"![Loss over the steps]({PLOT})"] if (run_dir / PLOT).exists() else []
    return "\n\n".join(parts)


def _records(run_dir: Path) -> list[dict[str, Any]]:
    return read_jsonl(run_dir / METRICS) if (run_dir / METRICS).exists() else []


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
    return "\n\n".join([f"### {number}", *(f"{name}:\n\n{fenced(text)}" for name, text in texts.items())])


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
    return f"## Settings\n\n`{RECIPE}` in this folder repeats the run:\n\n{fenced(text, 'yaml', limit=None)}"


def _origin(manifest: Mapping[str, Any]) -> str:
    facts = {
        "commit": words.commit(manifest),
        "started": manifest.get("started"),
        "versions": words.versions(manifest),
    }
    digests = words.base(manifest).get("weights_sha256", {})
    weights = [(f"SHA-256 of base {file}", f"`{digest}`") for file, digest in digests.items()]
    notices = bullets(manifest.get("notices", ()))
    said = f"\n\nWhat was adapted to make the run possible:{notices}" if notices else ""
    return f"## Origin\n\n{table(('', ''), [*words.known(facts).items(), *weights])}{said}"


def _limits(manifest: Mapping[str, Any]) -> str:
    lines = [
        "The scores hold for rows like the held-out ones; other questions were not measured.",
        "Answers may be wrong, and nothing in the training makes them safe for people who rely on them.",
        "What the base model learned, its licence and its faults come along.",
    ]
    if words.base_name(manifest) == "seedling":
        lines.insert(0, "`seedling` is a small demonstration model: it knows its families of tasks and nothing else.")
    return f"## Limits{bullets(lines)}"


def _library(run_dir: Path) -> str:
    return "peft" if (run_dir / _ADAPTER).exists() else "transformers"
