"""A prompt style from the recipe to the served run: what is asked begins the ids that were trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from neuralbot import MixedPrecisionConfig, PipelineConfig, build_chatbot, cli, finetune, recipe
from neuralbot.chatbot import Chatbot
from neuralbot.conversation import PROMPT_STYLES, Conversation, Turn, encode, ensure_chat_template
from neuralbot.errors import ModelError, RecipeError

ROWS = [{"Question": f"Who has bag {number}?", "Answer": f"Anna has bag {number}."} for number in range(24)]
CALL = {"name": "find", "arguments": {"bag": 7}}
TOOL_ROWS = [
    {
        "conversations": [
            {"from": "human", "value": f"Who has bag {number}?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": '{"who": "Anna"}'},
            {"from": "gpt", "value": "Anna has it."},
        ],
        "tools": json.dumps([{"name": "find", "description": "Finds a bag", "parameters": {"type": "object"}}]),
    }
    for number in range(24)
]
FLOAT32 = MixedPrecisionConfig("float32")


def write_recipe(folder: Path, base: Path, rows: list[dict[str, Any]], style: str | None) -> Path:
    """A recipe of one step, as JSON, which is YAML too."""
    (folder / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    whole = {
        "model": {"model_name_or_path": str(base)},
        "data": {"train_file": str(folder / "train.json"), "prompt_style": style},
        "training": {"output_dir": str(folder / "run"), "max_steps": 1, "report_to": "none"},
        "evaluation": {"metric": "none"},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def asked(chatbot: Chatbot, monkeypatch: pytest.MonkeyPatch, query: str, **more: Any) -> list[int]:
    """The ids that the chatbot puts to its engine for a question."""
    prompts: list[list[int]] = []
    stream = chatbot.engine.stream

    def listening(prompt_ids: list[int], sampling: Any) -> Iterator[int]:
        prompts.append(prompt_ids)
        return stream(prompt_ids, sampling)

    monkeypatch.setattr(chatbot.engine, "stream", listening)
    chatbot.predict(query=query, **more)
    return prompts[0]


@pytest.mark.parametrize("style", [None, "question_answer_headings", "question_answer_brackets"])
def test_a_run_is_asked_in_the_style_that_it_was_trained_in(
    style: str | None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = recipe.load(write_recipe(tmp_path, base, ROWS, style))
    prepared = finetune.prepare(loaded, Console(quiet=True))
    trained = prepared.data.train.rows[0]["input_ids"]
    assert cli.main(["data", "preview", str(tmp_path / "recipe.yaml"), "--rows", "1"]) == 0
    previewed = capsys.readouterr().out
    assert f"{len(trained)} tokens" in previewed
    assert f"trained on\n{prepared.tokenizer.decode(trained)}\n" in previewed
    result = finetune.run(loaded, Console(soft_wrap=True))
    chatbot = build_chatbot(PipelineConfig(str(result.run_dir), optimization_config=FLOAT32))
    prompt = asked(chatbot, monkeypatch, ROWS[0]["Question"])
    assert trained[: len(prompt)] == prompt
    begins = "### Question: Who" if style == "question_answer_headings" else "[Question] : Who" if style else "<|user|>"
    assert chatbot.engine.tokenizer.decode(prompt).startswith(begins)
    manifest = json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))
    notice = f"data.prompt_style={style} is used instead of the tokenizer's own chat template"
    assert manifest["prompt_style"] == (style or "tokenizer")
    assert (notice in manifest["notices"]) == (style is not None)
    for out in (previewed, capsys.readouterr().out):
        assert f"prompt style: {style or 'tokenizer'}" in out
        assert (f"note: {notice}" in out) == (style is not None)


def test_rows_with_tools_are_trained_by_a_style_that_knows_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = recipe.load(write_recipe(tmp_path, base, TOOL_ROWS, "chat"))
    prepared = finetune.prepare(loaded, Console(quiet=True))
    row = prepared.data.train.rows[0]
    targets = prepared.tokenizer.decode([label for label in row["labels"] if label >= 0])
    call = '<tool_call>{"name": "find", "arguments": {"bag": 7}}</tool_call><|end|>'
    assert targets == f"{call}Anna has it.<|end|>"
    assert "Finds a bag" in prepared.tokenizer.decode(row["input_ids"])
    assert cli.main(["data", "preview", str(tmp_path / "recipe.yaml"), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "because of the columns 'conversations', 'tools'" in out
    assert re.search(r"^rows that call tools +24$", out, re.MULTILINE)
    assert f"trained on\n{prepared.tokenizer.decode(row['input_ids'])}\n" in out
    assert finetune.run(loaded).metrics["steps"] == 1


def test_a_style_that_does_not_know_tools_stops_preview_and_run_alike(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, base, TOOL_ROWS, "user_assistant")
    for command in (["data", "preview"], ["finetune"]):
        assert cli.main([*command, str(path)]) == ModelError.exit_status
        said = capsys.readouterr().err
        assert f"{tmp_path / 'train.json'}:1: row 1: the chat template cannot render tools: it leaves out" in said
        assert "(`chat` knows tools)" in said


@pytest.mark.parametrize("style", PROMPT_STYLES)
def test_a_saved_style_is_served_as_it_was_trained(
    style: str, base: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ensure_chat_template(tokenizer, "chat", style)
    tiny_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    turns = (
        Turn("system", "Be brief."),
        *(Turn("user", "A bag?"), Turn("assistant", "Red.")),
        *(Turn("user", "Whose </s> <|end|>?"), Turn("assistant", "Anna's.")),
    )
    chatbot = build_chatbot(PipelineConfig(str(tmp_path), optimization_config=FLOAT32))
    prompt = asked(chatbot, monkeypatch, turns[3].content, history=turns[1:3], system_prompt="Be brief.")
    trained = encode(tokenizer, Conversation(turns)).ids
    assert trained[: len(prompt)] == prompt
    assert len(trained) > len(prompt)


def test_the_blank_before_an_answer_is_not_handed_out(
    base: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ensure_chat_template(tokenizer, "chat", "user_assistant")
    tiny_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    chatbot = build_chatbot(PipelineConfig(str(tmp_path), optimization_config=FLOAT32))
    turns = (Turn("user", "Whose?"), Turn("assistant", "Anna's."))
    encoded = encode(tokenizer, Conversation(turns))
    learned = [index for index, target in zip(encoded.ids, encoded.target_mask, strict=True) if target]
    assert tokenizer.decode(learned) == " Anna's.<|end|>"
    monkeypatch.setattr(chatbot.engine, "stream", lambda prompt, sampling: iter(learned[:-1]))
    assert chatbot.predict(query="Whose?") == "Anna's."


def test_a_misspelt_style_is_told_with_its_place(base: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, base, ROWS, "question_anser")
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    message = str(caught.value)
    assert "recipe.yaml:1: data.prompt_style: expected one of alpaca, chat, code, customer_agent" in message
    assert "got the text 'question_anser'; did you mean question_answer?" in message
    schema = recipe.json_schema()["properties"]["data"]["properties"]["prompt_style"]
    assert {"enum": list(PROMPT_STYLES)} in schema["anyOf"]
