"""Each state of docs/neural_chat.toml is true: refused raises, warned and translated say so once, honoured is read."""

from __future__ import annotations

import ast
import dataclasses
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from docs import neural_chat as table_of
from neuralbot import build_chatbot, precision
from neuralbot.chatbot import Chatbot
from neuralbot.errors import NeuralbotError
from neuralbot.neural_chat import config as configs
from neuralbot.neural_chat.chatbot import finetune_model, recipe_of
from neuralbot.neural_chat.config import (
    BaseFinetuningConfig,
    DataArguments,
    FinetuningArguments,
    GenerationConfig,
    LoadingModelConfig,
    ModelArguments,
    PipelineConfig,
    TTSFinetuningConfig,
)
from neuralbot.recipe.loading import all_fields
from neuralbot.transformers import AutoModelForCausalLM
from neuralbot.transformers import configs as precisions

ROOT = Path(__file__).parents[2]

# A value that is right and not the default, where one cannot be told from the default.
VALUES: dict[str, Any] = {
    "model_name_or_path": "MODEL",
    "tokenizer_name": "MODEL",
    "tokenizer_name_or_path": "MODEL",
    "config_name": "MODEL",
    "train_file": "ROWS",
    "validation_file": "OTHER",
    "test_file": "OTHER",
    "dataset_name": "owner/name",
    "sources": [{"path": "ROWS"}],
    "columns": {"question": "Frage"},
    "special_tokens": ["<|x|>"],
    "lora_target_modules": ["q_proj"],
    "lm_eval_tasks": ["x"],
    "bits": 8,
    "validation_split_percentage": 5,
    "dtype": "float32",
    "device": "cpu",
    "bad_words_ids": [1],
    "force_words_ids": [1],
    "format_version": "v1",
    "plugins": {"mine": {"enable": True, "class": dict}},
    "openai_config": configs.OpenAIConfig(api_key="key"),
    "compute_dtype": "fp32",
    "weight_dtype": "nf4",
    "loading_config": LoadingModelConfig(),
    "optimization_config": precisions.MixedPrecisionConfig(),
    "damp_percent": 0.2,
    "max_gpu_memory": 1,
    "peft_path": "./no/adapter",
    "max_train_samples": 3,
    "max_eval_samples": 3,
    "max_prompt_length": 100,
    "preprocessing_num_workers": 2,
    "GenerationConfig.device": "cuda",
    "RtnConfig.device": "xpu",
    **{f"{name}.device": "xpu" for name in ("GPTQConfig", "AwqConfig", "TeqConfig", "AutoRoundConfig")},
    "AwqConfig.bits": 4,
    "GPTQConfig.bits": 8,
    "AutoRoundConfig.bits": 8,
    "lr": 0.01,
    "minmax_lr": 0.01,
    "assistant_model": "./no/draft",
    "engine": "torch",
}
# What has to be set beside a field so that it means something.
BESIDE: dict[str, dict[str, Any]] = {
    "dataset_config_name": {"train_file": None, "dataset_name": "owner/name"},
    "dataset_revision": {"train_file": None, "dataset_name": "owner/name"},
    "dataset_name": {"train_file": None},
    "sources": {"train_file": None},
    "max_bad_rows": {"on_bad_row": "skip"},
    "pad_to_max_length": {"kernels": "reference"},
    "do_lm_eval": {"lm_eval_tasks": ["here"]},
    "lm_eval_tasks": {"do_lm_eval": True},
    "adapter_layers": {"peft": "llama_adapter"},
    "adapter_len": {"peft": "llama_adapter"},
    "num_virtual_tokens": {"peft": "prefix"},
    "ptun_hidden_size": {"peft": "ptun"},
    "bits": {"qlora": True},
    "double_quant": {"qlora": True},
    "quant_type": {"qlora": True},
    "model_revision": {"model_name_or_path": "owner/name"},
}
PARTS: dict[str, type[Any]] = {
    "ModelArguments": ModelArguments,
    "DataArguments": DataArguments,
    "FinetuningArguments": FinetuningArguments,
}
CHOICES = {name: field.choices for section in all_fields().values() for name, field in section.items()}


def other(cls: str, name: str) -> Any:
    """A value of the field that is not its default."""
    default = default_of(cls, name)
    if name in VALUES:
        return VALUES.get(f"{cls}.{name}", VALUES[name])
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2
    return next((choice for choice in CHOICES.get(name, ()) if choice != default), "x" if default is None else "y")


def fields_of(*owners: str) -> list[Any]:
    """Parameters (class, field, state) of those classes."""
    rows = table_of.load().fields
    return [pytest.param(cls, e.name, e.state, id=f"{cls}.{e.name}") for cls in owners for e in rows[cls]]


def test_every_class_with_fields_is_tried() -> None:
    tried = {*PARTS, *PIPELINE, *WEIGHT_ONLY, *SERVING, *TTS, "GenerationConfig", "BaseFinetuningConfig"}
    tried.add("OpenAIConfig")
    assert tried == {cls for cls, rows in table_of.load().fields.items() if rows}


def default_of(cls: str, name: str) -> Any:
    known = table_of.classes(table_of.load())[cls]
    return table_of.default_of({item.name: item for item in dataclasses.fields(known)}[name])


@cache
def reads() -> frozenset[str]:
    """The names of attributes that neuralbot reads, but for where they are defined or checked."""
    package = ROOT / "neuralbot"
    left_out = {package / "arguments.py", package / "neural_chat/config.py", package / "transformers/configs.py"}
    found = set()
    for path in package.rglob("*.py"):
        if path not in left_out and package / "recipe" not in path.parents:
            found |= set(_reads(ast.parse(path.read_text(encoding="utf-8"))))
    return frozenset(found)


def _reads(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            yield str(getattr(node.args[1], "value", ""))


def check(state: str, name: str, error: NeuralbotError | None, said: list[str]) -> None:
    """error: what the use of the field raised. said: warnings and notices that name the field."""
    if state == "refused":
        assert error is not None and name in str(error)
        assert "cannot be honoured" in str(error)
        return
    assert error is None, error
    if state in ("warned", "translated"):
        assert len(said) == 1, said
        assert state == "translated" or "has no effect" in said[0]
    else:
        assert said == []
        assert name in reads()


# --- the parts of a finetuning config ---


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a script, with rows."""
    for name in ("rows.json", "other.json"):
        (tmp_path / name).write_text('[{"instruction": "a", "output": "b"}]')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def real(value: Any) -> Any:
    if isinstance(value, list):
        return [real(item) for item in value]
    if isinstance(value, dict):
        return {key: real(item) for key, item in value.items()}
    named = {"MODEL": str(ROOT / "neuralbot/seedling"), "ROWS": "rows.json", "OTHER": "other.json"}
    return named.get(value, value) if isinstance(value, str) else value


def config(**values: Any) -> BaseFinetuningConfig:
    """A config that is fine but for `values`."""
    from transformers import TrainingArguments

    given = {"model_name_or_path": "seedling", "train_file": "rows.json"} | values
    parts = [
        cls(**{item.name: given[item.name] for item in dataclasses.fields(cls) if item.name in given})
        for cls in PARTS.values()
    ]
    return BaseFinetuningConfig(parts[0], parts[1], TrainingArguments(output_dir="run"), parts[2])


@pytest.mark.parametrize(("cls", "name", "state"), fields_of(*PARTS))
def test_a_field_of_the_finetuning_parts_is_what_its_state_says(cls: str, name: str, state: str, place: Path) -> None:
    value = real(other(cls, name))
    error, said, recipe = None, [], None
    try:
        recipe = recipe_of(config(**BESIDE.get(name, {}), **{name: value}))
        said = [notice for notice in recipe.notices if f" {name}: " in notice]
    except NeuralbotError as caught:
        error = caught
    check(state, name, error, said)
    if recipe is not None and state == "honoured":
        part = {"ModelArguments": recipe.model, "DataArguments": recipe.data, "FinetuningArguments": recipe.finetuning}
        assert getattr(part[cls], name) != default_of(cls, name)


@pytest.mark.parametrize(("cls", "name", "state"), fields_of("BaseFinetuningConfig"))
def test_a_part_of_another_class_is_told(cls: str, name: str, state: str, place: Path) -> None:
    assert state == "honoured" and name in reads()
    with pytest.raises(NeuralbotError, match=rf"^{name} is a str: expected \w+Arguments$"):
        finetune_model(dataclasses.replace(config(), **{name: "x"}))


TTS = ("TTSDatasetArguments", "TTSModelArguments", "TTSFinetuningConfig")


@pytest.mark.parametrize(("cls", "name", "state"), fields_of(*TTS))
def test_voices_are_refused(cls: str, name: str, state: str) -> None:
    assert state == "refused"
    with pytest.raises(NeuralbotError, match="finetune_model was given a TTSFinetuningConfig: expected a TextGen"):
        finetune_model(TTSFinetuningConfig(configs.TTSDatasetArguments(), configs.TTSModelArguments()))  # type: ignore[arg-type]


# --- a chatbot ---


def attempt(action: Callable[[], Any], name: str, caplog: pytest.LogCaptureFixture) -> tuple[Any, list[str]]:
    """What an action raised, and the warnings that name the field."""
    error = None
    with caplog.at_level(logging.WARNING, "neuralbot"):
        try:
            action()
        except NeuralbotError as caught:
            error = caught
    return error, [record.message for record in caplog.records if name in record.message]


PIPELINE = ("PipelineConfig", "LoadingModelConfig", "MixedPrecisionConfig")
SERVING = ("ServingConfig", "VllmEngineParams")
# What a field's value has to lead to here, and what is said because it does not.
NEEDS = {
    "peft_path": "no/adapter",
    "hf_endpoint_url": "needs a token: set hf_access_token",
    "assistant_model": "no/draft",
}


@pytest.mark.parametrize(("cls", "name", "state"), fields_of(*PIPELINE))
def test_a_field_of_the_chatbot_is_what_its_state_says(
    cls: str, name: str, state: str, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value = other(cls, name)
    values: dict[str, Any] = {"model_name_or_path": str(base)}
    if cls == "PipelineConfig":
        values[name] = str(base) if value == "MODEL" else value
    elif cls == "LoadingModelConfig":
        values["loading_config"] = LoadingModelConfig(**{name: value})
    else:
        values["optimization_config"] = precisions.MixedPrecisionConfig(**{name: value})
    error, said = attempt(lambda: build_chatbot(PipelineConfig(**values)), f"{name}=", caplog)
    for needs, message in NEEDS.items():  # what it does with the real thing is tried in tests of its own
        if name == needs:
            assert message in str(error)
            error = None
    if name == "task":  # the model of this test brings a template
        assert "has no effect: the model brings its own chat template" in said.pop()
    if name == "prompt_lookup":  # the torch engine answers in tests
        assert "has no effect: it is for the OpenVINO engine" in said.pop()
    check(state, name, error, said)


@pytest.mark.parametrize(("cls", "name", "state"), fields_of(*SERVING))
def test_other_frameworks_are_refused_with_their_config(cls: str, name: str, state: str, base: Path) -> None:
    made = getattr(configs, cls)(**{name: other(cls, name)})
    with pytest.raises(NeuralbotError, match=rf"{name}=.* cannot be honoured"):
        build_chatbot(PipelineConfig(str(base), serving_config=made))
    assert state == "refused"


@pytest.mark.parametrize(("cls", "name", "state"), fields_of("OpenAIConfig"))
def test_the_account_is_read(cls: str, name: str, state: str) -> None:
    account = configs.OpenAIConfig(api_key="secret", organization="us")
    chatbot = build_chatbot(PipelineConfig("gpt-4", openai_config=account))
    assert state == "honoured" and name in reads()
    assert {vars(chatbot.engine)["_key"], *vars(chatbot.engine)["_headers"].values()} == {"secret", "us"}
    assert "secret" not in repr(chatbot.engine) + repr(account)


@pytest.fixture(scope="module")
def chatbot(base: Path) -> Chatbot:
    return build_chatbot(PipelineConfig(str(base)))


@pytest.mark.parametrize(("cls", "name", "state"), fields_of("GenerationConfig"))
def test_a_field_of_the_generation_config_is_what_its_state_says(
    cls: str, name: str, state: str, chatbot: Chatbot, caplog: pytest.LogCaptureFixture
) -> None:
    asked = GenerationConfig(**{"max_new_tokens": 2} | {name: other(cls, name)})
    before = dataclasses.replace(asked)
    fresh = Chatbot(chatbot.engine)
    if name == "max_new_tokens":
        asked.max_new_tokens = before.max_new_tokens = 3

    def twice() -> None:
        for _ in range(2):
            fresh.predict("hello", config=asked)

    error, said = attempt(twice, f"({name}=", caplog)
    check(state, name, error, said)
    assert asked == before


# --- weight-only configs ---

# Honoured by the OpenVINO engine alone; the torch engine, on which these tests run, says that it does not.
EXPORTED = ("group_size", "sym", "mse_range")
CALIBRATED = ("GPTQConfig", "AwqConfig", "TeqConfig", "AutoRoundConfig")
WEIGHT_ONLY = ("RtnConfig", *CALIBRATED)


@pytest.mark.parametrize(("cls", "name", "state"), fields_of(*CALIBRATED))
def test_a_field_of_a_calibrated_config_is_what_its_state_says(cls: str, name: str, state: str) -> None:
    usual = {"bits": 4} if cls == "TeqConfig" else {}
    changed = {name: other(cls, name)} if f"{cls}.{name}" != "TeqConfig.bits" else {}
    plain = getattr(precisions, cls)(**usual)
    made = getattr(precisions, cls)(**({} if name == "bits" else usual) | changed)
    try:
        exported, error = precision.for_openvino(made), None
    except NeuralbotError as caught:
        exported, error = None, caught
    said = [] if exported is None else [notice for notice in exported.notices if f"({name}=" in notice]
    check(state, name, error, said)
    if state == "honoured":
        known = precision.for_openvino(plain)
        assert known is not None and exported is not None
        assert dataclasses.replace(exported, notices=[]) != dataclasses.replace(known, notices=[])


@pytest.mark.parametrize("cls", CALIBRATED)
def test_the_torch_engine_refuses_a_calibrated_config(cls: str, base: Path) -> None:
    with pytest.raises(NeuralbotError, match=rf"{cls} cannot be honoured by the torch engine: .*neuralbot\[quantize\]"):
        AutoModelForCausalLM.from_pretrained(str(base), quantization_config=getattr(precisions, cls)(bits=4))


@pytest.mark.parametrize(("cls", "name", "state"), fields_of("RtnConfig"))
def test_a_field_of_a_weight_only_config_is_what_its_state_says(
    cls: str, name: str, state: str, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = getattr(precisions, cls)(**{name: other(cls, name)})
    load = lambda: AutoModelForCausalLM.from_pretrained(str(base), quantization_config=made)  # noqa: E731
    error, said = attempt(load, name, caplog)
    if name in EXPORTED:
        exported, known = (precision.for_openvino(each) for each in (made, precisions.RtnConfig()))
        assert state == "honoured" and exported is not None and known is not None
        assert dataclasses.replace(exported, notices=[]) != dataclasses.replace(known, notices=[])
        assert not any(f"({name}=" in notice for notice in exported.notices)
        state = "warned"
    check(state, name, error, said)
