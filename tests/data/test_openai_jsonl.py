"""Files in OpenAI's two forms: every kind of problem with its place, every repair, and what holds for all repairs."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralbot.arguments import DataArguments
from neuralbot.data.openai_jsonl import Checked, check, write
from neuralbot.data.splits import load_splits
from neuralbot.errors import DataError, UsageError

SEPARATOR = "\n\n###\n\n"


def pair(prompt: Any = "Who?", completion: Any = "Ben", **more: Any) -> dict[str, Any]:
    """A row that is right where its texts are."""
    ends = (f"{prompt}{SEPARATOR}" if isinstance(prompt, str) else prompt,
            f" {completion}\n" if isinstance(completion, str) else completion)  # fmt: skip
    return {"prompt": ends[0], "completion": ends[1], **more}


def chat(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


ASK, SAY = ("user", "Who is it?"), ("assistant", "It is Ben.")
PAIRS = [pair("Who?", "Ben"), pair("When?", "now"), pair("Where", "there")]
CHATS = [chat(ASK, SAY), chat(("system", "Be kind."), ("user", "When?"), ("assistant", "Now."))]


def checked(folder: Path, rows: list[Any], name: str = "t.jsonl") -> Checked:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return check(path)


def said(found: Checked) -> list[str]:
    return [problem.text.removeprefix(f"{found.path}:") for problem in found.problems]


@pytest.mark.parametrize(("rows", "form"), [(PAIRS, "prompt"), (CHATS, "chat")])
def test_a_clean_file_has_no_problems(tmp_path: Path, rows: list[dict[str, Any]], form: str) -> None:
    found = checked(tmp_path, rows)
    assert (found.form, found.total, found.problems, found.changed) == (form, len(rows), (), 0)
    assert list(found.rows) == rows


def test_the_rows_of_the_seed_are_clean(tmp_path: Path) -> None:
    head = "Summary: a parcel is late\n\nSpecific information: order 7\n\n###\n\nCustomer: "
    first, second = (
        f"{head}Where is it?\nAgent: ",
        f"{head}Where is it?\nAgent: On its way.\nCustomer: Since when?\nAgent: ",
    )
    rows = [{"prompt": first, "completion": " On its way.\n"}, {"prompt": second, "completion": " Since Monday.\n"}]
    found = checked(tmp_path, rows)
    assert found.problems == ()
    assert any("all prompts begin with 'Summary: a parcel" in note for note in found.notes)


# name -> (rows after PAIRS, what is said, the repaired row or None if it is left out)
PROMPT_PROBLEMS: dict[str, tuple[dict[str, Any], str, dict[str, Any] | None]] = {
    "key not in lower case": (
        {"Prompt ": pair("A", "b")["prompt"], "completion": " b\n"},
        "4: the key is 'Prompt ', expected 'prompt'",
        pair("A", "b"),
    ),
    "missing or wrong value": (pair("A", ["b"]), "4: 'completion' is a list, expected a text", None),
    "other keys": (pair("A", "b", id=1), "4: other keys than prompt and completion: 'id'", pair("A", "b")),
    "empty prompt or completion": (pair("A", None), "4: 'completion' is empty", None),
    "completion without a space before it": (
        pair("A") | {"completion": "b\n"},
        r"4: the completion does not begin with a space: 'b\n'",
        pair("A", "b"),
    ),
    "prompt without the separator": (
        pair("A", "b") | {"prompt": "A"},
        r"4: the prompt does not end in '\n\n###\n\n': 'A'",
        pair("A", "b"),
    ),
    "completion without the stop text": (
        pair("A") | {"completion": " b"},
        r"4: the completion does not end in '\n': ' b'",
        pair("A", "b"),
    ),
    "row stands twice": (PAIRS[1], "4: the same as line 2", None),
    "row too long": (pair("A" * 9_991, "b"), "4: 10,001 characters, expected at most 10,000", None),
}


@pytest.mark.parametrize("name", PROMPT_PROBLEMS)
def test_a_problem_of_a_prompt_or_completion(tmp_path: Path, name: str) -> None:
    row, text, repaired = PROMPT_PROBLEMS[name]
    found = checked(tmp_path, [*PAIRS, row])
    assert [(problem.kind.name, place) for problem, place in zip(found.problems, said(found), strict=True)] == [
        (name, text)
    ]
    assert list(found.rows) == PAIRS + ([repaired] if repaired else [])
    assert (found.total, found.changed) == (4, bool(repaired))
    assert (found.problems[0].kind.repair is None) == (name == "missing or wrong value")


def test_a_row_of_just_the_longest_length_is_no_problem(tmp_path: Path) -> None:
    assert checked(tmp_path, [*PAIRS, pair("A" * 9_990, "b")]).problems == ()


def test_numbers_become_texts(tmp_path: Path) -> None:
    found = checked(tmp_path, [{"prompt": "a ->", "completion": 3}, {"prompt": "b ->", "completion": True}])
    assert said(found)[:2] == [
        "1: 'completion' is 3, expected a text in quotes", "2: 'completion' is true, expected a text in quotes",
    ]  # fmt: skip
    assert [row["completion"] for row in found.rows] == [" 3\n", " true\n"]


def test_a_missing_key_names_those_that_are_there(tmp_path: Path) -> None:
    assert said(checked(tmp_path, [*PAIRS, {"prompt": "x", "answer": "y"}])) == [
        "4: 'completion' is missing; present keys: 'prompt', 'answer'"
    ]


def test_two_spellings_of_a_key_lose_nothing_unsaid(tmp_path: Path) -> None:
    row = {"PROMPT": "A" + SEPARATOR, "Prompt": "other", "completion": " b\n"}
    found = checked(tmp_path, [*PAIRS, row])
    assert [problem.kind.name for problem in found.problems] == ["key not in lower case", "other keys"]
    assert found.rows[-1] == pair("A", "b")


def test_without_endings_the_first_free_ones_are_added_to_all(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": " x\ny."}, {"prompt": "b\n\n###\n\nc", "completion": " z!"}]
    found = checked(tmp_path, rows)
    assert list(found.rows) == [
        {"prompt": "a ->", "completion": " x\ny. END"}, {"prompt": "b\n\n###\n\nc ->", "completion": " z! END"},
    ]  # fmt: skip
    assert Counter(problem.kind.name for problem in found.problems) == {
        "prompt without the separator": 2, "completion without the stop text": 2,
    }  # fmt: skip


def test_letters_that_agree_by_accident_are_no_ending(tmp_path: Path) -> None:
    found = checked(tmp_path, [{"prompt": "bear", "completion": " a\n"}, {"prompt": "door", "completion": " b\n"}])
    assert [row["prompt"] for row in found.rows] == ["bear" + SEPARATOR, "door" + SEPARATOR]


def test_repairs_that_make_two_rows_equal_leave_one(tmp_path: Path) -> None:
    found = checked(tmp_path, [*PAIRS, {"prompt": "Who?", "completion": "Ben"}])
    assert said(found)[-1] == "4: the same as line 1"
    assert list(found.rows) == PAIRS


def test_rows_that_are_all_alike_only_a_person_can_mend(tmp_path: Path) -> None:
    found = checked(tmp_path, [pair("a", "same"), pair("b", "same")])
    assert said(found) == [r"1: all 2 rows have the same completion: ' same\n'"]
    assert found.problems[0].kind.repair is None
    assert len(found.rows) == 2


def test_lines_that_are_no_json_objects_are_told_with_line_and_column(tmp_path: Path) -> None:
    found = checked(tmp_path, [PAIRS[0], "{'a'", PAIRS[1], "[1]", "", '{"prompt": "a", "prompt": "b"}'])
    places = said(found)
    assert [place.split(" ")[0] for place in places] == ["2:2:", "4:", "6:1:"]
    assert "invalid JSON" in places[0] and "a list, not an object" in places[1] and "appears twice" in places[2]
    assert (found.total, len(found.rows)) == (5, 2)


# name -> (row after CHATS, what is said, the repaired row or None)
CHAT_PROBLEMS: dict[str, tuple[dict[str, Any], str, dict[str, Any] | None]] = {
    "key of another form": (
        {"conversations": chat(ASK, ("assistant", "x"))["messages"]},
        "3: the key 'conversations' is 'messages' in this form",
        chat(ASK, ("assistant", "x")),
    ),
    "from and value": (
        {"messages": [{"role": "user", "content": "a"}, {"from": "assistant", "value": "b"}]},
        "3: turn 2: has from and value for role and content",
        chat(("user", "a"), ("assistant", "b")),
    ),
    "other name of a role": (
        chat(("Human", "a"), ("assistant", "b")),
        "3: turn 1: has another name for its role",
        chat(("user", "a"), ("assistant", "b")),
    ),
    "content in parts": (
        chat(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), SAY),
        "3: turn 1: its content is a list of texts",
        chat(("user", "a\nb"), SAY),
    ),
    "missing or wrong value": (
        chat(("robot", "a"), SAY),
        "3: turn 1: the role is 'robot', expected one of system, user, assistant, tool, function",
        None,
    ),
    "other keys": (chat(("user", "x"), SAY, id=3), "3: other keys than messages: 'id'", chat(("user", "x"), SAY)),
    "other keys in a turn": (
        {"messages": [{"role": "user", "content": "x", "time": 3}, {"role": "assistant", "content": "b"}]},
        "3: turn 1: has keys that nothing reads",
        chat(("user", "x"), ("assistant", "b")),
    ),
    "turns after the last answer": (
        chat(("user", "x"), SAY, ("user", "Thanks!")),
        "3: nothing is answered after turn 2 of 3",
        chat(("user", "x"), SAY),
    ),
    "roles out of order": (chat(ASK, ASK, SAY), "3: turn 2 is the user's, after the user", None),
    "empty turn": (chat(("user", "x"), ("assistant", " ")), "3: turn 2, the assistant's, is empty", None),
    "refused by training": (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b", "weight": 0}]},
        "3: turn 2 of 'messages' has 'weight', which cannot be honoured; "
        "every answer is trained on: take the row out, or the key",
        None,
    ),
    "row stands twice": (CHATS[0], "3: the same as line 1", None),
    "row too long": (
        chat(("user", "x" * 65_000), ("assistant", "y")), "3: 65,001 characters, expected at most 65,000", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAT_PROBLEMS)
def test_a_problem_of_a_chat(tmp_path: Path, name: str) -> None:
    row, text, repaired = CHAT_PROBLEMS[name]
    found = checked(tmp_path, [*CHATS, row])
    assert [(problem.kind.name, place) for problem, place in zip(found.problems, said(found), strict=True)] == [
        (name, text)
    ]
    assert list(found.rows) == CHATS + ([repaired] if repaired else [])
    assert (found.problems[0].kind.repair is None) == (
        name in ("missing or wrong value", "roles out of order", "refused by training")
    )


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"messages": []}, "'messages' is an empty list, expected a list of turns"),
        ({"messages": "hi"}, "'messages' is a text, expected a list of turns"),
        ({"other": 1}, "'messages' is missing, expected a list of turns"),
        ({"messages": ["hi"]}, "turn 1: is a text, expected an object"),
        ({"messages": [{"content": "hi"}]}, "turn 1: has no role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "turn 1: the role is ['user'], expected one of"),
        (chat(ASK, ("assistant", 3)), "turn 2: the content is a number, expected a text"),
        (chat(("user", [{"type": "image"}]), SAY), "turn 1: the content is a list, expected a text"),
        (chat(ASK), "no turn is the assistant's: there is nothing to learn"),
        (chat(SAY), "turn 1 is the assistant's, the first"),
        (chat(ASK, SAY, ("system", "x"), SAY), "turn 3 is the system's, after the assistant"),
    ],
)
def test_what_only_a_person_can_mend_in_a_chat(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    found = checked(tmp_path, [*CHATS, row])
    assert len(said(found)) == 1 and said(found)[0].startswith(f"3: {text}")
    assert list(found.rows) == CHATS


def calling(arguments: str = "{}", answered: str = "1") -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "time", "arguments": arguments}}
    return [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": answered, "content": "noon"},
        {"role": "assistant", "content": "At noon."},
    ]


def test_a_chat_with_tool_calls_is_clean(tmp_path: Path) -> None:
    assert checked(tmp_path, [{"messages": calling(), "tools": [{"name": "time"}]}]).problems == ()


def test_a_call_in_the_older_form_is_kept_and_its_descriptions_are_noted(tmp_path: Path) -> None:
    turns = calling()
    turns[1] = {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": "{}"}}
    turns[2] = {"role": "function", "name": "time", "content": "noon"}
    row = {"messages": turns, "functions": [{"name": "time"}]}
    found = checked(tmp_path, [row])
    assert (found.problems, list(found.rows)) == ((), [row])
    assert found.notes[-1] == (
        "rows with the older key 'functions': 1; training reads 'tools'; "
        "data.columns: {tools: functions} makes it read them"
    )
    data = DataArguments(train_file=str(found.path), columns={"tools": "functions"})
    (read,) = load_splits(data, "chat", do_eval=False).train
    assert [tool["function"]["name"] for tool in read.tools] == ["time"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            {"messages": [*calling()[:3], calling()[3] | {"reasoning_content": "Hm."}]},
            "turn 4 of 'messages' has 'reasoning_content', which cannot be honoured; thoughts are not kept apart",
        ),
        ({"messages": calling("{a}")}, "'arguments' of call 1 of turn 2 of 'messages':1:2: invalid JSON"),
        ({"messages": calling(answered="7")}, "'tool_call_id' of turn 3 of 'messages' is '7'; expected the id of a"),
        ({"messages": calling(), "tools": ["time"]}, "tool 1 of column 'tools' is a text; expected a list of tools"),
    ],
)
def test_calls_that_training_would_refuse(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    found = checked(tmp_path, [*CHATS, row])
    assert [problem.kind.name for problem in found.problems] == ["refused by training"]
    assert said(found)[0].startswith(f"3: {text}")
    with pytest.raises(DataError, match=r"t\.jsonl:3: "):
        load_splits(DataArguments(train_file=str(found.path)), "chat", do_eval=False)


def test_notes(tmp_path: Path) -> None:
    letters = "abcdefgh"
    rows = [{"prompt": f"LABEL THIS LETTER: {letter} ->", "completion": f" {letter < 'e'}\n"} for letter in letters]
    found = checked(tmp_path, rows)
    assert found.problems == ()
    assert found.notes == (
        r"all prompts end in ' ->', all completions in 'e\n': ask and stop with the same",
        "few rows (8): some hundreds and more teach better",
        "this looks like a classification: 2 different completions in 8 rows",
        "all prompts begin with 'LABEL THIS LETTER: ': what is the same in every row need not be said in any",
        "more than a third of the letters of the prompts are capitals: models read plain case better",
    )
    many = [pair(f"prompt {number}", f"answer {number}") for number in range(100)]
    assert len(checked(tmp_path, many, "many.jsonl").notes) == 1  # only how they end


def test_the_keys_tell_the_form_unless_it_is_given(tmp_path: Path) -> None:
    found = checked(tmp_path, [*PAIRS, CHATS[0]])
    assert found.form == "prompt"
    assert said(found) == ["4: 'prompt' is missing; present keys: 'messages'"]
    assert check(found.path, "chat").form == "chat"
    with pytest.raises(DataError, match=r"t\.jsonl:1: expected the keys prompt and completion, or messages; present"):
        checked(tmp_path, [{"question": "a", "answer": "b"}])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"prompt,completion\na,b\n", "t.csv: expected JSON lines"),
        ("t.jsonl", b"", "t.jsonl: has no rows: 0 usable of 0"),
        ("t.jsonl", b"nothing\n[]\n", "has no rows: 0 usable of 2; the first: "),
        ("t.jsonl", b'{"prompt": "\xe9"}\n', "t.jsonl:1:13: byte 0xe9 is not UTF-8"),
        ("t.jsonl.gz", gzip.compress(json.dumps(PAIRS[0]).encode())[:-9], "cannot be read"),
    ],
)
def test_files_that_cannot_be_checked(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        check(path)
    assert message in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "none.jsonl")


def test_lines_are_right_with_crlf_a_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    lines = [json.dumps(PAIRS[0]), "", json.dumps(PAIRS[1] | {"id": 1})]
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + "\r\n".join(lines).encode()))
    assert said(check(path)) == ["3: other keys than prompt and completion: 'id'"]


# --- writing ---


def test_repaired_rows_are_written_to_a_new_file_only(tmp_path: Path) -> None:
    found = checked(tmp_path, [*PAIRS, pair("größer", "x") | {"completion": "ж"}])
    target = tmp_path / "new.jsonl"
    write(found, target)
    text = target.read_text(encoding="utf-8")
    assert "größer" in text and len(text.splitlines()) == 4
    for taken in (target, found.path):
        before = taken.read_bytes()
        with pytest.raises(UsageError, match="exists already: name a new file"):
            write(found, taken)
        assert taken.read_bytes() == before
    with pytest.raises(UsageError, match="cannot write"):
        write(found, tmp_path / "no" / "new.jsonl")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.jsonl"):
        write(found, tmp_path / "new.csv")


def test_no_rows_are_not_written(tmp_path: Path) -> None:
    found = checked(tmp_path, [{"prompt": "", "completion": "x"}])
    with pytest.raises(DataError, match="no row is left after the repairs"):
        write(found, tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()


texts = st.one_of(st.none(), st.integers(0, 3), st.text("ab \n#>-END.?", max_size=12), st.just([]))
prompt_rows = st.fixed_dictionaries(
    {}, optional={"prompt": texts, "completion": texts, "Prompt": texts, "COMPLETION": texts, "id": st.integers(0, 1)}
)
turns = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "Human", "gpt", "robot", None]),
        "from": st.sampled_from(["human", "gpt"]),
        "content": st.sampled_from(["a", "b", " ", "", None, 3, [{"type": "text", "text": "c"}], [3]]),
        "value": st.just("d"),
        "other": st.just(1),
    },
)
spoken = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5).map(
    lambda said: [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)]
)
chat_rows = st.fixed_dictionaries(
    {}, optional={"messages": st.one_of(st.lists(turns, max_size=4), spoken), "conversations": spoken, "id": st.just(1)}
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.one_of(st.lists(prompt_rows, min_size=1, max_size=8), st.lists(chat_rows, min_size=1, max_size=8)))
def test_repaired_files_are_clean_and_can_be_trained_on(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        found = checked(tmp_path, rows)
    except DataError as error:
        assert "expected the keys" in str(error)
        return
    left_out = [problem for problem in found.problems if problem.kind.repair in (None, "row left out")]
    assert len(found.rows) >= len(rows) - len(left_out)
    if not found.rows:
        return
    target = tmp_path / "repaired.jsonl"
    target.unlink(missing_ok=True)
    write(found, target)
    again = check(target, found.form)
    assert [problem.text for problem in again.problems if problem.kind.name != "all rows alike"] == []
    assert list(again.rows) == list(found.rows)
    splits = load_splits(DataArguments(train_file=str(target)), "chat", do_eval=False)
    assert len(splits.train) == len(found.rows)
