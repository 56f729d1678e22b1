"""Messages that answer each other, joined by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuralbot.arguments import DataArguments
from neuralbot.conversation import Conversation
from neuralbot.data import formats, sources
from neuralbot.data.bad_rows import BadRows
from neuralbot.data.splits import load_splits
from neuralbot.errors import DataError

HEAD = "tweet_id,author_id,inbound,text,in_response_to_tweet_id\n"
CHATS = HEAD + (
    "5,@Shop,False,Sorry! Which one?,4\n"  # before what it answers
    "4,77,True,My order is late,\n"
    "6,77,True,The blue one,5\n"
    "7,77,True,and the red,6\n"
    "8,@Shop,False,It comes today,7\n"
    "9,77,True,Thanks,8\n"
)


def read(tmp_path: Path, text: str, bad: BadRows | None = None, name: str = "a.csv") -> list[Conversation]:
    path, bad = tmp_path / name, bad or BadRows()
    path.write_text(text, encoding="utf-8")
    rows = list(sources.rows(path, bad))
    return list(formats.conversations(rows, formats.detect(list(rows[0]), "chat"), str(path), bad))


def turns(row: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in row.turns]


def test_a_thread_is_a_chat_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    (row,) = read(tmp_path, CHATS)
    assert turns(row) == [
        ("user", "My order is late"), ("assistant", "Sorry! Which one?"), ("user", "The blue one\nand the red"),
        ("assistant", "It comes today"),
    ]  # fmt: skip
    assert row.where == f"{tmp_path / 'a.csv'}:3"
    assert row.group == "4"


def test_each_way_to_an_answer_is_a_chat_and_none_stands_twice(tmp_path: Path) -> None:
    more = "10,@Shop,False,Not again,4\n11,78,True,Me too,5\n12,79,True,Same,5\n"
    rows = read(tmp_path, CHATS + more)
    assert [turns(row)[-1][1] for row in rows] == ["It comes today", "Not again"]
    assert {row.group for row in rows} == {"4"}


def test_what_has_no_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    bad = BadRows()
    lone = "20,@Shop,False,We have a sale,\n21,80,True,Hello?,\n22,@Shop,False,Hi,99\n23,81,True,Yes,22\n"
    assert len(read(tmp_path, CHATS + lone, bad)) == 1
    assert bad.said() == ["3 of 4 threads left out: no agent answers a customer in them"]


def test_json_numbers_true_and_null(tmp_path: Path) -> None:
    rows = (
        '[{"message_id": 1, "parent_id": null, "inbound": true, "text": "q"},'
        ' {"message_id": 2, "parent_id": 1, "inbound": false, "text": "a"}]'
    )
    assert [turns(row) for row in read(tmp_path, rows, name="a.json")] == [[("user", "q"), ("assistant", "a")]]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("4,77,True,again,", "column 'tweet_id' is '4', as at {path}:3; give each message an id of its own"),
        (",77,True,x,", "column 'tweet_id' is empty; give"),
        ("13,77,maybe,x,", "column 'inbound' is 'maybe'; expected true for a customer"),
    ],
)
def test_a_bad_message_is_located_or_skipped(tmp_path: Path, row: str, problem: str) -> None:
    expected = f"{tmp_path / 'a.csv'}:8: " + problem.format(path=tmp_path / "a.csv")
    with pytest.raises(DataError, match=re.escape(expected)):
        read(tmp_path, CHATS + row + "\n")
    bad = BadRows("skip")
    assert len(read(tmp_path, CHATS + row + "\n", bad)) == 1
    assert [found.problem.startswith(expected) for found in bad.found] == [True]


def test_messages_in_a_circle_are_refused_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:8: 2 messages answer each other in a circle"):
        read(tmp_path, CHATS + "30,1,True,a,31\n31,2,False,b,30\n")


def test_a_thread_is_never_divided(tmp_path: Path) -> None:
    lines = [
        f"{n}00,{n},True,Question {n}?,\n{n}01,@Shop,False,A,{n}00\n{n}02,@Shop,False,B,{n}00\n"
        f"{n}03,{n},True,More {n},{n}01\n{n}04,@Shop,False,C,{n}03\n"
        for n in range(1, 60)
    ]
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "".join(lines))
    data = DataArguments(train_file=str(path), validation_split_percentage=30)
    splits = load_splits(data, "chat", do_eval=True)
    train, validation = ({row.group for row in rows} for rows in (splits.train, splits.validation))
    assert train and validation and not train & validation
    assert len(splits.train) + len(splits.validation) == 118
