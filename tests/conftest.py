"""Shared by all tests: a throw-away tokenizer and a random model, built here in a second. Neither may be changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

import neuralbot  # noqa: F401  # before test modules import transformers: see neuralbot/text_only.py

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from neuralbot.engines.openvino_engine import Exported

settings.register_profile("same", derandomize=True)  # a gate has to say the same twice
settings.load_profile("same")  # pytest --hypothesis-profile=default draws anew

TINY_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CORPUS = [
    "Sort these words by the alphabet: pear, apple, fig. The answer is apple, fig, pear.",
    "What is the capital of France? The capital of France is Paris, and the river there is the Seine.",
    "def add(first, second):\n    return first + second\n\nassert add(1, 2) == 3",
    "Anna has a red bag. Ben has a blue hat. Who has the red bag? Anna has it.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nSummarize the highlights of this article.\n\n### Response:\nThe town opened a new library.",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday. Spring, summer, autumn and winter follow each other.",
    "A gardener waters tomatoes every morning; a baker sells bread and cakes near the railway station.",
    "My favorite color is green, I live in Bergen and work as a carpenter. Which city is my home? You live in Bergen.",
    "for number in range(10):\n    print(number ** 2)\nwhile True:\n    break\n",
] * 4


os.environ["NEURALBOT_ENGINE"] = "torch"  # exporting takes seconds; tests of the fast engine say so


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Models this small are slower on two threads than on one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def one_thread_stays() -> Iterator[None]:
    """A run in the tests' process would take all cores. Overridden where the models are not that small."""
    from neuralbot import hardware

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware.Plan, "apply", lambda plan: None)
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, about 600 tokens, <|system|> <|user|> <|assistant|> <|end|> and a chat template of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|pad|>", "<|end|>", *roles],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens=roles,
        chat_template=TINY_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of 2 layers, hidden size 64, context 512, in fp32; the same weights in every session."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def base(tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint: the tiny model with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a run leaves it: greedy answers of 5 tokens. One for all: an export of it takes 10 s."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    (folder / "serving.json").write_text('{"max_new_tokens": 5, "do_sample": false}')
    return folder


@pytest.fixture(scope="session")
def exported(tiny_folder: Path, request: pytest.FixtureRequest) -> Exported:
    """The tiny model in float32, as its export is: its end tokens are left out, a random model draws them anywhere.

    Made once, and kept by pytest's cache for later sessions.
    """
    from neuralbot.engines import export
    from neuralbot.engines.openvino_engine import Exported

    if (name := export.missing()) is not None:
        pytest.skip(f"{name} is not installed")

    cache: Any = request.config.cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache.mkdir("neuralbot")))
        entry = export.exported(export.Spec(str(tiny_folder), "fp32"), lambda _: None)
    facts = entry.facts
    return Exported(entry.folder, facts["context_length"], facts["vocabulary"], frozenset())


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word, for figures counted by hand: the letters a to z, <unk> for all else.

    A row of q and a words is <u> q <end> <a> a <end>: q + a + 4 tokens, of which a + 1 are trained on.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<u>", "<a>", "<end>", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end>",
        unk_token="<unk>",
        extra_special_tokens=["<u>", "<a>"],
        chat_template="{% for message in messages %}"
        "{{ ('<u>' if message.role == 'user' else '<a>') + message.content + '<end>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}",
        clean_up_tokenization_spaces=False,
    )
