"""The registry of plugins as scripts of ITREX use it; and the prompts written turn by turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neuralbot.errors import NeuralbotError
from neuralbot.neural_chat import plugins as registry_of_the_package
from neuralbot.neural_chat.plugins import (
    get_all_plugins,
    get_plugin_arguments,
    get_plugin_instance,
    get_registered_plugins,
    global_plugins,
    is_plugin_enabled,
    plugins,
    register_plugin,
)
from neuralbot.neural_chat.prompts import PromptTemplate


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    yield
    global_plugins.reset_plugins()


def test_plugins_are_set_up_by_attribute_and_by_item() -> None:
    assert not any(is_plugin_enabled(name) for name in get_registered_plugins())
    plugins.retrieval.enable = True
    plugins.retrieval.args["input_path"] = "./docs"
    plugins["retrieval"]["args"].k = 3
    assert is_plugin_enabled("retrieval") and plugins["retrieval"].args.k == 3
    assert get_plugin_arguments("retrieval") == {"input_path": "./docs", "k": 3}
    assert get_plugin_instance("retrieval") is None and get_plugin_arguments("tts") is None
    assert len(get_all_plugins()) == 9 and "image2image" in get_registered_plugins()


def test_a_registered_class_is_an_enabled_plugin() -> None:
    @register_plugin("polite")
    class Polite:
        pass

    assert plugins.polite["class"] is Polite and is_plugin_enabled("polite")
    assert "polite" in get_registered_plugins() and "polite" not in get_all_plugins()
    global_plugins.reset_plugins()
    assert plugins is global_plugins.plugins is registry_of_the_package and not is_plugin_enabled("polite")


def test_a_misspelt_name_raises_where_itrex_gave_none() -> None:
    for misspelt in ("plugins.retreival", "plugins.tts.enabel", "plugins.tts.args.voice"):
        with pytest.raises(AttributeError, match=f"there is no '{misspelt.rpartition('.')[2]}'"):
            eval(misspelt)  # noqa: S307
    with pytest.raises(AttributeError, match="there is no 'enabel'; expected one of enable, class, args, instance"):
        plugins.tts.enabel = True


def prompt(name: str, *turns: str | None) -> str:
    template = PromptTemplate(name)
    for place, turn in enumerate(turns):
        template.append_message(template.roles[place % 2], turn)
    return template.get_prompt()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "alpaca_without_input",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nhi\n\n### Response:\n",
        ),
        ("question_answer", "Question: hi\n\nAnswer: "),
        ("neural-chat-7b-v3-1", "### User:\nhi</s>\n### Assistant:\n"),
        ("plain", "hi"),
    ],
)
def test_a_prompt_is_that_of_the_style(name: str, expected: str) -> None:
    assert prompt(name, "hi", None) == expected


def test_earlier_turns_stay_until_they_are_cleared() -> None:
    assert prompt("question_answer", "a", "b", "c", None) == "Question: a\n\nAnswer: b</s>\n\nQuestion: c\n\nAnswer: "
    template = PromptTemplate("question_answer", clear_history=True)
    template.append_message("user", "a")
    assert template.get_prompt() == "Question: a\n\n"
    assert template.get_prompt() == ""


def test_what_a_template_does_not_know_is_told() -> None:
    with pytest.raises(
        NeuralbotError, match=r"PromptTemplate\('one_shot'\) cannot be honoured: expected one of alpaca, "
    ):
        PromptTemplate()
    with pytest.raises(NeuralbotError, match=r"append_message\('robot', ...\): expected one of user, assistant"):
        PromptTemplate("plain").append_message("robot", "x")
