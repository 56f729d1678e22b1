"""Who has to wait, and that GenAI's cache of known beginnings then gives no answer that is another one's."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuralbot.engines import openvino_admission
from neuralbot.engines.openvino_admission import Admission
from neuralbot.engines.openvino_engine import Exported


def test_a_prompt_waits_while_all_that_another_holds_is_its_beginning() -> None:
    admission = Admission()
    assert admission.admit(1, [1, 2, 3])
    assert not admission.admit(2, [1, 2, 3, 4])
    assert not admission.admit(2, [1, 2, 3])
    assert admission.admit(3, [1, 4])
    admission.running[1].add([4])
    assert not admission.admit(2, [1, 2, 3])  # the last token is not in the cache yet
    admission.running[1].add([5])
    assert not admission.admit(2, [1, 2, 3, 4])
    assert admission.admit(2, [1, 2, 3])


def test_two_that_go_on_from_an_ended_one_wait_for_each_other_till_the_second_token() -> None:
    admission = Admission()
    assert admission.admit(1, [1, 2])
    admission.running[1].add([3])
    admission.leave(1)
    assert admission.admit(2, [1, 2, 3, 4, 5])
    assert not admission.admit(3, [1, 2, 3, 4, 6])
    assert admission.admit(4, [1, 7])
    admission.running[2].add([8])
    assert not admission.admit(3, [1, 2, 3, 4, 6])
    admission.running[2].add([8])
    assert admission.admit(3, [1, 2, 3, 4, 6])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_admission, "REMEMBERED", 2)
    admission = Admission()
    for number in range(5):
        assert admission.admit(number, [number, 0])
        admission.leave(number)
    assert admission.admit(5, [0, 0, 1]) and admission.admit(6, [0, 0, 2])
    assert admission.admit(7, [4, 0, 1]) and not admission.admit(8, [4, 0, 2])


def played(exported: Exported, *several: list[Any]) -> list[dict[str, list[int]]]:
    """See stepped.py."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.stepped"],
        input=json.dumps([str(exported.folder), *several]),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, list[int]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_prompts_of_one_text_are_answered_as_each_is_alone(exported: Exported) -> None:
    in_the_first_block = [[0, 10, 8], 1, [0, 52, 5], [0, 29, 2]]
    ends_with_a_block = [[0, 33, 1], 1, [0, 64, 8], 1, [0, 52, 5]]
    found = played(exported, in_the_first_block, ends_with_a_block)
    assert found == [{"wrong": [], "waited": [1, 2]}, {"wrong": [], "waited": [2]}]


@pytest.mark.parametrize("rounds", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_prompts_that_come_at_random_are_answered_as_each_is_alone(exported: Exported, rounds: int) -> None:
    chance = random.Random(rounds)

    def turns() -> list[Any]:
        made: list[Any] = []
        for number in range(60):
            length, new = chance.choice([1, 10, 12, 29, 33, 40, 52, 64, 70, 300]), chance.choice([1, 2, 5, 8])
            made.append([0, length, new])
            if number and chance.random() < 0.2:
                made.append({"cancel": chance.randrange(number)})
            made.append(chance.choice([0, 0, 1, 1, 2, 5]))
        return made

    assert [found["wrong"] for found in played(exported, *(turns() for _ in range(rounds)))] == [[]] * rounds


def test_a_prompt_that_is_given_up_half_read_leaves_nothing_wrong_behind(exported: Exported) -> None:
    # More than a step reads, and because of the other request its part ends within a block.
    turns: list[Any] = [[0, 5, 20], 1, [20, 380, 3], 1, {"cancel": 1}, [20, 380, 8]]
    assert played(exported, turns) == [{"wrong": [], "waited": [2]}]


def test_a_cancelled_request_lets_those_go_on_that_wait_for_it(exported: Exported) -> None:
    turns: list[Any] = [[0, 40, 300], 1, {"behind": 0, "new": 3}, {"cancel": 0}]
    assert played(exported, turns) == [{"wrong": [], "waited": [1]}]
