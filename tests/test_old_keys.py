"""Old keys are translated with one notice each; settings without effect are noted and dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuralbot import recipe
from neuralbot.arguments import PEFT_METHODS
from neuralbot.errors import RecipeError
from neuralbot.recipe import old_keys, support
from neuralbot.recipe.loading import all_fields

MINIMAL = "model:\n  model_name_or_path: seedling\ndata:\n  train_file: rows.json\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of rows."""
    (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> recipe.Recipe:
    Path("test.yaml").write_text(text, encoding="utf-8")
    return recipe.load("test.yaml", overrides)


# --- old keys ---

OLD_KEYS = [
    ("no_cuda", "true", {"use_cpu": True}),
    ("evaluation_strategy", "epoch", {"eval_strategy": "epoch"}),
    ("warmup_ratio", "0.1", {"warmup_steps": 0.1}),
    ("per_gpu_train_batch_size", "3", {"per_device_train_batch_size": 3}),
    ("per_gpu_eval_batch_size", "3", {"per_device_eval_batch_size": 3}),
    ("group_by_length", "true", {"train_sampling_strategy": "group_by_length"}),
    ("group_by_length", "false", {}),
    ("adafactor", "true", {"optim": "adafactor"}),
    ("include_tokens_per_second", "true", {"include_num_input_tokens_seen": "all"}),
    ("ddp_backend", "ccl", {"ddp_backend": "gloo"}),
    ("optim", "adamw_hf", {"optim": "adamw_torch"}),
    ("overwrite_output_dir", "true", {}),
    ("save_safetensors", "true", {}),
    ("logging_dir", "logs", {}),
    ("use_ipex", "true", {}),
    ("jit_mode_eval", "true", {}),
    ("push_to_hub_token", "hf_x", {}),
    ("push_to_hub_model_id", "x", {}),
    ("push_to_hub_organization", "x", {}),
    ("include_inputs_for_metrics", "true", {}),
    ("fsdp_min_num_params", "1", {}),
    ("fsdp_transformer_layer_cls_to_wrap", "X", {}),
    ("dispatch_batches", "true", {}),
    ("split_batches", "true", {}),
    ("fp16_backend", "auto", {}),
    ("half_precision_backend", "auto", {}),
    ("fp16_opt_level", "O1", {}),
    ("use_mps_device", "true", {}),
    ("use_legacy_prediction_loop", "true", {}),
    ("past_index", "-1", {}),
    ("mp_parameters", "x", {}),
    ("tpu_num_cores", "8", {}),
    ("tpu_metrics_debug", "true", {}),
    ("ray_scope", "last", {}),
]


@pytest.mark.parametrize(("old", "value", "new"), OLD_KEYS)
def test_old_training_keys_are_translated_with_one_notice(
    folder: Path, old: str, value: str, new: dict[str, Any]
) -> None:
    loaded = load(
        MINIMAL.replace("rows.json", "rows.json\n  validation_split_percentage: 5"), f"training.{old}={value}"
    )
    assert loaded.training == {"output_dir": "runs/test"} | new
    assert len(loaded.notices) == 1
    assert loaded.notices[0].startswith(f"command line: training.{old}: ")
    assert loaded.overwrite_output_dir == (old == "overwrite_output_dir")


def test_old_keys_table_is_complete() -> None:
    tried = {old for old, _, _ in OLD_KEYS}
    assert set(old_keys.TODAY) - tried == {"torchdynamo"}  # refused, see test_mistakes_recipe.py


@pytest.mark.parametrize(
    ("old", "section", "new"),
    [
        ("max_source_length", "data", "max_prompt_length"),
        ("max_target_length", "evaluation", "max_new_tokens"),
        ("num_beams", "evaluation", "num_beams"),
    ],
)
def test_limits_of_neural_chat_stand_elsewhere_today(folder: Path, old: str, section: str, new: str) -> None:
    loaded = load(MINIMAL, f"data.{old}=4")  # 4 is a default of one of them: written out, it counts
    assert getattr(getattr(loaded, section), new) == 4
    assert loaded.notices == (f"command line: data.{old}: now {section}.{new}",)
    assert recipe.load(written(folder, recipe.dump(loaded))) == loaded
    with pytest.raises(RecipeError, match=f"{old} and {new} say the same thing: keep {new}"):
        load(MINIMAL, f"data.{old}=4", f"{section}.{new}=5")


def written(folder: Path, text: str) -> Path:
    (folder / "dumped.yaml").write_text(text)
    return folder / "dumped.yaml"


def test_a_search_and_several_draws_exclude_each_other(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.num_beams: a search finds one answer, but .*samples=3"):
        load(MINIMAL, "evaluation.num_beams=2", "evaluation.samples=3")


def test_slim_orca_is_chat(folder: Path) -> None:
    loaded = load(MINIMAL + "finetuning:\n  task: SlimOrca\n")
    assert loaded.finetuning.task == "chat"
    assert loaded.notices == (
        "test.yaml:6: finetuning.task: SlimOrca is now chat: the form of the rows is detected from their columns",
    )


def test_an_old_key_on_the_command_line_replaces_todays_key_in_the_file(folder: Path) -> None:
    text = MINIMAL + "training:\n  train_sampling_strategy: group_by_length\n  use_cpu: false\n"
    loaded = load(text, "training.no_cuda=true", "training.group_by_length=false")
    assert loaded.training == {"use_cpu": True, "output_dir": "runs/test"}


# --- notices ---


def other_value(key: str) -> str:
    """A value of the right type that is not the default, as it stands on a command line."""
    section, _, name = key.partition(".")
    field = all_fields()[section][name]
    if "bool" in field.kinds:
        return str(not field.default).lower()
    if "str" in field.kinds:
        return next(choice for choice in (*field.choices, "x") if choice != field.default)
    if "list" in field.kinds:
        return "[x]"
    if field.interval and 2 not in field.interval:
        return "0.5"
    return "2" if field.kinds & {"int", "float"} else "{x: true}"


@pytest.mark.parametrize("key", sorted(support.REFUSED))
def test_what_nobody_reads_is_refused_with_the_reason(folder: Path, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(MINIMAL, f"{key}={other_value(key)}")
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 1 and f"{key}: " in said[0]
    assert said[0].endswith(f" cannot be honoured: {support.REFUSED[key]}")


@pytest.mark.parametrize("key", sorted(support.NO_EFFECT))
def test_settings_without_effect_are_noted_and_dropped(folder: Path, key: str) -> None:
    loaded = load(MINIMAL, f"{key}={other_value(key)}")
    assert len(loaded.notices) == 1 and f"{key}: has no effect: " in loaded.notices[0]
    assert loaded == load(MINIMAL)


@pytest.mark.parametrize("key", sorted(support.FIXED))
def test_settings_that_neuralbot_fixes_are_noted_and_dropped(folder: Path, key: str) -> None:
    fixed, _ = support.FIXED[key]
    loaded = load(MINIMAL, f"{key}={str(not fixed).lower()}")
    assert len(loaded.notices) == 1 and f"{key}: has no effect: " in loaded.notices[0]
    assert loaded == load(MINIMAL)
    assert load(MINIMAL, f"{key}={str(fixed).lower()}").notices == ()


def test_settings_that_lose_against_another_are_noted(folder: Path) -> None:
    loaded = load(
        MINIMAL, "training.max_steps=5", "training.num_train_epochs=2", "finetuning.full_finetune=true",
        "finetuning.lora_rank=4", "serving.do_sample=false", "serving.top_k=3",
        "finetuning.bits=16",
    )  # fmt: skip
    assert loaded.notices == (
        "command line: finetuning.lora_rank: has no effect: finetuning.full_finetune is true",
        "command line: serving.top_k: has no effect: serving.do_sample is false",
        "command line: training.num_train_epochs: has no effect: max_steps is set",
        "command line: finetuning.bits: 16: weights keep 32 bits, or small steps would be lost; bf16 computes in 16",
    )


@pytest.mark.parametrize("key", sorted(support.OF_METHODS))
def test_settings_of_another_method_are_noted(folder: Path, key: str) -> None:
    given, methods = f"{key}={other_value(key)}", support.OF_METHODS[key]
    for method in PEFT_METHODS:
        loaded = load(MINIMAL, given, f"finetuning.peft={method}")
        lost = f"command line: {key}: has no effect: finetuning.peft is {method}"
        assert loaded.notices == (() if method in methods else (lost,))
    full = load(MINIMAL, given, "finetuning.full_finetune=true").notices
    assert full == (f"command line: {key}: has no effect: finetuning.full_finetune is true",)


def test_settings_of_draws_are_noted_where_nothing_is_drawn(folder: Path) -> None:
    (folder / "test.json").write_text((folder / "rows.json").read_text())
    loaded = load(MINIMAL, "evaluation.metric=loss", "data.test_file=test.json", "evaluation.samples=5")
    assert loaded.notices == (
        "command line: evaluation.samples: has no effect: evaluation.metric loss generates no answers",
    )
    loaded = load(MINIMAL, "evaluation.temperature=1", "evaluation.top_p=0.5", "evaluation.labels=[a, b]")
    one = "has no effect: evaluation.samples is 1, which is the likeliest answer"
    assert sorted(loaded.notices) == [
        "command line: evaluation.labels: has no effect: evaluation.metric is auto",
        f"command line: evaluation.temperature: {one}",
        f"command line: evaluation.top_p: {one}",
    ]
    assert load(MINIMAL, "evaluation.temperature=1", "evaluation.samples=2").notices == ()


def test_revisions_belong_to_the_hub(folder: Path) -> None:
    (folder / "set").mkdir()
    rows = "data.train_file=", "data.dataset_name=set", "data.dataset_revision=v1"
    loaded = load(MINIMAL, *rows)
    assert loaded.notices == (
        "command line: data.dataset_revision: has no effect: dataset_name is a folder, revisions are of the hub",
    )
    assert load(MINIMAL, rows[0], "data.dataset_name=owner/set", rows[2]).notices == ()
