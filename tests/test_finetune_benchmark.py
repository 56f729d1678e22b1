"""The finetuning benchmark: the real command on a tiny model, the rows all methods share, and the sums it makes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import finetune
from benchmarks.peers import machine, methods, rows
from benchmarks.peers.methods import Method
from benchmarks.shapes import SHAPES, write_checkpoint
from neuralbot import modeling
from neuralbot.errors import UsageError

ROWS = [
    {"instruction": "Sort these.", "input": "pear, apple", "output": "apple, pear"},
    {"instruction": "Say hello.", "input": "", "output": "Hello."},
]


def command(output: Path, *arguments: str) -> int:
    common = ["--shape", "tiny", "--count", "16", "--repeats", "1", "--threads", "1", "--output", str(output)]
    return finetune.main([*common, *arguments])


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("benchmark") / "result.json"
    assert command(path, "--methods", "hf,neuralbot-reference,neuralbot") == 0
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_trainers_see_the_same_rows_in_the_same_order(result: dict[str, Any]) -> None:
    hf, reference, fast = (result["methods"][name] for name in ("hf", "neuralbot-reference", "neuralbot"))
    for key in ("tokens", "target_tokens"):
        assert hf[key] == reference[key] == fast[key] == result["data"][key]
    assert hf["computed_tokens"] == reference["computed_tokens"] > hf["tokens"] > fast["computed_tokens"]
    losses = hf["samples"][0]["losses"]
    assert hf["steps"] == len(losses) == 2
    assert abs(losses[0] / losses[1] - 1) > 1e-2, "the losses would be equal in any order, and show nothing"
    for own, bound in ((reference, 1e-3), (fast, 5e-3)):
        assert own["samples"][0]["losses"] == pytest.approx(losses, rel=bound)
        assert abs(own["loss_difference"]) < bound


def test_the_result_file_holds_what_its_readme_says(result: dict[str, Any]) -> None:
    readme = (methods.ROOT / "benchmarks" / "results" / "README.md").read_text()
    for found in (result, result["methods"]["hf"]):
        assert not [key for key in found if f"`{key}`" not in readme and key != "share_of_peak_is"]
    assert result["shape"]["name"] == "tiny"
    assert result["data"]["rows"] == 16
    assert result["data"]["rows_file"]["name"] == "train.json"
    assert result["settings"]["lora_modules"] == ["q_proj", "v_proj"]
    assert all(peak["bf16_gflops"] > 0 < peak["int8_gops"] for peak in result["matrix_product_peak"].values())
    assert set(result["onednn"]) == {"version", "isa", "bf16_product", "int8_product"}
    for name in ("hf", "neuralbot-reference"):
        method = result["methods"][name]
        assert 0 < method["train_s"]["min"] <= method["train_s"]["median"] <= method["train_s"]["max"]
        assert method["tokens_per_s"]["median"] == pytest.approx(
            method["tokens"] / method["train_s"]["median"], rel=0.01
        )
        assert 2**26 < method["rss_before_training_bytes"]["median"] <= method["peak_bytes"]["median"]
        assert method["threads"] == 1
        assert method["versions"].keys() >= {"python", "torch", "transformers", "peft"}
    assert result["methods"]["hf"]["speedup"] == result["methods"]["hf"]["peak_memory_ratio"] == 1
    assert "/tmp" not in json.dumps(result)


def test_a_method_that_fails_is_shown_as_such_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Method("neuralbot_trainer", options={"no_such_field": 1})
    monkeypatch.setitem(methods.METHODS, "broken", broken)
    assert command(tmp_path / "result.json", "--methods", "broken") == 1
    assert "no_such_field" in capsys.readouterr().out
    [sample] = json.loads((tmp_path / "result.json").read_text())["methods"]["broken"]["samples"]
    assert "no_such_field" in sample["error"]
    assert str(methods.ROOT) not in sample["error"]


def test_a_method_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path / "result.json", "--methods", "hf,fastest") == 2
    said = capsys.readouterr().err
    assert "'fastest'" in said
    assert all(name in said for name in methods.METHODS)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_told_before_the_hours_of_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "missing" / "result.json", "--methods", "hf") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_shape_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        finetune.main(["--shape", "llama-9b"])
    assert stopped.value.code == 2
    assert "llama-162m" in capsys.readouterr().err


@pytest.mark.parametrize("given", [(), ("--trl-python", "no/such/python")])
def test_a_peer_without_its_environment(
    given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "result.json", "--methods", "hf,trl", *given) == 2
    said = capsys.readouterr().err
    assert "pip install -r benchmarks/peers/trl-requirements.txt" in said
    assert "--trl-python" in said
    assert (methods.ROOT / "benchmarks" / "peers" / "trl-requirements.txt").is_file()
    assert (methods.ROOT / "neuralbot" / "itrex" / "requirements.txt").is_file()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "0 rows: expected a list of at least --count 16"),
        ('{"a": 1}', "a dict: expected a list"),
        ("[", "give a JSON list"),
        (json.dumps([{"instruction": 1, "output": "x"}] * 16), "row 1 is no Alpaca row"),
        (json.dumps([{"instruction": "a", "output": ""}] * 16), "row 1 has no instruction or no output"),
    ],
)
def test_a_file_of_rows_that_cannot_be_used(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.json").write_text(content)
    assert command(tmp_path / "result.json", "--rows", str(tmp_path / "rows.json")) == 2
    assert said in capsys.readouterr().err


def test_targets_are_the_answer_and_its_end(tmp_path: Path) -> None:
    special, size = rows.write_tokenizer(finetune.SHIPPED_TOKENIZER, tmp_path)
    tokenizer = rows.load_tokenizer(tmp_path)
    with_input, without = rows.tokenize(ROWS, tokenizer, special, 512)
    for row, text in ((with_input, ROWS[0]), (without, ROWS[1])):
        ids, targets = row["input_ids"], [label for label in row["labels"] if label != -100]
        assert ids[-len(targets) :] == targets
        assert targets[-1] == tokenizer.token_to_id(special["eos_token"])
        assert tokenizer.decode(targets) == text["output"]
        prompt = tokenizer.decode(ids[: -len(targets)])
        assert prompt.startswith("Below is an instruction that describes a task")
        assert prompt.endswith("\n\n### Response:\n")
        assert ("### Input:" in prompt) is ("### Input:\npear, apple\n" in prompt) is (text is ROWS[0])
    assert size == max(tokenizer.get_vocab().values()) + 1


def test_rows_are_cut_and_a_row_without_a_target_is_refused(tmp_path: Path) -> None:
    special, _ = rows.write_tokenizer(finetune.SHIPPED_TOKENIZER, tmp_path)
    tokenizer = rows.load_tokenizer(tmp_path)
    [whole] = rows.tokenize(ROWS[:1], tokenizer, special, 512)
    prompt = whole["labels"].count(-100)
    [cut] = rows.tokenize(ROWS[:1], tokenizer, special, prompt + 1)
    assert cut == {key: values[: prompt + 1] for key, values in whole.items()}
    with pytest.raises(UsageError, match="--max-length"):
        rows.tokenize(ROWS[:1], tokenizer, special, prompt)


def test_the_tokenizer_that_peers_load_is_the_one_given(tmp_path: Path) -> None:
    special, _ = rows.write_tokenizer(finetune.SHIPPED_TOKENIZER, tmp_path)
    given, copied = modeling.load_tokenizer(modeling.SEEDLING), modeling.load_tokenizer(str(tmp_path))
    text = "Sort: pear, apple.<|end|>\nüñ 12"
    assert given(text)["input_ids"] == copied(text)["input_ids"]
    assert (copied.eos_token, copied.pad_token) == (special["eos_token"], given.pad_token)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert all(isinstance(merge, str) for merge in merges), "tokenizers before 0.20 cannot read pairs"
    assert copied.model_input_names == ["input_ids", "attention_mask"]


def test_a_tokenizer_without_config_is_taken_for_llamas(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    def write(vocabulary: list[str]) -> Path:
        model = models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="?")
        Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
        return tmp_path

    (tmp_path / "copy").mkdir()
    special, size = rows.write_tokenizer(write(["?", "<s>", "</s>"]), tmp_path / "copy")
    assert (special, size) == ({"bos_token": "<s>", "eos_token": "</s>"}, 3)
    [row] = rows.tokenize(ROWS[:1], rows.load_tokenizer(tmp_path / "copy"), special, 512)
    assert (row["input_ids"][0], row["labels"][0], row["labels"][-1]) == (1, -100, 2)
    with pytest.raises(UsageError, match=r"'</s>' is not in its vocabulary; add a tokenizer_config\.json"):
        rows.write_tokenizer(write(["?", "<s>"]), tmp_path / "copy")


def test_a_checkpoint_is_whole_and_counted(tmp_path: Path) -> None:
    import torch

    shape = SHAPES["tiny"]
    write_checkpoint(shape, 100, tmp_path)
    model = modeling.load_base(str(tmp_path), torch.bfloat16)
    assert model.num_parameters() - model.get_input_embeddings().weight.numel() == shape.parameters(100)
    assert model.config.rope_parameters["rope_theta"] == 10000.0
    assert model.lm_head.weight.float().std().item() == pytest.approx(shape.std, rel=0.05)
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(("name", "millions"), [("llama-162m", 162.4), ("llama-1.1b", 1100.0), ("llama-7b", 6738.4)])
def test_shapes_have_the_size_of_their_name(name: str, millions: float) -> None:
    shape = SHAPES[name]
    embeddings = math.prod(next(iter(next(shape.shards(shape.vocab)).values())))
    assert (shape.parameters(shape.vocab) + embeddings) / 1e6 == pytest.approx(millions, abs=0.1)


def test_onednns_words_are_read() -> None:
    output = (
        "onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71)\n"
        "onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with Intel DL Boost and bfloat16 support\n"
        "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core_bf16,undef,src:bf16\n"
        "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:bf16\n"
        f"{machine._MARK}\n"
        "onednn_verbose,v1,primitive,exec,cpu,gemm_api,,undef,src_s8::blocked:ab:f0\n"
    )
    assert machine.read_onednn(output) == {
        "version": "3.12.0", "isa": "Intel AVX-512 with Intel DL Boost and bfloat16 support",
        "bf16_product": "brg_matmul:avx512_core_bf16", "int8_product": "gemm_api",
    }  # fmt: skip
    bf16_only = machine.read_onednn(output.partition("onednn_verbose,v1,primitive,exec,cpu,gemm_api")[0])
    assert (bf16_only["bf16_product"], bf16_only["int8_product"]) == ("brg_matmul:avx512_core_bf16", None)
    nothing = {"version": None, "isa": None, "bf16_product": None, "int8_product": None}
    assert machine.read_onednn(f"{machine._MARK}\n") == nothing


def sample(train_s: float, losses: list[float], peak: int) -> dict[str, Any]:
    return {
        "train_s": train_s, "load_s": 1.0, "losses": losses, "tokens": 1200, "target_tokens": 600,
        "computed_tokens": 1500, "tokens_per_s": 1200 / train_s, "target_tokens_per_s": 600 / train_s,
        "rss_before_training_bytes": 5, "peak_bytes": peak, "threads": 2, "versions": {},
    }  # fmt: skip


def test_medians_ratios_and_the_last_quarter() -> None:
    taken = {
        "hf": [sample(seconds, [9.0, 8.0, 7.0, 6.0, 5.0, 5.0, 4.0, 2.0], 100) for seconds in (10.0, 40.0, 12.0)],
        "trl": [sample(3.0, [9.0, 8.0, 7.0, 3.3], 50), {"error": "killed"}],
        "itrex": [{"error": "killed"}],
    }
    found = finetune.summary(taken, flops_per_token=10, peak_flops=4000.0)
    assert found["hf"]["train_s"] == {"median": 12.0, "min": 10.0, "max": 40.0}
    assert found["hf"]["last_losses"] == 3.0
    assert found["hf"]["share_of_peak"] == 0.25
    assert (found["trl"]["speedup"], found["trl"]["peak_memory_ratio"]) == (4.0, 0.5)
    assert found["trl"]["loss_difference"] == pytest.approx(0.1)
    assert found["itrex"]["samples"] == taken["itrex"]
    assert "train_s" not in found["itrex"]
    lines = finetune.table(found).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["hf", "12.0"], ["trl", "3.0"], ["itrex", "failed"]]
    assert "4.00x" in lines[2]
    assert "+10.00%" in lines[2]
    assert "speedup" not in finetune.summary({"trl": taken["trl"]}, flops_per_token=1, peak_flops=1.0)["trl"]


def test_the_parts_of_a_step_add_up(tmp_path: Path) -> None:
    output = tmp_path / "profile.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_profile", "--shape", "tiny", "--count", "8", "--base", "int8",
         "--output", str(output)],
        cwd=methods.ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["profile"]
    apart = {name: value for name, value in found["parts"].items() if name not in found["inside_products"]}
    assert {"product qkv.forward", "product down.backward", "kernel.attention_backward"} < apart.keys()
    assert sum(apart.values()) + found["left"] == pytest.approx(found["seconds"], abs=0.02)
    assert 0 < found["left"] < found["seconds"]
