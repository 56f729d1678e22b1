"""Plugins: what their hooks may do to questions and answers, and that a chatbot has its own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from neuralbot.chatbot import Chatbot, build_chatbot
from neuralbot.conversation import Turn
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.errors import GenerationError, ModelError
from neuralbot.neural_chat import GenerationConfig, PipelineConfig
from neuralbot.plugin_hooks import BLOCKED, PluginHooks

GREEDY = GenerationConfig(do_sample=False, max_new_tokens=8)
registry = import_module("neuralbot.neural_chat.plugins")  # the package may offer the registry itself by that name


class Louder:
    def __init__(self, mark: str = "!") -> None:
        self.mark = mark

    def pre_llm_inference_actions(self, query: str) -> str:
        return query + self.mark

    def post_llm_inference_actions(self, answer: str) -> str:
        return answer.upper() + self.mark


class Library:
    """In the place of retrieval: a prompt and where it comes from."""

    response_template = "Please ask again."

    def pre_llm_inference_actions(self, model_name: str, query: str) -> tuple[str, list[str]]:
        if query == "unknown":
            return "Response with template.", []
        return f"{model_name} says about {query}", ["book.txt"]


class Memory:
    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def pre_llm_inference_actions(self, query: str) -> str | None:
        return self.known.get(query)

    def post_llm_inference_actions(self, query: str, answer: str) -> None:
        self.known[query] = answer


class Guard:
    def pre_llm_inference_actions(self, query: str) -> bool:
        return "bomb" in query

    def post_llm_inference_actions(self, answer: str) -> str:
        return "*" * len(answer)


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    yield
    for name in [name for name in registry.plugins if name not in registry.GlobalPlugins().plugins]:
        del registry.plugins[name]
    registry.plugins.update(registry.GlobalPlugins().plugins)


@pytest.fixture
def engine(tiny_model: Any, tiny_tokenizer: Any) -> TorchEngine:
    return TorchEngine(tiny_model, tiny_tokenizer)


def bot(engine: TorchEngine, **plugins: Any) -> Chatbot:
    return Chatbot(engine, name="runs/a", plugins=PluginHooks(plugins))


def test_hooks_change_the_question_and_the_answer(engine: TorchEngine) -> None:
    plain = Chatbot(engine).predict("hello!", config=GREEDY)
    louder = bot(engine, louder=Louder())
    assert louder.predict("hello", config=GREEDY) == plain.upper() + "!"
    pieces, links = louder.predict_stream("hello", config=GREEDY)
    assert ([*pieces], links) == ([plain.upper() + "!"], [])


def test_retrieval_gets_the_models_name_and_gives_links(engine: TorchEngine) -> None:
    expected = Chatbot(engine).predict("runs/a says about owls", config=GREEDY)
    pieces, links = bot(engine, retrieval=Library()).predict_stream("owls", config=GREEDY)
    assert ("".join(pieces), links) == (expected, ["book.txt"])
    assert bot(engine, retrieval=Library()).predict("owls", config=GREEDY) == expected
    assert bot(engine, retrieval=Library()).predict("unknown") == Library.response_template


def test_a_cache_answers_what_it_has_heard(engine: TorchEngine) -> None:
    memory = Memory()
    cached = bot(engine, louder=Louder(), cache=memory)
    first = cached.predict("hello", config=GREEDY)
    assert memory.known == {"hello": first}
    memory.known = {"hello!": "from memory"}
    assert cached.predict("hello") == "from memory"
    assert cached.predict_all("hello", GREEDY) == ["from memory"]
    memory.known = {"hello!": {"choices": [{"text": "as a completion"}]}}  # type: ignore[dict-item]
    assert "".join(cached.stream("hello")) == "as a completion"


def test_a_safety_checker_blocks_and_masks(engine: TorchEngine) -> None:
    guarded = bot(engine, safety_checker=Guard())
    assert guarded.predict("a bomb") == BLOCKED
    assert guarded.predict("hello", origin_query="a bomb") == BLOCKED
    pieces, _ = guarded.predict_stream("hello", config=GREEDY)
    answer = "".join(pieces)
    assert answer and set(answer) == {"*"}


def test_audio_files_are_for_asr(engine: TorchEngine, tmp_path: Path) -> None:
    class Ear:
        def pre_llm_inference_actions(self, path: str) -> str:
            return f"heard {Path(path).name}"

    record = tmp_path / "a.wav"
    record.write_bytes(b"")
    heard = bot(engine, asr=Ear()).predict(str(record), config=GREEDY)
    assert heard == Chatbot(engine).predict("heard a.wav", config=GREEDY)
    assert bot(engine, asr=Ear()).predict("no.wav", config=GREEDY) == Chatbot(engine).predict("no.wav", config=GREEDY)
    with pytest.raises(GenerationError, match="audio file, and speech is not offered"):
        Chatbot(engine).predict(str(record))


@pytest.mark.parametrize(
    ("hook", "result", "message"),
    [
        ("pre_llm_inference_actions", 5, "pre_llm_inference_actions of the plugin 'mine' returned a int, 5: expected"),
        ("post_llm_inference_actions", 5, "post_llm_inference_actions of the plugin 'mine' returned a int"),
        ("pre_llm_inference_actions", OSError("no disk"), "the plugin 'mine' failed: OSError: no disk"),
        ("post_llm_inference_actions", OSError("no disk"), "the plugin 'mine' failed: OSError: no disk"),
    ],
)
def test_a_plugin_that_fails_is_named(engine: TorchEngine, hook: str, result: Any, message: str) -> None:
    def act(self: object, text: str) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(GenerationError, match=message):
        bot(engine, mine=type("Mine", (), {hook: act})()).predict("hello", config=GREEDY)


def test_values_that_cannot_be_used_raise_before_a_plugin_is_asked(engine: TorchEngine) -> None:
    for arguments in ({"query": None}, {"query": "a", "seed": -1}):
        with pytest.raises(GenerationError, match=r"query=None|seed=-1"):
            bot(engine, mine=object(), cache=Memory(), louder=Louder()).predict(**arguments)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any) -> str:
    tiny_model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_registered_plugins_become_the_chatbots_own(folder: str) -> None:
    registry.register_plugin("louder")(Louder)
    registry.plugins.louder.args["mark"] = "?"
    assert registry.is_plugin_enabled("louder") and "louder" in registry.get_registered_plugins()
    first = build_chatbot(PipelineConfig(folder))
    registry.plugins.louder.args["mark"] = "#"
    second = build_chatbot(PipelineConfig(folder, plugins=registry.plugins))
    without = build_chatbot(PipelineConfig(folder, plugins={}))
    registry.plugins.louder.enable = False
    assert [chatbot.predict("hello", config=GREEDY)[-1] for chatbot in (first, second)] == ["?", "#"]
    assert not without.plugins.instances and not build_chatbot(PipelineConfig(folder)).plugins.instances
    assert registry.get_plugin_instance("louder") is registry.get_plugin_arguments("louder") is None


def test_an_instance_may_be_given_and_registered_later(folder: str) -> None:
    memory = Memory()
    chatbot = build_chatbot(PipelineConfig(folder, plugins={"cache": {"enable": True, "instance": memory}}))
    answer = chatbot.predict("hello", config=GREEDY)
    assert memory.known == {"hello": answer}
    chatbot.register_plugin_instance("louder", Louder())
    assert chatbot.predict("bye", config=GREEDY).endswith("!")


@pytest.mark.parametrize("name", [*registry.GlobalPlugins().plugins, "mine"])
def test_plugins_without_an_implementation_are_refused_by_name(name: str) -> None:
    plugins = {"other": {"enable": False}, name: {"enable": True, "class": None, "args": {}}}
    with pytest.raises(
        ModelError, match=f"the plugin '{name}' is enabled, but .*(not offered|no class|not cached)"
    ) as caught:
        build_chatbot(PipelineConfig("there/is/none", plugins=plugins))
    assert caught.value.code == 1006


def test_a_plugin_that_cannot_be_made_is_named() -> None:
    with pytest.raises(ModelError, match=r"the plugin 'mine' cannot be made from .*Louder.*TypeError"):
        build_chatbot(PipelineConfig(plugins={"mine": {"enable": True, "class": Louder, "args": {"x": 1}}}))


def test_unknown_names_of_the_registry_raise() -> None:
    with pytest.raises(AttributeError, match="there is no 'retreival'; expected one of tts"):
        registry.plugins.retreival.enable = True
    assert registry.get_all_plugins() == [
        "tts", "tts_multilang", "asr", "retrieval", "cache", "safety_checker", "ner", "ner_int", "face_animation",
    ]  # fmt: skip


def test_plugins_do_not_see_replies_to_whole_conversations(engine: TorchEngine) -> None:
    louder = bot(engine, louder=Louder())
    assert "!" not in "".join(louder.reply([Turn("user", "hello")], louder.sampling))[-1:]
