from __future__ import annotations

import pytest

from neuralbot.data import detection, formats
from neuralbot.data.detection import detect
from neuralbot.errors import DataError


@pytest.mark.parametrize(
    ("columns", "task", "name"),
    [
        (["instruction", "output"], "completion", "alpaca"),
        (["id", "instruction", "input", "response", "tags"], "completion", "alpaca"),
        (["Instruction", "Output"], "code-generation", "alpaca"),
        (["instruction", "input", "output", "text"], "completion", "alpaca"),
        (["id", "instruction", "instances", "is_classification"], "completion", "instances"),
        (["Question", "Answer"], "completion", "question/answer"),
        (["QUESTION", "answer "], "completion", "question/answer"),
        (["question", "response"], "completion", "question/answer"),
        (["problem", "solution"], "completion", "question/answer"),
        (["prompt", "completion"], "completion", "prompt/completion"),
        (["prompt", "response"], "completion", "prompt/completion"),
        (["messages"], "chat", "messages"),
        (["prompt", "prompt_id", "messages"], "chat", "messages"),
        (["conversations", "tools"], "chat", "conversations"),
        (["", "id", "article", "highlights"], "summarization", "summarization"),
        (["dialogue", "summary", "topic"], "summarization", "summarization"),
        (["dialogue", "summary1", "topic1", "summary2", "summary3"], "summarization", "summarization"),
        (["document", "summary"], "completion", "summarization"),
        (["instruction", "output", "article", "summary"], "summarization", "summarization"),
        (["instruction", "output", "article", "summary"], "completion", "alpaca"),
        (["task_id", "prompt", "entry_point", "canonical_solution", "test"], "code-generation", "function"),
        (["text", "code", "task_id", "test_setup_code", "test_list"], "code-generation", "code"),
        (["prompt", "code", "test_imports", "test_list"], "code-generation", "code"),
        (["text", "source"], "completion", "text"),
        (["text", "id", "dump", "url", "thread"], "completion", "text"),
    ],
)
def test_format_is_told_by_the_columns(columns: list[str], task: str, name: str) -> None:
    assert detect(columns, task).name == name


def test_every_format_has_a_way_to_be_read() -> None:
    assert list(formats._BUILD) == list(detection._SPECS)


def test_reason_says_what_decided_and_what_is_not_used() -> None:
    assert detect(["id", "Instruction", "response", "input"], "completion").reason == (
        "read as Alpaca rows, an instruction with its answer, because of the columns 'Instruction', 'response', "
        "'input'; not used: 'id'"
    )


def test_reason_names_the_formats_that_would_fit_too() -> None:
    assert detect(["text", "article", "summary"], "completion").reason == (
        "read as documents with their summaries, because of the columns 'article', 'summary'; not used: 'text'; "
        "would fit too: plain text, trained whole ('text'): data.columns chooses"
    )


def test_of_numbered_columns_the_first_is_taken_unless_there_is_one_without() -> None:
    assert detect(["dialogue", "summary2", "summary1"], "chat").columns["summary"] == "summary1"
    assert detect(["dialogue", "summary1", "summary"], "chat").columns["summary"] == "summary"


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (
            ["instruction", "outptu"],
            ["'output' or 'response' is missing", "'instruction', 'outptu'", 'data.columns: {output: "outptu"}'],
        ),
        (["article", "title"], ["'highlights' or 'summary' is missing", "add it, or say which it is, as data.columns"]),
        (["foo", "bar"], ["no known format", "'foo', 'bar'", "instruction + output|response", "{question: "]),
        (
            ["quetsion", "aswer"],
            [
                "did you mean 'question' by 'quetsion', 'answer' by 'aswer'?",
                'data.columns: {question: "quetsion", answer: "aswer"}',
            ],
        ),
        (["agentURL", "dialogContent", "dialogHeader"], ["no known format", "'dialogContent'", "say which column"]),
        (["question_id", "category", "turns"], ["no known format", "say which column"]),
        (["test", "entry_point"], ["columns 'prompt', 'canonical_solution' are missing"]),
        ([], ["present columns: none"]),
        ([f"column {number}" for number in range(500)], ["'column 19' and 480 more"]),
        (["x" * 10_000], ["'" + "x" * 60 + "...'"]),
    ],
)
def test_unknown_columns_are_named_beside_the_expected(columns: list[str], parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        detect(columns, "completion")
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("links", [["response_tweet_id", "in_response_to_tweet_id"], ["parent_id"], ["Reply-To"]])
def test_messages_that_point_to_each_other_are_no_plain_text(links: list[str]) -> None:
    with pytest.raises(DataError, match=r"'text' is no plain text: the rows point to each other.*present columns"):
        detect(["text", "author", *links], "completion")
    assert detect(["text", *links], "completion", {"text": "text"}).name == "text"


@pytest.mark.parametrize(
    ("columns", "mapping", "name", "found"),
    [
        (
            ["Frage", "Antwort"],
            {"question": "Frage", "answer": "Antwort"},
            "question/answer",
            {"question": "Frage", "answer": "Antwort"},
        ),
        (
            ["prompt", "reply"],
            {"completion": "reply"},
            "prompt/completion",
            {"prompt": "prompt", "completion": "reply"},
        ),
        (
            ["instruction", "output", "good"],
            {"response": "good"},
            "alpaca",
            {"instruction": "instruction", "output": "good"},
        ),
        (
            ["context", "instruction", "response"],
            {"input": "context"},
            "alpaca",
            {"instruction": "instruction", "output": "response", "input": "context"},
        ),
        (["question", "answer", "text"], {"text": "answer"}, "text", {"text": "answer"}),
        (["talk", "x"], {"messages": "talk"}, "messages", {"turns": "talk"}),
        (["input", "output"], {"instruction": "input"}, "alpaca", {"instruction": "input", "output": "output"}),
    ],
)
def test_the_mapping_decides(columns: list[str], mapping: dict[str, str], name: str, found: dict[str, str]) -> None:
    fmt = detect(columns, "completion", mapping)
    assert (fmt.name, {field: fmt.columns[field] for field in found}) == (name, found)
    assert len(set(fmt.columns.values())) == len(fmt.columns)


def test_reason_says_which_columns_were_mapped() -> None:
    assert detect(["Frage", "answer", "id"], "chat", {"question": "Frage"}).reason == (
        "read as questions with their answers, because of the columns 'Frage' (data.columns: question), 'answer'; "
        "not used: 'id'"
    )


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"qestion": "Frage"}, ["there is no field 'qestion' (fields: messages, ", "did you mean 'question'?"]),
        (
            {"question": "Frgae"},
            ["there is no column 'Frgae' for 'question'", "did you mean 'Frage'?", "'Frage', 'Antwort'"],
        ),
        ({"question": "Frage", "summary": "Antwort"}, ["no format has the fields 'question', 'summary' together"]),
        ({"output": "Frage", "response": "Antwort"}, ["no format has the fields 'output', 'response' together"]),
        (
            {"question": "Frage"},
            ["'answer' or 'response' or 'solution' is missing", '{question: "Frage", answer: "..."}'],
        ),
    ],
)
def test_a_wrong_mapping_is_told_with_what_may_be_meant(mapping: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        detect(["Frage", "Antwort"], "completion", mapping)
    for part in parts:
        assert part in str(caught.value)
