"""Loading: each kind of folder, adapters merged without loss, and a plain message for each thing that is wrong."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import CPTConfig, LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from neuralbot import merging, modeling
from neuralbot.errors import ModelError

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture
def base_folder(tmp_path: Path, tiny_model: PreTrainedModel, tiny_tokenizer: Any) -> Path:
    folder = tmp_path / "base"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base_folder: Path, folder: Path, **lora: Any) -> PeftModel:
    """A LoRA adapter whose B matrices are random, as after training, saved in `folder`."""
    base = LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(input_ids=IDS).logits.float()
    return result


def test_an_adapter_changes_the_answer_exactly_as_it_does_unmerged(base_folder: Path, tmp_path: Path) -> None:
    unmerged = make_adapter(base_folder, tmp_path / "run")
    loaded = modeling.load_for_chat(str(tmp_path / "run"), torch.float32)
    assert not isinstance(loaded.model, PeftModel)
    assert not any("lora" in name for name, _ in loaded.model.named_modules())
    torch.testing.assert_close(logits(loaded.model), logits(unmerged), atol=1e-5, rtol=1e-5)
    assert (logits(loaded.model) - logits(modeling.load_base(str(base_folder), torch.float32))).abs().max() > 0.05
    assert (loaded.base_name, loaded.serving) == (str(base_folder), {})
    assert loaded.tokenizer.chat_template


def test_merging_rounds_once(base_folder: Path, tmp_path: Path) -> None:
    make_adapter(base_folder, tmp_path / "run")
    exact = modeling.load_for_chat(str(tmp_path / "run"), torch.float32).model
    rounded = modeling.load_for_chat(str(tmp_path / "run"), torch.bfloat16).model
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}
    for name, parameter in exact.named_parameters():
        assert torch.equal(rounded.get_parameter(name), parameter.to(torch.bfloat16)), name


def test_an_adapter_can_be_put_on_a_named_base(base_folder: Path, tmp_path: Path) -> None:
    unmerged = make_adapter(base_folder, tmp_path / "run")
    loaded = modeling.load_for_chat(str(base_folder), torch.float32, peft_path=str(tmp_path / "run"))
    torch.testing.assert_close(logits(loaded.model), logits(unmerged), atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="cannot go on top"):
        modeling.load_for_chat(str(tmp_path / "run"), torch.float32, peft_path=str(tmp_path / "run"))


def test_an_adapter_with_its_own_embeddings_brings_its_vocabulary(base_folder: Path, tmp_path: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    base.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
    names = ["embed_tokens", "lm_head"]
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=names, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "run", save_embedding_layers=False)
    loaded = modeling.load_for_chat(str(tmp_path / "run"), torch.float32)
    assert loaded.model.get_input_embeddings().weight.shape[0] == base.config.vocab_size
    torch.testing.assert_close(logits(loaded.model), logits(model.eval()))


@pytest.mark.parametrize("name", ["seedling", "/gone/site-packages/neuralbot/seedling"])
def test_seedling_is_found_by_name_and_in_another_installation(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unmerged = make_adapter(base_folder, tmp_path / "run")
    edit_json(tmp_path / "run" / "adapter_config.json", base_model_name_or_path=name)
    monkeypatch.setattr(modeling, "__file__", str(tmp_path / "modeling.py"))
    shutil.copytree(base_folder, tmp_path / "seedling")
    loaded = modeling.load_for_chat(str(tmp_path / "run"), torch.float32)
    assert loaded.base_name == "seedling"
    torch.testing.assert_close(logits(loaded.model), logits(unmerged), atol=1e-5, rtol=1e-5)


def test_a_full_run_folder_brings_its_serving_settings(base_folder: Path) -> None:
    (base_folder / "serving.json").write_text('{"temperature": 0.5, "stop": ["END"]}')
    loaded = modeling.load_for_chat(str(base_folder), torch.float32)
    assert loaded.serving == {"temperature": 0.5, "stop": ["END"]}


def test_tied_weights_survive(tmp_path: Path, tiny_tokenizer: Any) -> None:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(modeling.load_base(str(tmp_path), torch.float32)), logits(model))


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_base(folder: Path, tiny_tokenizer: Any) -> None:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)


def test_an_adapter_for_another_base_is_refused_with_both_names(
    base_folder: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    make_adapter(base_folder, tmp_path / "run")
    other_base(tmp_path / "other", tiny_tokenizer)
    with pytest.raises(ModelError) as error:
        modeling.load_for_chat(str(tmp_path / "other"), torch.float32, peft_path=str(tmp_path / "run"))
    assert str(tmp_path / "run") in str(error.value) and str(tmp_path / "other") in str(error.value)


def test_an_adapter_that_lacks_tensors_is_refused(base_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_adapter(base_folder, tmp_path / "run")
    weights = tmp_path / "run" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors["base_model.model.model.layers.9.lora_A.weight"] = tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"does not fit the base .*: 2 tensors differ"):
        modeling.load_for_chat(str(tmp_path / "run"), torch.float32)


def test_adapters_that_can_neither_be_merged_nor_served_are_refused(base_folder: Path, tmp_path: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(base_folder)
    config = CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[5, 6], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 1])
    get_peft_model(base, config).save_pretrained(tmp_path / "run", save_embedding_layers=False)
    with pytest.raises(ModelError, match="CPT, which cannot be served"):
        modeling.load_for_chat(str(tmp_path / "run"), torch.float32)


def remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN_MODELS: dict[str, tuple[Any, str]] = {
    "no config": (remove("config.json"), "has no config.json"),
    "no weights": (
        remove("model.safetensors"),
        r"has no \*.safetensors; only this format is read: get the model again",
    ),
    "pickle": (only_pickle, "pickled weights.*refused"),
    "no tokenizer": (remove("tokenizer.json"), "has no tokenizer"),
    "cut weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 20), "cannot load the model"),
    "lost tensor": (lose_a_tensor, "incomplete: 1 tensors.*layers.1.mlp.up_proj.weight"),
    "other shape": (lambda folder: edit_json(folder / "config.json", intermediate_size=7), "incomplete|cannot load"),
    "unknown type": (lambda folder: edit_json(folder / "config.json", model_type="nonsense"), "cannot load the model"),
    "bad serving": (lambda folder: (folder / "serving.json").write_text("[1]"), "serving.json holds a list"),
    "unknown serving key": (lambda folder: (folder / "serving.json").write_text('{"temp": 1}'), "unknown key 'temp'"),
}


@pytest.mark.parametrize("fault", BROKEN_MODELS)
def test_broken_model_folders_are_named(base_folder: Path, fault: str) -> None:
    damage, message = BROKEN_MODELS[fault]
    damage(base_folder)
    with pytest.raises(ModelError, match=message):
        modeling.load_for_chat(str(base_folder), torch.float32)


BROKEN_ADAPTERS: dict[str, tuple[Any, str]] = {
    "no weights": (remove("adapter_model.safetensors"), "has no adapter_model.safetensors"),
    "no base": (
        lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path=None),
        "names no base model",
    ),
    "base gone": (
        lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path="/nowhere/base"),
        "no folder /nowhere/base",
    ),
    "not json": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
    "cut weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 9),
        "cannot load the adapter",
    ),
}


@pytest.mark.parametrize("fault", BROKEN_ADAPTERS)
def test_broken_adapter_folders_are_named(base_folder: Path, tmp_path: Path, fault: str) -> None:
    make_adapter(base_folder, tmp_path / "run")
    damage, message = BROKEN_ADAPTERS[fault]
    damage(tmp_path / "run")
    with pytest.raises(ModelError, match=message):
        modeling.load_for_chat(str(tmp_path / "run"), torch.float32)


def test_code_beside_a_model_never_runs(base_folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (base_folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlamaConfig as EvilConfig, LlamaForCausalLM as EvilModel\n"
    )
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    edit_json(base_folder / "config.json", auto_map=names, trust_remote_code=True)
    modeling.load_for_chat(str(base_folder), torch.float32)  # a known model type: loads without the code
    edit_json(base_folder / "config.json", model_type="evil")
    with pytest.raises(ModelError):
        modeling.load_for_chat(str(base_folder), torch.float32)
    assert not marker.exists()


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "alpaca").mkdir(parents=True)
    (tmp_path / "file.json").touch()
    assert modeling.resolve_model("runs/alpaca") == str(tmp_path / "runs" / "alpaca")
    assert modeling.resolve_model("mistralai/Mistral-7B-v0.1") == "mistralai/Mistral-7B-v0.1"
    assert modeling.resolve_model("gpt2") == "gpt2"
    assert Path(modeling.resolve_model("seedling")).parts[-2:] == ("neuralbot", "seedling")
    for name, message in {
        "runs/alpcaa": "did you mean runs/alpaca",
        "./nothing": "no folder ./nothing",
        "file.json": "is a file",
        "": "is no model",
        "a b": "is no model",
        "../../etc/passwd/x": "no folder",
        "x/../y": "no folder",
        "nul\0": "is no model",
    }.items():
        with pytest.raises(ModelError, match=message):
            modeling.resolve_model(name)


def test_merging_leaves_a_plain_model_as_it_is(tiny_model: PreTrainedModel) -> None:
    plain = copy.deepcopy(tiny_model)
    torch.testing.assert_close(logits(merging.merged(plain, torch.float32)), logits(tiny_model))
