"""Exceptions carry ITREX's numbers, and scripts that ask for the latest error get an answer."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuralbot import GenerationConfig, LoadingModelConfig, PipelineConfig, build_chatbot, hub, recipe
from neuralbot.errors import GenerationError, ModelError, NeuralbotError, RecipeError
from neuralbot.neural_chat.errorcode import GPU_MEMORY_THRESHOLD_MB, STORAGE_THRESHOLD_GB, ErrorCodes
from neuralbot.neural_chat.utils.error_utils import (
    clear_latest_error,
    get_latest_error,
    get_latest_error_string,
    set_latest_error,
)
from neuralbot.training.records import cannot_write


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    clear_latest_error()
    yield
    clear_latest_error()


def numbers() -> dict[str, int]:
    return {name: value for name, value in vars(ErrorCodes).items() if isinstance(value, int)}


def test_the_numbers_are_those_of_itrex_and_each_has_a_sentence() -> None:
    assert len(numbers()) == 36
    assert len(set(numbers().values())) == 36
    assert {name for name in numbers() if not name.startswith("ERROR_")} == {
        "SUCCESS", "WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH", "WARNING_INPUT_COMPLETION_EXCEED_MAX_SEQ_LENGTH",
    }  # fmt: skip
    assert set(ErrorCodes.error_strings) == set(numbers().values())
    assert (STORAGE_THRESHOLD_GB, GPU_MEMORY_THRESHOLD_MB) == (30, 6)


@pytest.mark.parametrize("code", sorted(numbers().values()))
def test_every_code_can_be_set_and_told(code: int) -> None:
    set_latest_error(code)
    assert get_latest_error() == code
    assert get_latest_error_string() == ErrorCodes.error_strings[code]
    clear_latest_error()
    assert get_latest_error() is None and get_latest_error_string() is None


def test_a_number_that_is_no_code_is_refused() -> None:
    with pytest.raises(NeuralbotError, match=r"set_latest_error\(12\): expected one of"):
        set_latest_error(12)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"model_name_or_path": "/no/such/folder"}, 2001),
        ({"model_name_or_path": "EMPTY", "tokenizer_name_or_path": "seedling"}, 2002),
        ({"model_name_or_path": "seedling", "tokenizer_name_or_path": "EMPTY"}, 2003),
        ({"model_name_or_path": "seedling", "device": "hpu"}, 1005),
        ({"model_name_or_path": "seedling", "device": "cuda"}, 1003),
    ],
)
def test_what_keeps_a_chatbot_from_being_built_has_its_number(
    config: dict[str, str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NeuralbotError) as caught:
        build_chatbot(PipelineConfig(**{key: str(tmp_path) if at == "EMPTY" else at for key, at in config.items()}))
    assert caught.value.code == code == get_latest_error()


def test_success_clears_the_latest_error_and_failure_sets_it_again() -> None:
    set_latest_error(ErrorCodes.ERROR_GENERIC)
    chatbot = build_chatbot(PipelineConfig(model_name_or_path="seedling", loading_config=LoadingModelConfig()))
    assert get_latest_error() is None
    with pytest.raises(GenerationError) as caught:
        chatbot.predict("word " * 5000)
    assert caught.value.code == get_latest_error() == ErrorCodes.WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH
    assert isinstance(chatbot.predict("hello", config=GenerationConfig(max_new_tokens=1)), str)
    assert get_latest_error() is None
    with pytest.raises(GenerationError):
        chatbot.predict_stream(" ")
    assert get_latest_error() == ErrorCodes.ERROR_MODEL_INFERENCE_FAIL


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("data.train_file=none.json", 3004),
        ("data.validation_file=none.json", 3003),
        ("data.dataset_config_name=3.0.0", 3002),
        ("model.model_name_or_path=./none", 2001),
        ("model.tokenizer_name=./none", 2003),
        ("finetuning.device=hpu", 1005),
        ("training.learning_rate=x", 9999),
    ],
)
def test_a_recipe_has_the_number_of_the_key_that_is_wrong(
    setting: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    (tmp_path / "r.yaml").write_text("model:\n  model_name_or_path: seedling\ndata:\n  train_file: rows.json\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        recipe.load("r.yaml", [setting])
    assert caught.value.code == code


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1004), (errno.EACCES, 9999)])
def test_a_full_disk_has_its_number(number: int, code: int, tmp_path: Path) -> None:
    assert cannot_write(tmp_path, OSError(number, "reason")).code == code


def test_a_code_that_is_given_replaces_that_of_the_class() -> None:
    plain: Any = GenerationError("x")
    assert (plain.code, GenerationError("x", code=7).code) == (5008, 7)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("GatedRepoError", 403, 2007),
        ("RepositoryNotFoundError", 401, 2001),
        ("RevisionNotFoundError", 404, 2005),
        ("HfHubHTTPError", 401, 2007),
        ("HfHubHTTPError", 503, 2001),
    ],
)
def test_what_the_hub_says_has_its_number(kind: str, status: int, code: int) -> None:
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(status, request=httpx.Request("GET", "https://hub.example/owner/name"))
    with pytest.raises(ModelError) as caught, hub.in_plain_words("model", "owner/name", None, ModelError):
        raise getattr(errors, kind)("no", response=response)
    assert caught.value.code == code
