"""peft's methods that learn a prompt: each is trained by a recipe, saved, loaded again, and answers the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FalconConfig, GPTNeoXConfig, MptConfig, PreTrainedModel

from neuralbot import finetune, recipe
from neuralbot.arguments import VIRTUAL_TOKENS, FinetuningArguments
from neuralbot.conversation import Encoded
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.engines.virtual_tokens import without_adapter
from neuralbot.errors import DataError, GenerationError, ModelError
from neuralbot.evaluation import likelihood
from neuralbot.modeling import load_for_chat
from neuralbot.training import adapter

METHODS = (*VIRTUAL_TOKENS, "llama_adapter")
GREEDY = Sampling(do_sample=False, max_new_tokens=8, repetition_penalty=1.0)
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
SMALL = {"ptun_hidden_size": 32, "num_virtual_tokens": 4}
DATA = Path(__file__).parents[2] / "data/alpaca"


def write_recipe(folder: Path, base: Path, **sections: dict[str, Any]) -> Path:
    whole: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": str(base)},
        "data": {
            "train_file": str(DATA / "train.json"), "validation_file": str(DATA / "validation.json"),
            "max_train_samples": 24, "max_eval_samples": 8,
        },
        "finetuning": SMALL,
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 8, "per_device_train_batch_size": 8, "logging_steps": 4,
            "lr_scheduler_type": "constant", "bf16": True,
            "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
            "load_best_model_at_end": True,
        },
    }  # fmt: skip
    for section, keys in sections.items():
        whole[section] = whole.get(section, {}) | keys
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tuned(
    method: str, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[finetune.FinetuneResult, list[list[int]]]:
    """A run, and what the trained model in memory answered at its end."""
    folder = tmp_path_factory.mktemp(method)
    answers: list[list[int]] = []
    with pytest.MonkeyPatch.context() as patch:
        # the one place where a run holds the trained model: its last evaluation
        def note(prepared: Any, load: Any, when: str, console: Any) -> None:
            if when == "after tuning":
                answers.extend(TorchEngine(load(), prepared.tokenizer).generate_batch(PROMPTS, GREEDY))

        patch.setattr(finetune, "_evaluate", note)
        # p-tuning's encoder is settled at the rate that the others need, and then its input hardly matters
        rate = {"learning_rate": 0.003 if method == "ptun" else 0.3}
        result = finetune.run(recipe.load(write_recipe(folder, base, finetuning={"peft": method}, training=rate)))
    return result, answers


def manifest_of(result: finetune.FinetuneResult) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((result.run_dir / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def test_the_run_says_how_it_trained(method: str, tuned: tuple[finetune.FinetuneResult, Any]) -> None:
    result, _ = tuned
    manifest = manifest_of(result)
    assert manifest["method"] == method
    assert manifest["plan"]["dtype"] == "bfloat16"
    assert manifest["kernels"] == "reference"
    assert "it trains LoRA adapters, and this run trains" in manifest["kernels_reason"]
    clamped = "finetuning.adapter_layers=30: the model has 2 layers, and each gets an adapter"
    assert (clamped in manifest["notices"]) == (method == "llama_adapter")
    card = (result.run_dir / "README.md").read_text(encoding="utf-8")
    assert "AutoPeftModelForCausalLM" in card
    assert {"ptun": "p-tuning", "prefix": "prefix tuning", "prompt": "prompt tuning"}.get(
        method, "LLaMA-Adapter"
    ) in card


def test_weights_are_kept_in_full_precision(tuned: tuple[finetune.FinetuneResult, Any]) -> None:
    weights = load_file(tuned[0].run_dir / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_best_weights_are_kept(tuned: tuple[finetune.FinetuneResult, Any]) -> None:
    """The loss at the end, of weights that were saved and read again, is the best one logged on the way."""
    result, _ = tuned
    lines = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    during = [json.loads(line)["eval_loss"] for line in lines if "eval_loss" in line][1:-1]
    assert result.metrics["eval_loss"] == pytest.approx(min(during), abs=1e-4)


def test_it_answers_the_same_after_loading(base: Path, tuned: tuple[finetune.FinetuneResult, Any]) -> None:
    result, answers = tuned
    loaded = load_for_chat(str(result.run_dir), torch.bfloat16)
    assert TorchEngine(loaded.model, loaded.tokenizer).generate_batch(PROMPTS, GREEDY) == answers
    untuned = TorchEngine(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), loaded.tokenizer)
    assert untuned.generate_batch(PROMPTS, GREEDY) != answers


def plain_peft(base: Path, run: Path) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run).eval()


@pytest.mark.parametrize("beams", [1, 3])
def test_it_answers_as_plain_peft_does(base: Path, tuned: tuple[finetune.FinetuneResult, Any], beams: int) -> None:
    run = tuned[0].run_dir
    loaded, plain = load_for_chat(str(run), torch.float32), plain_peft(base, run)
    engine = TorchEngine(loaded.model, loaded.tokenizer)
    sampling = Sampling(do_sample=False, max_new_tokens=8, repetition_penalty=1.0, num_beams=beams)
    for prompt, answer in zip(PROMPTS, engine.generate_batch(PROMPTS, sampling), strict=True):
        ids = torch.tensor([prompt])
        expected = plain.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, num_beams=beams
        )
        assert answer == [token for token in expected[0, len(prompt) :].tolist() if token not in engine.end_ids]
        if beams == 1:
            assert list(engine.stream(prompt, sampling)) == answer


def test_it_finds_texts_as_likely_as_plain_peft_does(base: Path, tuned: tuple[finetune.FinetuneResult, Any]) -> None:
    run = tuned[0].run_dir
    loaded, plain = load_for_chat(str(run), torch.float32), plain_peft(base, run)
    rows = [Encoded(list(range(5, 5 + length)), [place > 2 for place in range(length)]) for length in (9, 14, 5)]
    found = likelihood.of_engine(TorchEngine(loaded.model, loaded.tokenizer), rows, 3)
    for row, one in zip(rows, found, strict=True):
        ids = torch.tensor([row.ids])
        labels = torch.where(torch.tensor([row.target_mask]), ids, -100)
        with torch.inference_mode():
            expected = float(plain(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss)
        assert -one.log_probability / one.targets == pytest.approx(expected, rel=1e-4)


def test_its_tokens_take_room_in_the_context(
    method: str, base: Path, tuned: tuple[finetune.FinetuneResult, Any]
) -> None:
    loaded = load_for_chat(str(tuned[0].run_dir), torch.float32)
    engine = TorchEngine(loaded.model, loaded.tokenizer)
    assert engine.context_length == 512 - (4 if method in VIRTUAL_TOKENS else 0)
    longest = [5] * (engine.context_length - 1)
    assert len(engine.generate_batch([longest], GREEDY)[0]) <= 1
    with pytest.raises(GenerationError):
        engine.generate_batch([[*longest, 5]], GREEDY)


def test_too_many_virtual_tokens_are_told(base: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, base, finetuning={"peft": "prompt", "num_virtual_tokens": 511})
    with pytest.raises(ModelError, match=r"num_virtual_tokens=511 leaves no room.*512 tokens"):
        finetune.run(recipe.load(path))
    path = write_recipe(tmp_path, base, finetuning={"peft": "prompt", "num_virtual_tokens": 500})
    with pytest.raises(DataError, match="max_seq_length=12"):
        finetune.run(recipe.load(path))


@pytest.mark.parametrize("peft", ["ptun", "prompt", "llama_adapter"])
def test_checkpointing_changes_nothing(base: Path, tmp_path: Path, peft: str) -> None:
    losses = []
    for checkpointing in (False, True):
        (tmp_path / str(checkpointing)).mkdir()
        training = {"learning_rate": 0.1, "gradient_checkpointing": checkpointing, "max_steps": 4}
        path = write_recipe(tmp_path / str(checkpointing), base, finetuning={"peft": peft}, training=training)
        losses.append(finetune.run(recipe.load(path)).metrics["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


FALCON: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("peft", VIRTUAL_TOKENS)
@pytest.mark.parametrize(
    "config",
    [
        FalconConfig(**FALCON, multi_query=True, bos_token_id=1, eos_token_id=2),
        GPTNeoXConfig(**FALCON, intermediate_size=64, bos_token_id=1, eos_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
def test_an_engine_starts_from_what_peft_puts_before_the_text(config: Any, peft: str) -> None:
    tuning = FinetuningArguments(peft=peft, num_virtual_tokens=3, ptun_hidden_size=8)
    model = adapter.add_adapter(AutoModelForCausalLM.from_config(config), tuning, seed=1).eval()
    base, virtual = without_adapter(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        found = base(input_ids=ids, past_key_values=virtual.cache(1), use_cache=True).logits[:, -1]
        assert (found - base(input_ids=ids).logits[:, -1]).abs().max() > 1e-3
    torch.testing.assert_close(found, expected)


def check(model: PreTrainedModel, method: str) -> tuple[str, ...]:
    return adapter.check(model, FinetuningArguments(peft=method))


def test_families_that_a_method_does_not_know_are_told_which_do() -> None:
    neox = AutoModelForCausalLM.from_config(GPTNeoXConfig(**FALCON, intermediate_size=64))
    with pytest.raises(
        ModelError, match=r"llama_adapter cannot train gpt_neox.*peft to lora or ptun or prefix or prompt"
    ):
        check(neox, "llama_adapter")
    assert check(neox, "prefix") == ()
    mpt = AutoModelForCausalLM.from_config(MptConfig(vocab_size=97, d_model=32, n_layers=1, n_heads=2))
    with pytest.raises(ModelError, match=r"prompt cannot train mpt.*set finetuning.peft to lora$"):
        check(mpt, "prompt")
    assert check(mpt, "lora") == ()


def test_an_assistant_changes_nothing(base: Path, tuned: tuple[finetune.FinetuneResult, Any]) -> None:
    loaded = load_for_chat(str(tuned[0].run_dir), torch.float32)
    assistant = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    alone, assisted = (
        TorchEngine(loaded.model, loaded.tokenizer),
        TorchEngine(loaded.model, loaded.tokenizer, assistant),
    )
    for prompt in PROMPTS:
        assert list(assisted.stream(prompt, GREEDY)) == list(alone.stream(prompt, GREEDY))
