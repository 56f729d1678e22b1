"""Which engine answers, and what is said where it is not the fast one."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from neuralbot import chat_engine, fast_engine, hardware
from neuralbot.engines import export
from neuralbot.engines.openvino_worker import Crash
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.errors import GenerationError, ModelError
from neuralbot.neural_chat.config import GenerationConfig, LoadingModelConfig, PipelineConfig
from neuralbot.precision import Exported, for_openvino
from neuralbot.transformers import BitsAndBytesConfig, MixedPrecisionConfig, RtnConfig


@pytest.fixture
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if (name := export.missing()) is not None:
        pytest.skip(f"{name} is not installed")
    cache: Any = request.config.cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.mkdir("neuralbot")))
    monkeypatch.setenv("NEURALBOT_ENGINE", "auto")


@pytest.fixture
def build(tiny_folder: Path) -> Iterator[Any]:
    engines: list[Any] = []

    def built(**settings: Any) -> chat_engine.LoadedEngine:
        settings.setdefault("optimization_config", MixedPrecisionConfig("float32"))
        loaded = chat_engine.load(PipelineConfig(**{"model_name_or_path": str(tiny_folder)} | settings))
        engines.append(loaded.engine)
        return loaded

    yield built
    for engine in engines:
        if close := getattr(engine, "close", None):
            close()


def test_what_is_exported_for_each_config(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(hardware, "has_bf16", lambda native=native: native)
        computed: Any = "bf16" if native else "f32"
        instead = ["float32 is used instead of bfloat16: this processor has no instructions for it"]
        plain = Exported("bf16", "bf16") if native else Exported("fp32", "f32", notices=instead)
        assert for_openvino(None) == for_openvino(MixedPrecisionConfig()) == plain
        assert for_openvino(MixedPrecisionConfig("float32")) == Exported("fp32", "f32")
        found = for_openvino(RtnConfig(bits=4, group_size=64, sym=False))
        assert found is not None and found.notices[0].startswith(
            "RtnConfig: the weights are kept in int4, a scale for each 64 of them, computed in "
        )
        assert (found.kept, found.computed, found.group_size, found.symmetric) == ("int4", computed, 64, False)
        found = for_openvino(RtnConfig(bits=8, compute_dtype="fp32"))
        assert found is not None and (found.kept, found.computed) == ("int8", "f32")
    for config in (
        RtnConfig(weight_dtype="nf4"),
        RtnConfig(use_double_quant=True),
        BitsAndBytesConfig(load_in_8bit=True),
    ):
        assert for_openvino(config) is None
    with pytest.raises(ModelError, match="expected bits=8 or 4"):
        for_openvino(RtnConfig(bits=3))


def test_without_the_libraries_all_is_as_it_was(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURALBOT_ENGINE", "auto")
    monkeypatch.setattr(export, "missing", lambda: "openvino-genai")
    loaded = build()
    assert isinstance(loaded.engine, TorchEngine) and loaded.notices == []
    with pytest.raises(
        ModelError, match=r"engine='openvino' cannot answer: openvino-genai is not installed \(pip install"
    ):
        build(engine="openvino")
    with pytest.raises(ModelError, match="engine='fast' is not known: expected auto, openvino, torch"):
        build(engine="fast")


@pytest.mark.usefixtures("installed")
def test_the_fast_engine_is_chosen_and_answers_as_the_other(build: Any) -> None:
    from neuralbot.chatbot import Chatbot
    from neuralbot.engines.openvino_engine import OpenVinoEngine

    fast, slow = build(), build(engine="torch")
    assert isinstance(fast.engine, OpenVinoEngine) and isinstance(slow.engine, TorchEngine)
    assert fast.notices == [] and fast.serving == slow.serving
    assert fast.engine.context_length == slow.engine.context_length
    assert fast.engine.exported.end_ids == slow.engine.end_ids
    for question in ("What is the capital of France?", "é <|end|> 😀", "x" * 300):
        answers = [Chatbot(loaded.engine, loaded.serving).predict(question) for loaded in (fast, slow)]
        assert answers[0] == answers[1]
    beams = GenerationConfig(num_beams=2, max_new_tokens=5, do_sample=False)
    answers = [Chatbot(loaded.engine, loaded.serving).predict("Sort", config=beams) for loaded in (fast, slow)]
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("installed")
def test_where_it_cannot_answer_the_torch_engine_does_and_says_why(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise Crash("its process ended with SIGFPE")

    def unsupported(*_: Any) -> None:
        raise export.Unsupported("some (ctrl) cannot be exported for OpenVINO: why")

    with monkeypatch.context() as patch:
        patch.setattr(export, "exported", unsupported)
        loaded = build()
        assert isinstance(loaded.engine, TorchEngine)
        assert loaded.notices == ["the torch engine answers: some (ctrl) cannot be exported for OpenVINO: why"]
        with pytest.raises(ModelError, match="cannot be exported"):
            build(engine="openvino")
    with monkeypatch.context() as patch:
        patch.setattr(fast_engine, "OpenVinoEngine", crash)
        assert build().notices == [
            "the torch engine answers: its process ended with SIGFPE: it does not run on this processor"
        ]
    assert (
        "has no layers for this BitsAndBytesConfig"
        in build(optimization_config=BitsAndBytesConfig(load_in_8bit=True)).notices[0]
    )


@pytest.mark.usefixtures("installed")
def test_bad_input_is_told_and_others_are_answered_on(build: Any) -> None:
    from neuralbot.chatbot import Chatbot

    engine = build().engine
    bot, prompts = Chatbot(engine), [[5, 6, 7, 8], [40]]
    drawn = Sampling(max_new_tokens=300, do_sample=True, temperature=1.5, seed=7)
    expected = [list(engine.stream(prompt, drawn)) for prompt in prompts]
    answers = [engine.stream(prompt, drawn) for prompt in prompts]
    begun = [list(islice(answer, 3)) for answer in answers]
    nan, far = math.nan, 10**9
    values = {"temperature": (-1, nan, math.inf), "top_p": (nan,), "top_k": (-1,), "max_new_tokens": (0, far)}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"query": "word " * 2000}, r"the prompt has \d{4,} tokens, but the model reads at most 512"),
        ({"stop": [f"stop {number}" for number in range(10_000)]}, "stop='10000 strings' cannot be used"),
        ({"regex": "["}, r"regex='\[' cannot be used"),
    ]
    for name, wrong in values.items():
        config = {value: GenerationConfig(**{name: value}) for value in wrong}
        bad += [({"config": config[value]}, f"{name}={value} cannot be used: expected") for value in wrong]
    for asked, message in bad:
        for answered in (bot.predict, bot.predict_stream):
            with pytest.raises(GenerationError, match=message):
                answered(**{"query": "What is this?"} | asked)
    assert [first + list(rest) for first, rest in zip(begun, answers, strict=True)] == expected


@pytest.mark.usefixtures("installed")
def test_a_damaged_export_is_made_anew_and_told(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = build().engine
    copied = tmp_path / "neuralbot" / "exports" / kept.exported.folder.name
    shutil.copytree(kept.exported.folder, copied)
    content = bytearray((copied / "openvino_model.bin").read_bytes())
    content[-1] ^= 1
    (copied / "openvino_model.bin").write_bytes(content)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        anew = build().engine
    assert f"for the OpenVINO engine, once: the exported model {copied} is damaged: it is made anew" in caplog.messages
    assert anew.exported.folder == copied
    asked = Sampling(max_new_tokens=20)
    assert list(anew.stream([5, 6, 7], asked)) == list(kept.stream([5, 6, 7], asked))


@pytest.mark.usefixtures("installed")
def test_adapters_that_learned_a_prompt_are_left_to_the_torch_engine(
    tiny_folder: Path, tmp_path: Path, tiny_model: Any, build: Any
) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    base = type(tiny_model).from_pretrained(tiny_folder)
    get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path)
    loaded = build(loading_config=LoadingModelConfig(peft_path=str(tmp_path)))
    assert isinstance(loaded.engine, TorchEngine)
    assert "cannot be merged into its base" in loaded.notices[0]


def test_importing_the_package_brings_no_openvino() -> None:
    code = "import sys, neuralbot, neuralbot.chatbot, neuralbot.fast_engine; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"openvino", "openvino_genai", "torch", "transformers", "optimum", "nncf"}


def test_prompts_are_written_and_answers_read_without_torch() -> None:
    code = """
import sys
from neuralbot import chatbot, conversation, fast_engine, modeling
tokenizer = modeling.load_tokenizer("seedling")
conversation.ensure_chat_template(tokenizer, "chat")
ids = conversation.encode_prompt(tokenizer, [conversation.Turn("user", "What is this?")])
assert "What is this?" in tokenizer.decode(ids)
print("torch" in sys.modules)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers import tokenization_utils_tokenizers
try:
    tokenization_utils_tokenizers.load_gguf_checkpoint("none")
except Exception as theirs:
    handed_on = theirs
try:
    load_gguf_checkpoint("none")
except Exception as own:
    print((type(own), str(own)) == (type(handed_on), str(handed_on)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.usefixtures("installed")
def test_the_draft_has_to_have_the_same_vocabulary(build: Any, tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="has another vocabulary than"):
        build(assistant_model="seedling")
    assert build(assistant_model=str(tiny_folder)).engine._mode == "draft"


@pytest.mark.usefixtures("installed")
def test_tokens_are_guessed_from_the_prompt_where_that_gains(
    build: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode(**settings: Any) -> str:
        found: str = build(**settings).engine._mode
        return found

    assert (mode(), mode(task="summarization"), mode(task="chat")) == ("plain", "lookup", "plain")
    assert mode(task="summarization", prompt_lookup=False) == "plain"
    tuned = Path(shutil.copytree(tiny_folder, tmp_path / "run"))
    (tuned / "manifest.json").write_text('{"task": "summarization"}')
    export_of = export.key  # the weights are the same: they need not be exported again
    monkeypatch.setattr(export, "key", lambda spec: export_of(replace(spec, source=str(tiny_folder))))
    assert mode(model_name_or_path=str(tuned)) == "lookup"
    assert mode(model_name_or_path=str(tuned), task="completion") == "plain"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("prompt_lookup", [False, True])
def test_the_form_of_an_answer_can_be_asked_for(build: Any, prompt_lookup: bool) -> None:
    from neuralbot.chatbot import Chatbot

    engine = build(prompt_lookup=prompt_lookup).engine
    assert engine._mode == ("lookup" if prompt_lookup else "plain")
    bot = Chatbot(engine)
    drawn = GenerationConfig(max_new_tokens=300, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    for seed in range(3):
        asked: Any = {"config": drawn, "seed": seed}
        assert json.loads(bot.predict("Which?", json_schema=schema, **asked))["a"] in ("x", "y")
        pieces, _ = bot.predict_stream("Which?", regex="[a-c]{3}-[0-9]{2}", **asked)
        assert re.fullmatch("[a-c]{3}-[0-9]{2}", "".join(pieces))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("prompt_lookup", [False, True])
def test_a_reply_has_the_probabilities_of_its_tokens(build: Any, prompt_lookup: bool) -> None:
    from neuralbot.chatbot import Chatbot
    from neuralbot.conversation import Turn, encode_prompt

    engine, turns = build(prompt_lookup=prompt_lookup).engine, [Turn("user", "a b a b a b a b")]
    asked = Sampling(max_new_tokens=12, logprobs=True)
    reply = Chatbot(engine).reply(turns, asked)
    assert reply.logprobs == []
    "".join(reply)
    prompt = encode_prompt(engine.tokenizer, turns)
    ids = list(engine.stream(prompt, asked))
    expected = build(engine="torch").engine.logprobs(prompt + ids)[len(prompt) - 1 :]
    assert len(ids) > 1 and reply.logprobs == pytest.approx(expected, abs=1e-4)
    assert Chatbot(engine).reply(turns, replace(asked, logprobs=False)).logprobs is None


@pytest.mark.usefixtures("installed")
def test_an_exported_folder_is_served_as_it_is(
    tiny_folder: Path, tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuralbot import cli
    from neuralbot.chatbot import Chatbot

    folder = tmp_path / "exported"
    assert cli.main(["export", str(tiny_folder), "--precision", "fp32", "--output", str(folder)]) == 0
    asked: Any = {"model_name_or_path": str(folder), "optimization_config": None}
    with monkeypatch.context() as patch:
        patch.setattr(export, "_made", None)  # nothing is exported again
        loaded, plain = build(**asked), build()
    assert loaded.engine.exported == replace(plain.engine.exported, folder=folder)
    assert loaded.serving == plain.serving and loaded.serving.max_new_tokens == 5
    answers = [Chatbot(each.engine, each.serving).predict("What is this?") for each in (loaded, plain)]
    assert answers[0] == answers[1]
    with pytest.raises(GenerationError, match="num_beams=2 is not offered by the OpenVINO engine"):
        Chatbot(loaded.engine).predict("x", config=GenerationConfig(num_beams=2))
    for other, message in (
        ({"engine": "torch"}, "is exported for OpenVINO, and only that engine answers with it"),
        ({"optimization_config": RtnConfig(bits=8)}, "is exported in fp32, not in int8"),
        ({"loading_config": LoadingModelConfig(peft_path=str(tiny_folder))}, "cannot go on top"),
    ):
        with pytest.raises(ModelError, match=message):
            build(**asked | other)
    for file in ("openvino_model.bin", "entry.json"):
        (folder / file).write_bytes(b"{}")
        with pytest.raises(ModelError, match=f"the exported model {folder} is damaged"):
            build(**asked)


def test_guesses_from_the_prompt_are_for_the_fast_engine(build: Any) -> None:
    loaded = build(engine="torch", prompt_lookup=True)
    assert loaded.notices == ["PipelineConfig(prompt_lookup=True) has no effect: it is for the OpenVINO engine"]
    with pytest.raises(ModelError, match="prompt_lookup and assistant_model both guess tokens ahead"):
        build(prompt_lookup=True, assistant_model="seedling")


def test_progress_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fast_engine._say("reading some")
    assert caplog.messages == ["for the OpenVINO engine, once: reading some"]
