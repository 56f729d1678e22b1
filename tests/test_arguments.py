"""The argument classes work where old scripts use them; their fields and defaults: tests/neural_chat/test_table.py."""

from __future__ import annotations

from neuralbot import arguments
from neuralbot.recipe import fields


def test_recipes_are_read_alike_after_hf_argument_parser_was_used() -> None:
    from transformers import HfArgumentParser

    before = fields.section_fields("data", arguments.DataArguments)
    HfArgumentParser(arguments.DataArguments)
    assert fields.section_fields("data", arguments.DataArguments) == before


def test_arguments_work_with_hf_argument_parser() -> None:
    from transformers import HfArgumentParser

    parser = HfArgumentParser((arguments.ModelArguments, arguments.DataArguments, arguments.FinetuningArguments))
    line = ["--train_file", "a.json", "--lora_rank", "4", "--task", "chat", "--special_tokens", "x", "y"]
    model, data, finetuning = parser.parse_args_into_dataclasses(line)
    assert (data.train_file, data.special_tokens) == ("a.json", ["x", "y"])
    assert (finetuning.lora_rank, finetuning.task, model.model_revision) == (4, "chat", "main")
