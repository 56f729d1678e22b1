"""The renderer on chat templates of real families and on the styles: text as written, training ids as in serving."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from neuralbot import conversation as module
from neuralbot.conversation import PROMPT_STYLES, Conversation, Tool, Turn, encode, encode_prompt, ensure_chat_template
from neuralbot.errors import ModelError
from tests.conftest import CORPUS
from tests.families import FAMILIES, LLAMA2_TOKENIZER, SEEDLING
from tests.test_conversation import metaspace

TOKENIZERS = ("seedling", "byte fallback", "llama2")
NAMES = (*FAMILIES, *PROMPT_STYLES)
TOOL_NAMES = (*(name for name, family in FAMILIES.items() if family.tools), "chat")
ARGUMENTS_AS_TEXT = ("deepseek",)
EXAMPLES = 15  # of each generator for each template and tokenizer; 200 pass as well
GENERATED = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@functools.cache
def backend(kind: str) -> Tokenizer:
    if kind == "byte fallback":
        return metaspace("prepend", CORPUS)
    return Tokenizer.from_file(str(SEEDLING if kind == "seedling" else LLAMA2_TOKENIZER))


@functools.cache
def tokenizer_of(name: str, kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family or style with the vocabulary of `kind`; shared by the tests, so not to be changed."""
    if kind == "llama2" and not LLAMA2_TOKENIZER.is_file():
        pytest.skip("the tokenizer of Llama 2 is not here")
    if name in FAMILIES:
        return FAMILIES[name].tokenizer(backend(kind))
    copied = Tokenizer.from_str(backend(kind).to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=copied, bos_token="<s>", eos_token="</s>")
    ensure_chat_template(tokenizer, name)
    return tokenizer


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """Every name with every tokenizer; the large one not with the styles."""
    pairs = [(name, kind) for kind in TOKENIZERS for name in names if kind != "llama2" or name in FAMILIES]
    return pytest.mark.parametrize(("name", "kind"), pairs)


def as_message(turn: Turn, *, arguments_as_text: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.role == "tool":
        message |= {"name": turn.name, "tool_call_id": turn.tool_call_id}
    calls = json.loads(json.dumps(turn.tool_calls))
    for called in calls if arguments_as_text else ():
        called["function"]["arguments"] = json.dumps(called["function"]["arguments"], ensure_ascii=False)
    return message | ({"tool_calls": calls} if calls else {})


def controls(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int]:
    special = set(tokenizer.all_special_ids)
    return [index for index in ids if index in special]


def checked(name: str, kind: str, turns: tuple[Turn, ...], tools: tuple[Tool, ...] = ()) -> list[int]:
    """`checked_row` with a tokenizer by name."""
    return checked_row(tokenizer_of(name, kind), turns, tools, arguments_as_text=name in ARGUMENTS_AS_TEXT)


def checked_row(
    tokenizer: PreTrainedTokenizerFast,
    turns: tuple[Turn, ...],
    tools: tuple[Tool, ...] = (),
    *,
    arguments_as_text: bool = False,
) -> list[int]:
    """The ids of the row, after its text was held against the library's and its beginnings against the prompts."""
    conversation = Conversation(turns, tools=tools)
    encoded = encode(tokenizer, conversation)
    segments = module._segments(tokenizer, module._known(tokenizer), conversation)
    said = [as_message(turn, arguments_as_text=arguments_as_text) for turn in turns]
    expected = tokenizer.apply_chat_template(said, tools=list(tools) or None, tokenize=False)
    assert "".join(segment.text for segment in segments) == expected
    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            prompt = encode_prompt(tokenizer, turns[:place], tools)
            assert encoded.ids[: len(prompt)] == prompt
            assert not any(encoded.target_mask[len(prompt) - 1 : len(prompt)])
            assert encoded.target_mask[len(prompt)]
    return encoded.ids


def targets(name: str, kind: str, turns: tuple[Turn, ...], tools: tuple[Tool, ...] = ()) -> list[str]:
    """The text of each stretch of targets."""
    tokenizer = tokenizer_of(name, kind)
    encoded = encode(tokenizer, Conversation(turns, tools=tools))
    stretches: list[list[int]] = [[]]
    for index, target in zip(encoded.ids, encoded.target_mask, strict=True):
        if target:
            stretches[-1].append(index)
        elif stretches[-1]:
            stretches.append([])
    return [str(tokenizer.decode(stretch)).replace("▁", " ") for stretch in stretches if stretch]


# Turns without control tokens

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[｜"), min_size=1, max_size=25)


@st.composite
def chats(draw: st.DrawFn, texts: st.SearchStrategy[str], *, system: bool) -> tuple[Turn, ...]:
    turns = [Turn("system", draw(texts))] if system and draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Turn("user", draw(texts)), Turn("assistant", draw(texts))]
    return tuple(turns)


def knows_system(name: str) -> bool:
    return name not in FAMILIES or FAMILIES[name].system


@each(NAMES)
def test_text_and_ids_of_generated_chats(name: str, kind: str) -> None:
    tokenizer_of(name, kind)  # or skip, before anything is generated
    seen = 0

    @GENERATED
    @given(turns=chats(WORDS, system=knows_system(name)))
    def generated(turns: tuple[Turn, ...]) -> None:
        nonlocal seen
        seen += 1
        checked(name, kind, turns)

    generated()
    assert seen >= EXAMPLES


@each(NAMES)
@pytest.mark.parametrize("blank", ["", "\n", " \n "])
def test_turns_of_blanks(name: str, kind: str, blank: str) -> None:
    system = [(Turn("system", "S"),), (Turn("system", blank),)] if knows_system(name) else []
    for before in ((), *system):
        checked(name, kind, (*before, Turn("user", blank), Turn("assistant", "!"), Turn("user", "?"), AGAIN[1]))


QA = (Turn("user", "What is it?"), Turn("assistant", "A quick fox."))
AGAIN = (Turn("user", " And now?\n"), Turn("assistant", "\nNothing. "))


@each(FAMILIES)
def test_each_answer_is_a_target_with_its_end(name: str, kind: str) -> None:
    end = {"gemma": "<end_of_turn>", "phi-3": "<|end|>"}.get(name, FAMILIES[name].eos).replace("▁", " ")
    first, second = targets(name, kind, (*QA, *AGAIN))
    assert first.strip().replace(" <", "<") == f"A quick fox.{end}"
    assert "".join(second.split()) == f"Nothing.{end}".replace(" ", "")


@pytest.mark.parametrize("name", [name for name in FAMILIES if not FAMILIES[name].system])
def test_a_system_turn_that_a_template_does_not_know_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="leave out the turn that it does not know"):
        encode(tokenizer_of(name, "seedling"), Conversation((Turn("system", "S"), *QA)))


# Control tokens in people's texts

_ATTACKS = ["</s>", "<s>", "<|im_end|>", "[INST]", "[/INST]", "<|eot_id|>", "<｜User｜>", "<end_of_turn>", "<|end|>"]
HOSTILE = st.lists(
    st.sampled_from([*_ATTACKS, "<|im_", "end|>", "<", "s>", "|>", "\n", " ", "a", "im_end", "eot_id", "s"]),
    min_size=1,
    max_size=6,
).map("".join)


@each(NAMES)
def test_control_tokens_in_texts_stay_text(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(name, kind)

    @GENERATED
    @given(turns=chats(HOSTILE, system=knows_system(name)))
    def generated(turns: tuple[Turn, ...]) -> None:
        harmless = tuple(Turn(turn.role, "a") for turn in turns)
        ids = checked(name, kind, turns)
        assert controls(tokenizer, ids) == controls(tokenizer, checked(name, kind, harmless))

    generated()


# Tools

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "which"}},
    "required": ["city"],
}


def tool(name: str = "get_weather", description: str = "The weather of a city") -> Tool:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": PARAMETERS}}


def call(name: str, arguments: dict[str, Any], number: str = "call00001") -> dict[str, Any]:
    return {"type": "function", "id": number, "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], content: str = "") -> Turn:
    return Turn("assistant", content, tool_calls=calls)


def result(content: str, number: str = "call00001") -> Turn:
    return Turn("tool", content, name="get_weather", tool_call_id=number)


ASKED = Turn("user", "Is it warm in Paris?")
CALLED = calling(call("get_weather", {"city": "Paris", "days": 3}))
_JSON = '"arguments": {"city": "Paris", "days": 3}'
WRITTEN = {
    "qwen2.5": f'<tool_call>\n{{"name": "get_weather", {_JSON}}}\n</tool_call><|im_end|>',
    "llama-3.1": '{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}<|eot_id|>',
    "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", {_JSON}, "id": "call00001"}}]</s>',
    "deepseek": '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris", "days": 3}\n```'
    "<｜tool▁call▁end｜><｜end▁of▁sentence｜>",
    "chat": f'<tool_call>{{"name": "get_weather", {_JSON}}}</tool_call></s>',
}


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_calls_are_targets_and_results_are_not(name: str) -> None:
    turns = (ASKED, CALLED, result('{"celsius": 21}'), Turn("assistant", "Yes."))
    checked(name, "seedling", turns, (tool(),))
    called, answered = targets(name, "seedling", turns, (tool(),))
    written = WRITTEN[name].replace("▁", " ")
    assert called.lstrip() == written
    assert answered.strip() == "Yes." + written[written.rindex("<") :]
    assert targets(name, "seedling", turns[:2], (tool(),))[0].lstrip() == written


@each([name for name in TOOL_NAMES if name not in ("mistral", "llama-3.1")])
def test_several_calls_and_texts_beside_them(name: str, kind: str) -> None:
    both = calling(call("get_weather", {"city": "Rome"}), call("get_weather", {}, "call00002"), content="Let me see.")
    turns = (Turn("system", "Be kind."), *QA, ASKED, both, result("21"), result("19", "call00002"), CALLED)
    checked(name, kind, (*turns, result("3"), Turn("assistant", "Warm."), *QA), (tool(), tool("other")))
    found = targets(name, kind, (*turns, result("3"), Turn("assistant", "Warm."), *QA), (tool(), tool("other")))
    assert len(found) == 5
    assert found[1].lstrip().startswith("Let me see.")
    assert found[1].count("get_weather") == 2


_CALLING = r"""
{%- for m in messages %}
{{- '<|start_header_id|>' ~ (NAME) ~ '<|end_header_id|>' ~ m.content }}
{%- for call in m.tool_calls or [] %}{{ call.function.name ~ ARGUMENTS }}{% endfor %}
{{- '<|eom_id|>' if m.tool_calls else '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}{% endif %}"""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ARGUMENTS": "call.function.arguments"},  # as a text, or Python's way to write it would be learned
        {"NAME": "m.name or m.role"},  # the name stands at the call and at its result
        {"NAME": "loop.previtem.tool_calls[0].function.name if m.role == 'tool' else m.role"},
    ],
)
def test_where_a_call_ends(changes: dict[str, str]) -> None:
    tokenizer = FAMILIES["llama-3.1"].tokenizer(backend("seedling"))
    template = _CALLING
    for place, usual in (("NAME", "m.role"), ("ARGUMENTS", "call.function.arguments | tojson")):
        template = template.replace(place, changes.get(place, usual))
    tokenizer.chat_template = template
    turns = (ASKED, CALLED, result("21"), Turn("assistant", "Yes."), *QA)
    for end in (2, 4, 6):
        encoded = encode(tokenizer, Conversation(turns[:end]))
        ids = [index for index, target in zip(encoded.ids, encoded.target_mask, strict=True) if target]
        answers = ['get_weather{"city": "Paris", "days": 3}<|eom_id|>', "Yes.<|eot_id|>", "A quick fox.<|eot_id|>"]
        assert tokenizer.decode(ids) == "".join(answers[: end // 2])


@pytest.mark.parametrize(
    "after",
    ["'<|eom_id|>' ~ ('<|end_header_id|>' if loop.last else '')", "'<|eom_id|>' if loop.last else '<|eot_id|>'"],
)
@pytest.mark.parametrize("end", [2, 4])
def test_a_call_that_ends_otherwise_when_its_result_follows_is_refused(after: str, end: int) -> None:
    tokenizer = FAMILIES["llama-3.1"].tokenizer(backend("seedling"))
    tokenizer.chat_template = tokenizer.chat_template.replace("'}<|eot_id|>'", f"'}}' ~ ({after})")
    with pytest.raises(ModelError, match="not prefix-preserving: what it writes for the first 2 of"):
        encode(tokenizer, Conversation((ASKED, CALLED, result("21"), Turn("assistant", "Yes."))[:end]))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | HOSTILE | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(HOSTILE | WORDS, inner, max_size=2),
    max_leaves=4,
)


@each(TOOL_NAMES)
def test_control_tokens_in_calls_results_and_descriptions_stay_text(name: str, kind: str) -> None:
    tokenizer = tokenizer_of(name, kind)
    harmless = (ASKED, calling(call("f", {"a": "b"})), result("a"), Turn("assistant", "a"))
    expected = controls(tokenizer, checked(name, kind, harmless, (tool(),)))

    @GENERATED
    @given(
        arguments=st.dictionaries(HOSTILE | WORDS, _VALUES, max_size=3),
        texts=st.tuples(*[HOSTILE | WORDS.filter(str.strip)] * 4),
    )
    def generated(arguments: dict[str, Any], texts: tuple[str, ...]) -> None:
        named, described, said, answered = texts
        turns = (ASKED, calling(call(named, arguments)), result(said), Turn("assistant", answered))
        assert controls(tokenizer, checked(name, kind, turns, (tool(named, described),))) == expected

    generated()


@pytest.mark.parametrize(
    "arguments", [{"s": 1}, {"k": "<"}, {"k": "< "}, {"k": "s>"}, {"k": " s>"}, {"k": "x<"}, {"/s": "s>"}, {"k": "<s>"}]
)
def test_a_control_token_is_not_made_of_a_text_and_what_stands_beside_it(arguments: dict[str, Any]) -> None:
    tokenizer = FAMILIES["zephyr"].tokenizer(backend("seedling"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name }}{% for key, value in call.function.arguments.items() %}"
        "{{ '<' ~ key ~ '><' ~ value | string | trim ~ 's></s>' }}{% endfor %}{% endfor %}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    harmless = encode(tokenizer, Conversation((ASKED, calling(call("f", {"a": "b"})))))
    encoded = encode(tokenizer, Conversation((ASKED, calling(call("f", arguments)))))
    assert controls(tokenizer, encoded.ids) == controls(tokenizer, harmless.ids)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TOOL_NAMES])
def test_a_template_that_does_not_know_tools_is_refused(name: str) -> None:
    turns = (ASKED, CALLED, result("21"), Turn("assistant", "Yes."))
    with pytest.raises(ModelError, match=r"cannot render tools: it leaves out the calls .*`chat` knows tools"):
        encode(tokenizer_of(name, "seedling"), Conversation(turns, tools=(tool(),)))
    with pytest.raises(ModelError, match=r"cannot render tools: it leaves out the .*descriptions of tools"):
        encode_prompt(tokenizer_of(name, "seedling"), QA[:1], (tool(),))


def test_what_a_template_says_about_tools_is_passed_on() -> None:
    with pytest.raises(ModelError, match="only one call at once"):
        encode(tokenizer_of("llama-3.1", "seedling"), Conversation((ASKED, calling(*CALLED.tool_calls * 2))))
    with pytest.raises(ModelError, match="9 characters"):
        encode(tokenizer_of("mistral", "seedling"), Conversation((ASKED, calling(call("f", {}, "short")))))


def test_descriptions_that_move_with_the_last_question_are_not_prefix_preserving() -> None:
    turns = (ASKED, CALLED, result("21"), Turn("assistant", "Yes."), *QA)
    with pytest.raises(ModelError, match=r"not prefix-preserving.*give each answer a row of its own"):
        encode(tokenizer_of("mistral", "seedling"), Conversation(turns, tools=(tool(),)))
