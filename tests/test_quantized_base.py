"""Bases quantized as they are read: the right layers, the right weights, never the whole model in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig

from neuralbot import modeling
from neuralbot.errors import ModelError
from neuralbot.kernels.quantized import TABLES, FourBitLinear, Int8Linear, quantizer
from neuralbot.quantized_base import load_quantized


@pytest.fixture
def saved(tiny_model: Any, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_linear_layer_but_the_head_is_quantised(saved: Path) -> None:
    model = load_quantized(str(saved), torch.bfloat16, quantizer(8))
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert kinds.pop("lm_head") is torch.nn.Linear
    assert set(kinds.values()) == {Int8Linear}
    assert len(kinds) == 14
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert not [name for name, parameter in model.named_parameters() if parameter.is_meta or parameter.requires_grad]


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.02), (4, 0.2)])
def test_answers_are_near_those_of_the_base(saved: Path, bits: int, bound: float) -> None:
    ids = torch.arange(40)[None]
    expected = modeling.load_base(str(saved), torch.float32)(ids).logits
    found = load_quantized(str(saved), torch.float32, quantizer(bits))(ids).logits
    assert 0 < (found - expected).norm() / expected.norm() < bound


def test_without_quantising_it_is_the_same_model(saved: Path) -> None:
    ids = torch.arange(40)[None]
    expected = modeling.load_base(str(saved), torch.float32)(ids).logits
    assert torch.equal(load_quantized(str(saved), torch.float32, lambda linear: linear)(ids).logits, expected)


@pytest.mark.parametrize("stored", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_embeddings_are_read_under_either_name(tmp_path: Path, stored: str) -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[stored] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_quantized(str(tmp_path), torch.float32, quantizer(8))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, tensors[stored])


def test_what_older_versions_stored_is_passed_over(saved: Path) -> None:
    ids = torch.arange(40)[None]
    expected = load_quantized(str(saved), torch.float32, quantizer(8))(ids).logits
    tensors = load_file(saved / "model.safetensors")
    constants = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(tensors | constants, saved / "model.safetensors")
    assert torch.equal(load_quantized(str(saved), torch.float32, quantizer(8))(ids).logits, expected)


def test_files_without_the_name_of_the_inner_model_are_read(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=50, hidden_size=64, n_layer=1, n_head=2)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.arange(40)[None]
    found = load_quantized(str(tmp_path), torch.float32, lambda linear: linear)(ids).logits
    torch.testing.assert_close(found, model.eval()(ids).logits)


def test_files_that_do_not_fit_are_named(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 tensors \(model.norm.weight\).*qlora"):
        load_quantized(str(saved), torch.float32, quantizer(8))
    save_file(tensors | {"model.norm.weight": norm[:5].clone()}, saved / "model.safetensors")
    with pytest.raises(ModelError, match=r"model.norm.weight is \[5\] and should be \[64\]"):
        load_quantized(str(saved), torch.float32, quantizer(8))
    save_file(tensors | {"model.norm.weight": norm, "extra": norm.clone()}, saved / "model.safetensors")
    with pytest.raises(ModelError, match="a tensor extra, which llama does not know"):
        load_quantized(str(saved), torch.float32, quantizer(8))
    (saved / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_quantized(str(saved), torch.float32, quantizer(8))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("double", [True, False])
def test_four_bits_keep_the_numbers_of_their_table(kind: str, double: bool) -> None:
    """Numbers that the format has come back exactly, but for the rounding of the blocks' largest values."""
    table = torch.tensor(TABLES[kind])
    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 600, bias=False)
    largest = 1 + torch.rand(1200)
    codes = torch.randint(0, 16, (1200, 64))
    codes[:, 0] = 15  # each block has its largest value
    linear.weight.data = (table[codes] * largest[:, None]).view(600, 128)
    layer = FourBitLinear(linear, TABLES[kind], double)
    found = layer(torch.eye(128)).t()
    assert (found - linear.weight).abs().max() <= (0.01 if double else 1e-6)
    stored = layer.weight.numel() + layer.steps.numel() * layer.steps.element_size() + 4 * layer.unit.numel()
    assert stored / linear.weight.numel() <= (0.52 if double else 0.57)


def test_rows_that_do_not_divide_into_blocks_stay_as_they_are() -> None:
    linear = torch.nn.Linear(48, 8)
    assert quantizer(4)(linear) is linear
    assert isinstance(quantizer(8)(linear), Int8Linear)


MEMORY = """
import sys, threading, time, torch
from neuralbot.kernels.quantized import quantizer
from neuralbot.quantized_base import load_quantized
def held():  # pages of the mapped file do not count: the system takes them back when it needs room
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon"))) * 1024
load_quantized("seedling", torch.bfloat16, quantizer(8))  # imports what loading needs
before, most, done = held(), 0, threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, held())
watcher = threading.Thread(target=watch)
watcher.start()
load_quantized(sys.argv[1], torch.bfloat16, quantizer(int(sys.argv[2])))
done.set()
watcher.join()
print(max(most, held()) - before)
"""


@pytest.mark.parametrize(("bits", "share"), [(8, 0.65), (4, 0.45)])
def test_the_whole_base_is_never_in_memory(tmp_path: Path, bits: int, share: float) -> None:
    config = LlamaConfig(
        vocab_size=100, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=8
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(bits)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < share * size
