"""The benchmark of answering: the real command on a tiny model, the prompts all methods share, the sums it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import generate
from benchmarks.generation import prompts
from benchmarks.generation.job import Prompts, Stream, rate_together
from benchmarks.peers import machine
from neuralbot import modeling
from neuralbot.engines import export
from neuralbot.errors import UsageError

RATES = ("prefill_tokens_per_s", "decode_tokens_per_s")


def command(output: Path, *arguments: str) -> int:
    return generate.main(["--quick", "--rounds", "1", "--threads", "1", "--output", str(output), *arguments])


def measured(output: Path, names: str, work: Path) -> dict[str, Any]:
    assert command(output, "--methods", names, "--work", str(work)) == 0
    content: dict[str, Any] = json.loads(output.read_text())
    return content


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plain")
    return measured(folder / "result.json", "transformers,neuralbot-torch", folder)


def test_all_methods_measure_the_same_things(plain: dict[str, Any]) -> None:
    for own in plain["methods"].values():
        for rate in RATES:
            assert 0 < own[rate]["min"] <= own[rate]["median"] <= own[rate]["max"]
        assert own["cold_first_token_s"]["median"] > 0 < own["warm_first_token_s"]["median"]
        assert 0 < own["share_of_bandwidth"] < 1
        assert own["versions"]["torch"]
        assert len(own["samples"]) == 1
    assert plain["methods"]["transformers"]["many_tokens_per_s"]["median"] > 0
    assert "many_tokens_per_s" not in plain["methods"]["neuralbot-torch"]
    assert "llama.cpp" in plain["not_measured"]
    assert all(rate > 1 for found in plain["bandwidth_gb_per_s"] for rate in found.values())


def test_the_result_file_holds_what_its_readme_says(plain: dict[str, Any]) -> None:
    readme = (generate.methods.ROOT / "benchmarks" / "results" / "README.md").read_text()
    own = plain["methods"]["transformers"]
    for found in (plain, own, own["samples"][0]):
        assert not [key for key in found if f"`{key}`" not in readme]
    assert "/tmp" not in json.dumps(plain)


def test_a_chatbot_gives_the_tokens_that_genai_gives(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if (name := export.missing()) is not None:
        pytest.skip(f"{name} is not installed")
    cache: Any = request.config.cache
    found = measured(tmp_path / "result.json", "neuralbot-int8,genai-int8", cache.mkdir("generate-benchmark"))
    ours, raw = (found["methods"][name] for name in ("neuralbot-int8", "genai-int8"))
    assert ours["same_tokens_as_genai"] is True
    assert ours["bytes_per_token"] == raw["bytes_per_token"] > 0
    for rate in RATES:
        assert ours["against_genai"][rate] == pytest.approx(ours[rate]["median"] / raw[rate]["median"], rel=0.01)


def test_a_method_that_fails_is_shown_as_such_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(generate.METHODS, "broken", generate.Method("chatbot", "bf16", "no_such_engine"))
    assert command(tmp_path / "result.json", "--methods", "broken", "--work", str(tmp_path)) == 1
    assert "no_such_engine" in capsys.readouterr().out
    [sample] = json.loads((tmp_path / "result.json").read_text())["methods"]["broken"]["samples"]
    assert "no_such_engine" in sample["error"]
    assert str(generate.methods.ROOT) not in sample["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "fastest"], "there is no 'fastest'"),
        (["--methods", "llama.cpp-int4"], "pip install llama-cpp-python gguf"),
        (["--methods", "itrex"], "neuralbot itrex setup"),
        (["--output", "no/such/folder/result.json"], "there is no such folder"),
        (["--quick"], "--quick measures nothing worth keeping"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_prompts_have_the_length_that_was_asked_for_and_begin_apart(tmp_path: Path) -> None:
    tokenizer = modeling.load_tokenizer(modeling.SEEDLING)
    prompts.write(tmp_path / "prompts.json", tokenizer, generate.SHIPPED_ROWS, length=96, system=300, many=4)
    made = Prompts.read(tmp_path / "prompts.json")
    apart = [made.warm_up, *made.singles, *made.many]
    assert [len(prompt.ids) for prompt in apart] == [96] * 7
    block = 32  # tokens that GenAI remembers together
    assert len({tuple(prompt.ids[:block]) for prompt in apart}) == 7
    assert made.cold.ids[:300] == made.warm.ids[:300]
    assert made.cold.ids != made.warm.ids
    with pytest.raises(UsageError, match="take another number"):
        prompts.write(tmp_path / "prompts.json", tokenizer, generate.SHIPPED_ROWS, length=1, system=300, many=4)


def test_streams_count_while_all_of_them_decode() -> None:
    early = Stream([1, 2, 3, 4], [0.0, 1.0, 2.0, 3.0])
    late = Stream([1, 2, 3, 4], [1.5, 2.5, 3.5, 4.5])
    assert rate_together([early]) == 1.0
    assert rate_together([early, late]) == pytest.approx(3 / 1.5)  # at 2, 2.5 and 3 of the time from 1.5 to 3
    assert rate_together([early, Stream([1, 2], [3.0, 4.0])]) is None


def test_openvinos_words_are_read() -> None:
    output = (
        "onednn_verbose,v1,info,oneDNN v3.13.0 (commit 1289c3b)\n"
        "onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with Intel DL Boost and bfloat16 support\n"
        "onednn_verbose,v1,primitive,exec,cpu,inner_product,brgemm:avx512_core_vnni,forward_inference,src:bf16\n"
        "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx2,undef,src:f32\n"
    )
    assert machine.read_openvino(output) == {
        "version": "3.13.0", "isa": "Intel AVX-512 with Intel DL Boost and bfloat16 support",
        "linear_layers": ["brgemm:avx512_core_vnni"],
    }  # fmt: skip
