"""Planted mistakes in recipes and overrides: each is refused with status 2, the right place and the right advice.

Nothing may be written: no output folder, whatever the mistake.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuralbot import cli, recipe
from neuralbot.errors import RecipeError

# Lines are counted from here in the table below.
GOOD = """\
model:
  model_name_or_path: seedling
data:
  train_file: rows.json
  validation_file: held_out.json
  test_file: test.json
finetuning:
  task: completion
training:
  output_dir: run
  learning_rate: 1e-4
  eval_strategy: epoch
evaluation:
  metric: exact_match
serving:
  top_k: 5
"""


@dataclass(frozen=True)
class Mistake:
    """`replace`: a line of GOOD and what stands there instead; `says`: what one problem of the report must hold."""

    name: str
    says: tuple[str, ...]
    replace: tuple[str, str] = ("", "")
    overrides: tuple[str, ...] = ()
    count: int = 1

    def text(self) -> str:
        old, new = self.replace
        assert old in GOOD
        return GOOD.replace(old, new, 1) if old else GOOD + new


def line(number: int, *says: str) -> tuple[str, ...]:
    return (f"recipe.yaml:{number}: ", *says)


def override(*says: str) -> tuple[str, ...]:
    return ("command line: ", *says)


RATE = "  learning_rate: 1e-4\n"
TASK = "  task: completion\n"
EVAL = "  eval_strategy: epoch\n"

# fmt: off
MISTAKES = [
    # keys
    Mistake("typo", line(11, "training.lerning_rate: ", "did you mean learning_rate?"),
            (RATE, "  lerning_rate: 1e-4\n")),
    Mistake("typo of an old key", line(12, "did you mean eval_strategy?"), (EVAL, "  evaluation_stratgy: epoch\n")),
    Mistake("dashes", line(11, "training.learning-rate", "did you mean learning_rate?"),
            (RATE, "  learning-rate: 1e-4\n")),
    Mistake("part of a name", line(8, "did you mean lora_rank or lora_alpha or"), (TASK, "  lora: 4\n")),
    Mistake("other section", line(3, "model.learning_rate", "it belongs to section training"),
            ("data:\n", "  learning_rate: 1e-4\ndata:\n")),
    Mistake("typo of another section", line(8, "did you mean training.learning_rate?"), (TASK, "  learnin_rate: 1\n")),
    Mistake("nothing like it", line(11, "training.zzzz", "`neuralbot recipes schema` lists all keys"),
            (RATE, "  zzzz: 1\n")),
    Mistake("unknown section", line(13, "evaluaton: unknown section; did you mean evaluation?"),
            ("evaluation:", "evaluaton:")),
    Mistake("no section", line(17, "learning_rate: is not a section", "below `training:`"),
            ("", "learning_rate: 1e-4\n")),
    Mistake("section without keys", line(15, "serving: is a section"), ("serving:\n  top_k: 5\n", "serving: 5\n")),
    Mistake("duplicate key", line(12, "learning_rate is set twice, on line 11 and on line 12"), (RATE, RATE + RATE)),
    Mistake("duplicate section", line(17, "serving is set twice, on line 15 and on line 17"),
            ("", "serving:\n  top_k: 6\n")),
    Mistake("old and new key", line(13, "training.evaluation_strategy: ", "keep eval_strategy"),
            (EVAL, EVAL + "  evaluation_strategy: steps\n")),
    # YAML
    Mistake("tab", line(11, "a tab is used"), (RATE, "\tlearning_rate: 1e-4\n")),
    Mistake("indent", line(11, "not valid YAML"), (RATE, "    learning_rate: 1e-4\n")),
    Mistake("colon in a text", line(17, "not valid YAML", "needs quotes"), ("", "  system_prompt: You are: nice\n")),
    Mistake("open bracket", ("not valid YAML",), ("", "  stop: [a, b\n")),
    Mistake("tag", line(16, "tags (tag:yaml.org,2002:python/object:x)"), ("top_k: 5", "top_k: !!python/object:x 5")),
    Mistake("alias", line(16, "aliases (*x) are not allowed"), ("top_k: 5", "top_k: *x")),
    Mistake("anchor", line(16, "anchors (&x) are not allowed"), ("top_k: 5", "top_k: &x 5")),
    Mistake("NUL", line(16, "U+0000"), ("top_k: 5", "top_k: \0")),
    Mistake("two documents", line(17, "a second document"), ("", "---\nmodel:\n")),
    # types
    Mistake("on is not true", line(8,
            "finetuning.train_on_inputs: expected true or false, got the text 'on'; write true"),
            (TASK, "  train_on_inputs: on\n")),
    Mistake("number in quotes", line(11, "expected a number, got the text '1e-4'; write 1e-4 without quotes"),
            (RATE, '  learning_rate: "1e-4"\n')),
    Mistake("text for a number", line(11, "expected a number, got the text 'fast'"), (RATE, "  learning_rate: fast\n")),
    Mistake("time of day", line(11, "training.num_train_epochs", "got the text '12:30'"),
            (RATE, "  num_train_epochs: 12:30\n")),
    Mistake("thousands", line(11, "training.max_steps", "write 1000"), (RATE, "  max_steps: 1_000\n")),
    Mistake("decimal", line(8, "finetuning.lora_rank: expected a whole number, got the number 8.0; write 8"),
            (TASK, "  lora_rank: 8.0\n")),
    Mistake("number for a text", line(5, "data.dataset_config_name", 'write "1.0" in quotes'),
            ("  validation_file: held_out.json\n", "  dataset_config_name: 1.0\n"), count=2),
    Mistake("text for a list", line(8, "expected a list of texts", "write [q_proj]"),
            (TASK, "  lora_target_modules: q_proj\n")),
    Mistake("number in a list", line(17, "serving.stop", "item 2 is the number 3"), ("", "  stop: [a, 3]\n")),
    Mistake("mapping for a text", line(17, "serving.system_prompt", "got a mapping"),
            ("", "  system_prompt: {a: b}\n")),
    Mistake("number in a mapping", line(5, "data.columns", "a mapping of texts", "the value of answer is the number 3",
            'write "3" in quotes'),
            ("  train_file: rows.json\n", "  train_file: rows.json\n  columns: {question: Q, answer: 3}\n")),
    Mistake("empty in a mapping", line(5, "data.columns", "the value of question is nothing"),
            ("  train_file: rows.json\n", "  train_file: rows.json\n  columns: {question: }\n")),
    Mistake("list for a mapping", line(5, "data.columns: expected a mapping of texts (or null), got a list"),
            ("  train_file: rows.json\n", "  train_file: rows.json\n  columns: [Q, A]\n")),
    Mistake("empty value", line(11, "training.learning_rate: expected a number, got nothing"),
            (RATE, "  learning_rate:\n")),
    Mistake("false for no", line(12, "training.eval_strategy", "write no"), (EVAL, "  eval_strategy: false\n")),
    Mistake("choice", line(12, "one of no, steps, epoch, got the text 'epoc'; did you mean epoch?"),
            (EVAL, "  eval_strategy: epoc\n")),
    Mistake("metric", line(14, "evaluation.metric", "did you mean rouge?"), ("exact_match", "rogue")),
    Mistake("optimizer", line(11, "training.optim", "did you mean adamw_torch"), (RATE, "  optim: adamw\n")),
    Mistake("not a number", line(11, "got nan: it must be finite"), (RATE, "  learning_rate: .nan\n")),
    # ranges
    Mistake("huge rate", line(11, "100000 is out of range: must be above 0 and at most 1"),
            (RATE, "  learning_rate: 1e5\n")),
    Mistake("negative epochs", line(11, "training.num_train_epochs: -3 is out of range"),
            (RATE, "  num_train_epochs: -3\n")),
    Mistake("percentage", line(5, "120 is out of range: must be at least 0 and at most 99"),
            ("  validation_file: held_out.json\n", "  validation_split_percentage: 120\n")),
    Mistake("short rows", line(7, "data.max_seq_length: 4 is out of range: must be at least 8"),
            ("finetuning:\n", "  max_seq_length: 4\nfinetuning:\n")),
    Mistake("rank", line(8, "finetuning.lora_rank: 0 is out of range"), (TASK, "  lora_rank: 0\n")),
    Mistake("dropout", line(8, "must be at least 0 and below 1"), (TASK, "  lora_dropout: 1.0\n")),
    Mistake("batch", line(11, "0 is out of range: must be at least 1"), (RATE, "  per_device_train_batch_size: 0\n")),
    Mistake("long number", line(11, "a number of 30 digits"), (RATE, f"  eval_accumulation_steps: {'9' * 30}\n")),
    Mistake("no steps", line(11, "training.max_steps: 0 steps"), (RATE, "  max_steps: 0\n")),
    Mistake("half a step", line(11, "2.5 is neither a whole number of steps"), (RATE, "  logging_steps: 2.5\n")),
    Mistake("ratio", line(11, "training.warmup_ratio: expected a share"), (RATE, "  warmup_ratio: 5\n")),
    # files
    Mistake("missing file", line(4, "data.train_file: no such file or folder: looked for {folder}/row.json",
            "mean {folder}/rows.json?"), ("rows.json", "row.json")),
    Mistake("missing folder", line(4, "looked for {folder}/no/x.json", "the folder {folder}/no does not exist"),
            ("rows.json", "no/x.json")),
    Mistake("folder without rows", line(4, "{folder}/model is a folder without files of rows", "it holds config.jsn"),
            ("rows.json", "model")),
    Mistake("loop of links", line(4, "data.train_file: no such file or folder: looked for {folder}/loop"),
            ("rows.json", "loop")),
    Mistake("empty name", line(4, "the file name is empty"), ("rows.json", '""')),
    Mistake("missing model", line(2, "looked for {folder}/modle", "did you mean {folder}/model?"),
            ("seedling", "./modle")),
    Mistake("not a model", line(2, "{folder}/model has no config.json", "it holds config.jsn"),
            ("seedling", "./model")),
    Mistake("adapter as base", line(2, "holds an adapter", "name its base model"), ("seedling", "old_run")),
    Mistake("file as model", line(2, "{folder}/rows.json is a file: name the folder"), ("seedling", "rows.json")),
    Mistake("embedded model", line(2, "there is no model 'seedlin'; did you mean seedling?"), ("seedling", "seedlin")),
    Mistake("not a name", line(2, "'my model' is neither an existing folder nor a Hugging Face name"),
            ("seedling", "my model")),
    Mistake("file as data set", line(4, "rows.json is a file, not a data set: use train_file"),
            ("train_file: rows.json", "dataset_name: rows.json")),
    Mistake("source misspelt", line(6, "data.sources[2].wieght: unknown key; did you mean weight?"),
            ("  train_file: rows.json\n", "  sources:\n    - path: deep\n    - {path: rows.json, wieght: 2}\n")),
    Mistake("source not there", line(5, "data.sources[1].path: no such file or folder", "mean {folder}/rows.json?"),
            ("  train_file: rows.json\n", "  sources:\n    - path: row.json\n")),
    Mistake("source of two kinds", line(4, "data.sources[1]: expected either path", "or name"),
            ("  train_file: rows.json\n", "  sources: [{path: rows.json, name: a/b}]\n")),
    Mistake("source with a split", line(4, "data.sources[1].split: belongs to name"),
            ("  train_file: rows.json\n", "  sources: [{path: rows.json, split: test}]\n")),
    Mistake("source without weight", line(4, "data.sources: entry 2 has no weight, others have"),
            ("  train_file: rows.json\n", "  sources: [{path: rows.json, weight: 2}, {name: a/b}]\n")),
    Mistake("weight of nothing", line(4, "data.sources[1].weight: 0 is out of range: must be above 0"),
            ("  train_file: rows.json\n", "  sources: [{path: rows.json, weight: 0}]\n")),
    Mistake("source as text", line(4, "data.sources[1]: expected a mapping such as {path: rows.jsonl, weight: 2}"),
            ("  train_file: rows.json\n", "  sources: [rows.json]\n")),
    Mistake("no sources", line(4, "data.sources: the list is empty"), ("  train_file: rows.json\n", "  sources: []\n")),
    Mistake("sources as mapping", line(4, "data.sources: expected a list of mappings (or null), got a mapping"),
            ("  train_file: rows.json\n", "  sources: {path: rows.json}\n")),
    Mistake("sources and a file", line(5, "data.sources: train_file and sources are both set: keep one"),
            ("  train_file: rows.json\n", "  train_file: rows.json\n  sources: [{path: deep}]\n")),
    Mistake("sources on the command line", override("data.sources[1].path: no such file or folder"),
            overrides=("data.train_file=", "data.sources=[{path: x.jsonl}]")),
    Mistake("streamed without weights", line(5, "data.sources: streamed sources need weights"),
            ("  train_file: rows.json\n", "  streaming: true\n  sources: [{path: rows.json}, {path: deep}]\n")),
    Mistake("tested on a source", override("data.test_file: lies in the folder of data.sources"),
            ("  train_file: rows.json\n", "  sources: [{path: deep}]\n"), overrides=("data.test_file=deep/rows.json",)),
    Mistake("policy", line(7, "data.on_bad_row: expected one of stop, skip, got the text 'ignore'"),
            ("finetuning:\n", "  on_bad_row: ignore\nfinetuning:\n")),
    Mistake("run is a file", line(10, "{folder}/rows.json is a file: name a folder"),
            ("output_dir: run", "output_dir: rows.json")),
    Mistake("run is here", line(10, "is the working directory"), ("output_dir: run", "output_dir: .")),
    Mistake("run over the data", override("deep holds data.train_file (deep/rows.json)"),
            overrides=("data.train_file=deep/rows.json", "training.output_dir=deep")),
    # what is not there
    Mistake("missing model name", line(1, "model.model_name_or_path: is missing"),
            ("  model_name_or_path: seedling\n", "")),
    Mistake("no rows", line(3, "data.train_file: no rows to train on: set train_file"),
            ("  train_file: rows.json\n", "")),
    Mistake("remote code", line(3, "true cannot be honoured: code from a model repository is never run"),
            ("data:\n", "  trust_remote_code: true\ndata:\n")),
    Mistake("qlora on a GPU", line(8, "finetuning.qlora: is for the CPU here"),
            (TASK, "  qlora: true\n  device: cuda\n")),
    Mistake("kernels", line(8, "finetuning.kernels", "fast", "reference"), (TASK, "  kernels: quick\n")),
    Mistake("8 bits without qlora", line(8, "8 belongs to qlora, which is false"), (TASK, "  bits: 8\n")),
    Mistake("5 bits", line(9, "5 is not available: qlora has 4 and 8"), (TASK, "  qlora: true\n  bits: 5\n")),
    Mistake("peft", line(8, "p-tuning", "one of lora, llama_adapter, ptun, prefix"), (TASK, "  peft: p-tuning\n")),
    Mistake("prompt on a quantised base", line(9, "finetuning.peft: prompt, but qlora is LoRA on a quantised base"),
            (TASK, "  qlora: true\n  peft: prompt\n")),
    Mistake("prompt and new tokens", line(7, "data.special_tokens: peft prompt would leave new tokens untrained"),
            ("finetuning:\n", "  special_tokens: [<a>]\nfinetuning:\n"), overrides=("finetuning.peft=prompt",)),
    Mistake("empty token", line(7, "data.special_tokens: holds an empty text"),
            ("finetuning:\n", "  special_tokens: ['']\nfinetuning:\n")),
    Mistake("token twice", line(7, "data.special_tokens: holds a token twice"),
            ("finetuning:\n", "  special_tokens: [<a>, <a>]\nfinetuning:\n")),
    Mistake("prefix with checkpointing", line(8, "prefix cannot be trained with gradient_checkpointing"),
            (TASK, "  peft: prefix\n"), overrides=("training.gradient_checkpointing=true",)),
    Mistake("device", line(8, "hpu cannot be honoured", "auto, cpu, cuda"), (TASK, "  device: hpu\n")),
    Mistake("images", line(8, "image2text cannot be honoured"), (TASK, "  task: image2text\n")),
    Mistake("deepspeed", line(11, "this cannot be honoured: training runs in one process"),
            (RATE, "  deepspeed: {stage: 2}\n")),
    Mistake("parallelism", line(11, "training.parallelism_config: this cannot be honoured"),
            (RATE, "  parallelism_config: {tp: 2}\n")),
    Mistake("hub", line(11, "training.push_to_hub: true cannot be honoured"), (RATE, "  push_to_hub: true\n")),
    Mistake("torchdynamo", line(11, "training.torchdynamo: cannot be honoured"), (RATE, "  torchdynamo: inductor\n")),
    Mistake("pickles", line(11, "training.save_safetensors: cannot be honoured"),
            (RATE, "  save_safetensors: false\n")),
    Mistake("never trains", line(11, "training.do_train: false, but"), (RATE, "  do_train: false\n")),
    # contradictions
    Mistake("two sources", line(5, "train_file and dataset_name are both set"),
            ("  validation_file: held_out.json\n", "  dataset_name: a/b\n")),
    Mistake("config without data set", line(7, "belongs to dataset_name"),
            ("finetuning:\n", "  dataset_config_name: a\nfinetuning:\n")),
    Mistake("revision without data set", line(7, "data.dataset_revision: belongs to dataset_name"),
            ("finetuning:\n", "  dataset_revision: v1\nfinetuning:\n")),
    Mistake("nothing to evaluate on", line(11, "training.eval_strategy",
            "set data.validation_file or data.validation_split_percentage"),
            ("  validation_file: held_out.json\n", "")),
    Mistake("do_eval", override("training.do_eval: there are no rows to evaluate on"),
            overrides=("data.validation_file=", "training.eval_strategy=no", "training.do_eval=true")),
    Mistake("two validations", line(7, "validation_file is set too: keep one"),
            ("finetuning:\n", "  validation_split_percentage: 5\nfinetuning:\n")),
    Mistake("test on training rows", line(6, "data.test_file: is the same file as data.train_file"),
            ("test.json", "./deep/../rows.json")),
    Mistake("validate on training rows", line(5, "is the same file as data.train_file"),
            ("held_out.json", "rows.json")),
    Mistake("best model unsaved", line(11, "save_strategy is no: write save_strategy: epoch"),
            (RATE, '  load_best_model_at_end: true\n  save_strategy: "no"\n')),
    Mistake("best model strategies", line(11,
            "needs save_strategy and eval_strategy to be equal, but they are steps and epoch"),
            (RATE, "  load_best_model_at_end: true\n")),
    Mistake("best model steps", override("needs save_steps (50) to be a multiple of eval_steps (20)"),
            overrides=("training.load_best_model_at_end=true", "training.eval_strategy=steps", "training.eval_steps=20",
                       "training.save_steps=50")),
    Mistake("best of nothing", override("needs evaluations to choose by"),
            overrides=("training.load_best_model_at_end=true", "training.eval_strategy=no")),
    Mistake("save best of nothing", override("training.save_strategy: best needs evaluations"),
            overrides=("training.save_strategy=best", "training.eval_strategy=no")),
    Mistake("more is not better", line(11, "training.greater_is_better: models are compared by their loss"),
            (RATE, "  greater_is_better: true\n")),
    Mistake("optimizer of another machine", line(11, "adamw_torch_npu_fused needs the package torch_npu"),
            (RATE, "  optim: adamw_torch_npu_fused\n")),
    Mistake("patience", line(11, "early_stopping_patience: would keep the last model"),
            (RATE, "  early_stopping_patience: 2\n")),
    Mistake("unknown device", line(8,
            "finetuning.device: expected one of auto, cpu, cuda, hpu, xpu, got the text 'gpu'"),
            (TASK, "  device: gpu\n")),
    Mistake("bf16 and fp16", override("bf16 and fp16 are both true"),
            overrides=("finetuning.device=cuda", "training.bf16=true", "training.fp16=true")),
    Mistake("fp16 on a CPU", line(11, "training.fp16: needs a GPU"), (RATE, "  fp16: true\n")),
    Mistake("use_cpu", override("training.no_cuda: false, but finetuning.device is cpu"),
            overrides=("finetuning.device=cpu", "training.no_cuda=false")),
    Mistake("8 bits", line(8, "8 with full_finetune: write 16 or 32"), (TASK, "  bits: 8\n  full_finetune: true\n")),
    Mistake("16 bits", line(8, "16 belongs to full_finetune"), (TASK, "  bits: 16\n")),
    Mistake("full and qlora", line(9, "finetuning.full_finetune: qlora is true as well"),
            (TASK, "  qlora: true\n  full_finetune: true\n")),
    Mistake("two sets of modules", line(9, "lora_all_linear is true as well"),
            (TASK, "  lora_all_linear: true\n  lora_target_modules: [q_proj]\n")),
    Mistake("metric without rows", line(13, "exact_match needs held-out rows: set data.test_file"),
            ("  test_file: test.json\n", "")),
    Mistake("metric of another task", line(14, "unit_tests runs code, but finetuning.task is completion"),
            ("exact_match", "unit_tests")),
    Mistake("one label", line(15, "expected at least two different answers to choose from"),
            ("exact_match", "exact_match\n  labels: [a, a]")),
    Mistake("scheduler", line(11, "needs min_lr or min_lr_rate in lr_scheduler_kwargs"),
            (RATE, "  lr_scheduler_type: cosine_with_min_lr\n")),
    Mistake("workers", line(11, "belongs to dataloader_num_workers, which is 0"),
            (RATE, "  dataloader_prefetch_factor: 2\n")),
    Mistake("another tracker", line(11, "unknown tracker 'comet_ml': one of none, all, tensorboard, mlflow"),
            (RATE, "  report_to: [comet_ml]\n")),
    Mistake("tracker", line(11, "unknown tracker 'tensorbord'"), (RATE, "  report_to: tensorbord\n")),
    Mistake("temperature", line(17, "0 with sampling: write do_sample: false"), ("", "  temperature: 0\n")),
    Mistake("empty stop", line(17, "holds an empty text"), ("", '  stop: [""]\n')),
    # command line
    Mistake("override typo", override("training.lerning_rate", "did you mean learning_rate?"),
            overrides=("training.lerning_rate=1",)),
    Mistake("override section", override("trainig: unknown section; did you mean training?"),
            overrides=("trainig.seed=1",)),
    Mistake("override type", override("training.seed: expected a whole number, got the text 'x'"),
            overrides=("training.seed=x",)),
    Mistake("override file", override("data.test_file: no such file"), overrides=("data.test_file=tests.json",)),
    Mistake("no section", override("'learning_rate=...' is not an override", "for example training.learning_rate=..."),
            overrides=("learning_rate=1",)),
    Mistake("no value", override("'training.seed' is not an override: expected section.key=value"),
            overrides=("training.seed",)),
    Mistake("twice", override("training.seed: is set twice on the command line"),
            overrides=("training.seed=1", "training.seed=2")),
    Mistake("override YAML", override("serving.stop: not valid YAML"), overrides=("serving.stop=[a",)),
]
# fmt: on


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with all files the good recipe names; afterwards nothing else may be there."""
    for name in (
        "rows.json",
        "held_out.json",
        "test.json",
        "deep/rows.json",
        "model/config.jsn",
        "old_run/adapter_config.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    (tmp_path / "recipe.yaml").unlink(missing_ok=True)
    assert sorted(tmp_path.rglob("*")) == before


def reported(text: str, *overrides: str) -> list[str]:
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipe.load("recipe.yaml", overrides)
    assert caught.value.exit_status == 2
    return [str(problem) for problem in caught.value.problems]


def test_the_good_recipe_is_good(folder: Path) -> None:
    Path("recipe.yaml").write_text(GOOD)
    assert recipe.load("recipe.yaml").notices == ()


def test_there_are_many_mistakes_each_with_its_name() -> None:
    assert len(MISTAKES) >= 32


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_place_and_advice(folder: Path, mistake: Mistake) -> None:
    found = reported(mistake.text(), *mistake.overrides)
    says = [part.replace("{folder}", str(folder)) for part in mistake.says]
    assert any(all(part in problem for part in says) for problem in found), found
    assert len(found) == mistake.count, found


def test_all_mistakes_come_in_one_report_in_the_order_of_the_file(folder: Path) -> None:
    text = GOOD.replace("seedling", "seedlin").replace("rows.json", "row.json").replace("learning_rate: 1e-4", "lr: 3")
    text = text.replace("exact_match", "exact").replace("top_k: 5", "top_k: -5")
    found = reported(text, "training.seed=x")
    places = [re.match(r"recipe\.yaml:(\d+): |command line: ", problem) for problem in found]
    assert [place and place[1] for place in places] == ["2", "4", "11", "14", "16", None]


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["recipes", "validate", "recipe.yaml"], 2, "did you mean learning_rate?"),
        (["finetune", "recipe.yaml"], 2, "recipe.yaml:11: training.lerning_rate"),
        (["finetune", "recipe.yaml", "data.train_file=nope.json", "--dry-run"], 2, "no such file or folder"),
        (["finetune", "nope.yaml"], 2, "no such recipe"),
        (["finetune", "model"], 2, "is a folder: name a recipe file"),
        (["finetune"], 2, "usage:"),
    ],
)
def test_the_command_line_ends_with_status_2_and_no_traceback(
    folder: Path, args: list[str], status: int, says: str
) -> None:
    Path("recipe.yaml").write_text(GOOD.replace("learning_rate", "lerning_rate"))
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "neuralbot", *args],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("run").exists()
