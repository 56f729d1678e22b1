"""Contradictions: settings that are fine alone and wrong together.

Each rule is a generator of (key, message) over the values of a Draft. A rule that needs a value already reported as
wrong ends by itself (draft.Broken), so one mistake is not reported twice. Ranges of single keys stand in fields.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuralbot.recipe.draft import Broken, Draft
from neuralbot.recipe.paths import ROW_FILES

Found = Iterator[tuple[str, str]]

SOURCES = "data.sources"
_TRAINING_ROWS = ("data.train_file", "data.dataset_name", SOURCES)

_TORCH_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")

# Part of an optimizer's name -> the package it needs; the first that fits counts.
_OPTIMIZER_PACKAGES: tuple[tuple[str, str], ...] = (
    ("adamw_torch_4bit", "torchao"),
    ("adamw_torch_8bit", "torchao"),
    ("adamw_torch_xla", "torch_xla"),
    ("adamw_torch_npu", "torch_npu"),
    ("galore", "galore_torch"),
    ("lomo", "lomo_optim"),
    ("apollo", "apollo_torch"),
    ("schedule_free", "schedulefree"),
    ("grokadamw", "grokadamw"),
    ("stable_adamw", "optimi"),
    ("anyprecision", "torchdistx"),
    ("apex", "apex"),
    ("", "bitsandbytes"),
)

# Tracker -> the packages one of which it needs.
TRACKERS: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}

_SCHEDULER_NEEDS: dict[str, tuple[str, ...]] = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}


def check(draft: Draft) -> None:
    """Report every contradiction; note settings that lose against another."""
    for rule in _RULES:
        try:
            for key, message in rule(draft):
                draft.report(draft.place(key), _written(draft, key), message)
        except Broken:
            continue
    for remark in _REMARKS:
        try:
            for key, message in remark(draft):
                draft.notice(key, message)
        except Broken:
            continue


def _written(draft: Draft, key: str) -> str:
    return draft.settings[key].written if key in draft.settings else key


def evaluates(draft: Draft) -> bool:
    """Whether the run computes an evaluation loss."""
    return bool(draft.value("training.do_eval") or draft.value("training.eval_strategy") != "no")


# --- model and data ---


def _base_model(draft: Draft) -> Found:
    if not draft.given("model.model_name_or_path"):
        yield "model.model_name_or_path", "is missing: name the base model, for example `seedling` or owner/name"


def _rows(draft: Draft) -> Found:
    given = [key for key in _TRAINING_ROWS if draft.given(key)]
    if len(given) > 1:
        names = " and ".join(key.removeprefix("data.") for key in given)
        yield given[1], f"{names} are both set: keep one"
    if not given:
        yield (
            "data.train_file",
            "no rows to train on: set train_file (a file or folder), dataset_name (a data set of the hub) or sources",
        )


def _data_set_config(draft: Draft) -> Found:
    for key in ("data.dataset_config_name", "data.dataset_revision"):
        if draft.given(key) and not draft.given("data.dataset_name"):
            yield key, "belongs to dataset_name, which is not set"


def _two_validations(draft: Draft) -> Found:
    if draft.given("data.validation_file") and draft.value("data.validation_split_percentage"):
        yield (
            "data.validation_split_percentage",
            "validation_file is set too: keep one (a file, or a share of the training rows)",
        )


def _evaluation_needs_rows(draft: Draft) -> Found:
    if not evaluates(draft) or draft.given("data.validation_file") or draft.given("data.dataset_name"):
        return
    if not draft.value("data.validation_split_percentage"):
        key = "training.do_eval" if draft.value("training.do_eval") else "training.eval_strategy"
        yield key, "there are no rows to evaluate on: set data.validation_file or data.validation_split_percentage"


def _streamed_sources(draft: Draft) -> Found:
    entries = draft.value(SOURCES) or []
    if draft.value("data.streaming") and len(entries) > 1 and "weight" not in entries[0]:
        yield SOURCES, "streamed sources need weights, how many rows they have is not known: give each a weight"


def _same_files(draft: Draft) -> Found:
    seen: dict[Path, str] = {Path(name).resolve(): SOURCES for name in _source_paths(draft)}
    for key in ROW_FILES:
        if draft.given(key):
            path = Path(draft.value(key)).resolve()
            if path in seen:
                yield key, f"is the same file as {seen[path]}: rows that were trained on say nothing about new ones"
            elif folder := next((other for other in seen if other in path.parents), None):
                yield key, f"lies in the folder of {seen[folder]}: rows that were trained on say nothing about new ones"
            seen.setdefault(path, key)


def _source_paths(draft: Draft) -> list[str]:
    """The files and folders of data.sources."""
    return [entry["path"] for entry in draft.value(SOURCES) or () if "path" in entry]


# --- training ---


def _never_trains(draft: Draft) -> Found:
    if draft.given("training.do_train") and not draft.value("training.do_train"):
        yield "training.do_train", "false, but finetuning is what a recipe is for: remove it"


def _steps(draft: Draft) -> Found:
    if draft.value("training.max_steps") == 0:
        yield "training.max_steps", "0 steps: write the number of steps, or -1 to train for num_train_epochs"
    for key in ("warmup_steps", "logging_steps", "eval_steps", "save_steps"):
        number = draft.value(f"training.{key}")
        if number is not None and number > 1 and number != int(number):
            yield f"training.{key}", f"{number} is neither a whole number of steps nor a share of all steps below 1"


def _revisions(draft: Draft) -> Found:
    pairs = ("model.model_revision", "model.model_name_or_path"), ("data.dataset_revision", "data.dataset_name")
    for key, place in pairs:
        if draft.given(key) and draft.given(place) and Path(draft.value(place)).is_dir():
            yield key, f"has no effect: {place.partition('.')[2]} is a folder, revisions are of the hub"


def _epochs_lose(draft: Draft) -> Found:
    if draft.value("training.max_steps") > 0 and draft.given("training.num_train_epochs"):
        yield "training.num_train_epochs", "has no effect: max_steps is set"


def _other_config(draft: Draft) -> Found:
    if draft.given("model.config_name") and not draft.value("finetuning.full_finetune"):
        yield "model.config_name", "is kept with the run, and neuralbot serves with it; plain peft reads the base's own"


def _best_model(draft: Draft) -> Found:
    if not draft.value("training.load_best_model_at_end"):
        return
    saves, evaluations = draft.value("training.save_strategy"), draft.value("training.eval_strategy")
    key = "training.load_best_model_at_end"
    if evaluations == "no":
        yield key, "needs evaluations to choose by: set eval_strategy to steps or epoch"
    elif saves == "no":
        yield key, f"needs saved models to choose from, but save_strategy is no: write save_strategy: {evaluations}"
    elif saves not in ("best", evaluations):
        yield key, f"needs save_strategy and eval_strategy to be equal, but they are {saves} and {evaluations}"
    elif saves == evaluations == "steps":
        yield from _best_model_steps(draft, key)


def _best_model_steps(draft: Draft, key: str) -> Found:
    save_steps = draft.value("training.save_steps")
    eval_steps = draft.value("training.eval_steps") or draft.value("training.logging_steps")
    if (save_steps < 1) != (eval_steps < 1):
        yield key, f"save_steps ({save_steps}) and eval_steps ({eval_steps}) must both be steps or both be shares"
    elif abs(save_steps / eval_steps - round(save_steps / eval_steps)) > 1e-6:
        yield key, f"needs save_steps ({save_steps}) to be a multiple of eval_steps ({eval_steps})"


def _save_best(draft: Draft) -> Found:
    if draft.value("training.save_strategy") == "best" and draft.value("training.eval_strategy") == "no":
        yield "training.save_strategy", "best needs evaluations to choose by: set eval_strategy to steps or epoch"


def _early_stopping(draft: Draft) -> Found:
    key = "training.early_stopping_patience"
    if not draft.given(key):
        return
    if draft.value("training.eval_strategy") == "no":
        yield key, "counts evaluations, but there are none: set eval_strategy to steps or epoch"
    if not draft.value("training.load_best_model_at_end"):
        yield key, "would keep the last model, not the best: set load_best_model_at_end: true"


def _better_is_lower(draft: Draft) -> Found:
    if draft.value("training.greater_is_better"):
        yield "training.greater_is_better", "models are compared by their loss, and less is better: remove it"


def _scheduler(draft: Draft) -> Found:
    name, key = draft.value("training.lr_scheduler_type"), "training.lr_scheduler_type"
    if name in ("reduce_lr_on_plateau", "greedy") and draft.value("training.eval_strategy") == "no":
        yield key, f"{name} reacts to evaluations, but there are none: set eval_strategy to steps or epoch"
    needed = _SCHEDULER_NEEDS.get(name, ())
    if needed and not any(given in (draft.value("training.lr_scheduler_kwargs") or {}) for given in needed):
        yield key, f"{name} needs {' or '.join(needed)} in lr_scheduler_kwargs"


def _precision(draft: Draft) -> Found:
    if draft.value("training.bf16") and draft.value("training.fp16"):
        yield "training.fp16", "bf16 and fp16 are both true: keep one (bf16 on a CPU)"
    for key in ("training.fp16", "training.tf32"):
        if draft.value(key) and draft.value("finetuning.device") != "cuda":
            yield key, "needs a GPU: set finetuning.device to cuda, or use bf16"


def _device(draft: Draft) -> Found:
    device, key = draft.value("finetuning.device"), "training.use_cpu"
    if draft.given(key) and not draft.value(key) and device == "cpu":
        yield key, "false, but finetuning.device is cpu: keep one"
    if draft.value(key) and device == "cuda":
        yield key, "true, but finetuning.device is cuda: keep one"


def _row_readers(draft: Draft) -> Found:
    if draft.value("training.dataloader_num_workers") > 0:
        return
    for key in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if draft.value(f"training.{key}"):
            yield f"training.{key}", "belongs to dataloader_num_workers, which is 0"


def _optimizer(draft: Draft) -> Found:
    name = draft.value("training.optim")
    if name is None or name in _TORCH_OPTIMIZERS:
        return
    package = next(package for part, package in _OPTIMIZER_PACKAGES if part in name)
    if not _installed(package):
        choices = ", ".join(_TORCH_OPTIMIZERS)
        yield "training.optim", f"{name} needs the package {package}, which is not installed; without it: {choices}"


def _trackers(draft: Draft) -> Found:
    wanted = draft.value("training.report_to")
    for name in [wanted] if isinstance(wanted, str) else wanted or []:
        if name in ("none", "all"):
            continue
        if name not in TRACKERS:
            yield "training.report_to", f"unknown tracker {name!r}: one of none, all, {', '.join(TRACKERS)}"
        elif not tracker_is_installed(name):
            yield "training.report_to", f"{name} is not installed: run pip install {name}, or write none"


def tracker_is_installed(name: str) -> bool:
    """Whether a run can report to the tracker."""
    return any(_installed(package) for package in TRACKERS[name])


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# --- finetuning ---


def _full_finetune(draft: Draft) -> Found:
    bits = draft.value("finetuning.bits")
    if draft.value("finetuning.full_finetune"):
        if bits not in (4, 16, 32):
            yield "finetuning.bits", f"{bits} with full_finetune: write 16 or 32, or leave it out"
    elif bits in (16, 32):
        yield "finetuning.bits", f"{bits} belongs to full_finetune, which is false: leave it out"
    elif bits not in (4, 8):
        yield "finetuning.bits", f"{bits} is not available: qlora has 4 and 8"
    elif bits == 8 and not draft.value("finetuning.qlora"):
        yield "finetuning.bits", "8 belongs to qlora, which is false: set qlora: true, or leave it out"


def _bits_16(draft: Draft) -> Found:
    if draft.value("finetuning.full_finetune") and draft.value("finetuning.bits") == 16:
        yield "finetuning.bits", "16: weights keep 32 bits, or small steps would be lost; bf16 computes in 16"


def _full_and_qlora(draft: Draft) -> Found:
    full, qlora = draft.settings.get("finetuning.full_finetune"), draft.settings.get("finetuning.qlora")
    if full and qlora and full.node.value is True and qlora.node.value is True:
        yield "finetuning.full_finetune", "qlora is true as well: keep one"


def _qlora_on_gpu(draft: Draft) -> Found:
    if draft.value("finetuning.qlora") and draft.value("finetuning.device") == "cuda":
        yield "finetuning.qlora", "is for the CPU here: set finetuning.device to cpu, or leave qlora out"


def _method(draft: Draft) -> Found:
    method = draft.value("finetuning.peft")
    if method == "lora" or draft.value("finetuning.full_finetune"):
        return
    if draft.value("finetuning.qlora"):
        yield "finetuning.peft", f"{method}, but qlora is LoRA on a quantised base: write lora, or leave qlora out"
    if method == "prefix" and draft.value("training.gradient_checkpointing"):
        yield "finetuning.peft", "prefix cannot be trained with gradient_checkpointing: leave one of them out"


def _new_tokens(draft: Draft) -> Found:
    key, tokens = "data.special_tokens", draft.value("data.special_tokens") or []
    if not all(token.strip() for token in tokens):
        yield key, "holds an empty text: write the tokens to add"
    if len(set(tokens)) < len(tokens):
        yield key, "holds a token twice"
    method = draft.value("finetuning.peft")
    if tokens and method != "lora" and not draft.value("finetuning.full_finetune"):
        yield key, f"peft {method} would leave new tokens untrained: use lora or full_finetune"


def _lora_targets(draft: Draft) -> Found:
    if draft.value("finetuning.lora_all_linear") and draft.given("finetuning.lora_target_modules"):
        yield "finetuning.lora_target_modules", "lora_all_linear is true as well: keep one"
    modules = draft.value("finetuning.lora_target_modules")
    if modules is not None and not all(name.strip() for name in modules or [""]):
        yield "finetuning.lora_target_modules", "holds no module, or an empty name; null means the usual modules"


# --- evaluation and serving ---


def _metric(draft: Draft) -> Found:
    key, metric = "evaluation.metric", draft.value("evaluation.metric")
    if metric in ("auto", "none"):
        return
    if not draft.given("data.test_file") and not draft.given("data.dataset_name"):
        yield key, f"{metric} needs held-out rows: set data.test_file"
    if metric == "unit_tests" and draft.value("finetuning.task") != "code-generation":
        yield key, f"unit_tests runs code, but finetuning.task is {draft.value('finetuning.task')}"


def _lm_eval(draft: Draft) -> Found:
    if not draft.value("finetuning.do_lm_eval"):
        return
    if not draft.value("finetuning.lm_eval_tasks"):
        yield "finetuning.lm_eval_tasks", "is empty, but do_lm_eval is true: name a task, or set do_lm_eval: false"
    elif importlib.util.find_spec("lm_eval") is None:
        yield "finetuning.do_lm_eval", "needs lm-evaluation-harness: pip install 'neuralbot[eval]'"


def _labels(draft: Draft) -> Found:
    labels = draft.value("evaluation.labels")
    if labels is not None and (len(set(labels)) < 2 or not all(label.strip() for label in labels)):
        yield "evaluation.labels", "expected at least two different answers to choose from, none of them empty"


def _draws(draft: Draft) -> Found:
    metric, samples = draft.value("evaluation.metric"), draft.value("evaluation.samples")
    if metric in ("labels", "loss") and samples > 1:
        yield "evaluation.samples", f"has no effect: evaluation.metric {metric} generates no answers"
    for key in ("evaluation.temperature", "evaluation.top_p"):
        if draft.given(key) and samples == 1:
            yield key, "has no effect: evaluation.samples is 1, which is the likeliest answer"


def _beams(draft: Draft) -> Found:
    samples = draft.value("evaluation.samples")
    if draft.value("evaluation.num_beams") > 1 and samples > 1:
        yield "evaluation.num_beams", f"a search finds one answer, but evaluation.samples={samples} are to be drawn"


def _sampling(draft: Draft) -> Found:
    if draft.value("serving.do_sample") and draft.value("serving.temperature") == 0:
        yield "serving.temperature", "0 with sampling: write do_sample: false for the likeliest answer"
    if not all(draft.value("serving.stop")):
        yield "serving.stop", "holds an empty text, which would end every answer at once"


# --- output folder ---


def _output_folder(draft: Draft) -> Found:
    key = "training.output_dir"
    text: Any = draft.value(key)
    if text is None:
        return
    folder = Path(text).resolve()
    if not text.strip():
        yield key, "the folder name is empty"
    elif folder.exists() and not folder.is_dir():
        yield key, f"{folder} is a file: name a folder for the run"
    elif Path.cwd().resolve().is_relative_to(folder):
        yield key, f"{folder} is the working directory or a folder above it: name a folder of its own"
    else:
        yield from _output_over_inputs(draft, key)


def _output_over_inputs(draft: Draft, key: str) -> Found:
    folder = draft.value(key)
    inputs = [(name, draft.value(name)) for name in (*ROW_FILES, "model.model_name_or_path") if draft.given(name)]
    for name, path in (*inputs, *((SOURCES, path) for path in _source_paths(draft))):
        if _below(path, folder):
            yield key, f"{folder} holds {name} ({path}): name another folder for the run"


def _below(path: str, folder: str) -> bool:
    return Path(path).exists() and Path(path).resolve().is_relative_to(Path(folder).resolve())


_RULES = (
    *(_base_model, _rows, _data_set_config, _two_validations, _evaluation_needs_rows, _streamed_sources, _same_files),
    *(_never_trains, _steps, _best_model, _save_best, _early_stopping, _better_is_lower, _scheduler),
    *(_precision, _device, _row_readers, _optimizer, _trackers),
    *(
        _full_finetune,
        _full_and_qlora,
        _qlora_on_gpu,
        _method,
        _new_tokens,
        _lora_targets,
        _lm_eval,
        _metric,
        _labels,
        _beams,
        _sampling,
        _output_folder,
    ),
)
_REMARKS = (_revisions, _epochs_lose, _bits_16, _other_config, _draws)
