"""The argument classes have neural_chat's fields and defaults, and work where old scripts use them."""

from __future__ import annotations

import dataclasses
from typing import Any

from neuralbot import arguments
from neuralbot.recipe import fields

ITREX_DEFAULTS: dict[type[Any], dict[str, Any]] = {
    arguments.ModelArguments: {
        "model_name_or_path": None,
        "config_name": None,
        "tokenizer_name": None,
        "cache_dir": None,
        "use_fast_tokenizer": True,
        "model_revision": "main",
        "token": None,
        "use_auth_token": False,
        "trust_remote_code": False,
    },
    arguments.DataArguments: {
        "dataset_name": None,
        "dataset_config_name": None,
        "train_file": None,
        "validation_file": None,
        "train_dir": None,
        "validation_dir": None,
        "image_column": "image",
        "caption_column": "text",
        "max_seq_length": 512,
        "validation_split_percentage": 0,
        "overwrite_cache": False,
        "pad_to_max_length": False,
        "max_train_samples": None,
        "max_eval_samples": None,
        "keep_in_memory": False,
        "dataset_seed": 42,
        "dataset_cache_directory": None,
        "dataset_concatenation": False,
        "special_tokens": None,
        "max_source_length": 384,
        "max_target_length": 128,
        "num_beams": 4,
        "streaming": False,
        "preprocessing_num_workers": None,
    },
    arguments.FinetuningArguments: {
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "lora_target_modules": None,
        "lora_all_linear": False,
        "adapter_layers": 30,
        "adapter_len": 10,
        "num_virtual_tokens": 10,
        "ptun_hidden_size": 1024,
        "peft": "lora",
        "train_on_inputs": False,
        "device": "auto",
        "task": "completion",
        "eval_ppl": True,
        "do_lm_eval": False,
        "lm_eval_tasks": ["truthfulqa_mc", "lambada_openai"],
        "qlora": False,
        "double_quant": True,
        "quant_type": "nf4",
        "bits": 4,
        "full_finetune": False,
    },
}


def test_arguments_have_the_fields_and_defaults_of_neural_chat() -> None:
    own = {
        arguments.DataArguments: {
            "test_file": None,
            "dataset_revision": None,
            "columns": None,
            "prompt_style": None,
            "sources": None,
            "on_bad_row": "stop",
            "max_bad_rows": 100,
        },
        arguments.FinetuningArguments: {"kernels": "fast"},
    }
    for cls, expected in ITREX_DEFAULTS.items():
        assert dataclasses.asdict(cls()) == expected | own.get(cls, {})


def test_recipes_are_read_alike_after_hf_argument_parser_was_used() -> None:
    from transformers import HfArgumentParser

    before = fields.section_fields("data", arguments.DataArguments)
    HfArgumentParser(arguments.DataArguments)
    assert fields.section_fields("data", arguments.DataArguments) == before


def test_arguments_work_with_hf_argument_parser() -> None:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(tuple(ITREX_DEFAULTS))
    line = ["--train_file", "a.json", "--lora_rank", "4", "--task", "chat", "--special_tokens", "x", "y"]
    model, data, finetuning = parser.parse_args_into_dataclasses(line)
    assert (data.train_file, data.special_tokens) == ("a.json", ["x", "y"])
    assert (finetuning.lora_rank, finetuning.task, model.model_revision) == (4, "chat", "main")
