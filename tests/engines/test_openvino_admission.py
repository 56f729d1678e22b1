"""Who has to wait, and that GenAI's cache of known beginnings then gives no answer that is another one's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from neuralbot.engines import openvino_admission, openvino_engine, openvino_process
from neuralbot.engines.openvino_admission import Admission
from neuralbot.engines.openvino_engine import Exported

TEXT = random.Random(1).sample(range(5, 500), 400)
# By turns: (tokens of the text that are the prompt, new ones), or how many steps are made.
Turns = Sequence[tuple[int, int] | int]


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


class Answers:
    """A pipeline in this process, where each step is ours; with the cache of known beginnings or without."""

    def __init__(self, exported: Exported, *, cached: bool) -> None:
        settings = openvino_engine.settings(exported)
        settings["scheduler"]["enable_prefix_caching"] = cached
        self.requests = openvino_process._Requests(openvino_process.load(settings))
        self.given: dict[int, tuple[list[int], list[float]]] = {}

    def ask(self, ids: list[int], new: int) -> int:
        number = len(self.given)
        self.given[number] = [], []
        self.requests.take(number, ids, {"max_new_tokens": new, "ignore_eos": True, "logprobs": 1})
        self.requests.join()
        return number

    def step(self) -> None:
        self.requests.step()
        for number, ids, logprobs, _ in self.requests.made():
            self.given[number][0].extend(ids)
            self.given[number][1].extend(logprobs)
        self.requests.join()

    def finish(self) -> None:
        while self.requests.unfinished:
            self.step()

    def alone(self, ids: list[int], new: int) -> tuple[list[int], list[float]]:
        number = self.ask(ids, new)
        self.finish()
        return self.given[number]


@pytest.fixture(scope="module")
def reference(exported: Exported) -> Answers:
    return Answers(exported, cached=False)


def wrong(answers: Answers, reference: Answers, turns: Turns) -> list[int]:
    """Which of the answers are not what they are alone."""
    asked: dict[int, tuple[list[int], int]] = {}
    for turn in turns:
        if isinstance(turn, int):
            for _ in range(turn):
                answers.step()
        else:
            length, new = turn
            asked[answers.ask(TEXT[:length], new)] = TEXT[:length], new
    answers.finish()
    return [
        number for number, (ids, new) in asked.items() if not same(answers.given[number], reference.alone(ids, new))
    ]


def same(found: tuple[list[int], list[float]], known: tuple[list[int], list[float]]) -> bool:
    return found[0] == known[0] and found[1] == pytest.approx(known[1], abs=1e-3)


@pytest.mark.parametrize("turns", [[(10, 8), 1, (52, 5), (29, 2)], [(33, 1), 1, (64, 8), 1, (52, 5)]])
def test_prompts_of_one_text_are_answered_as_each_is_alone(
    exported: Exported, reference: Answers, turns: Turns
) -> None:
    assert wrong(Answers(exported, cached=True), reference, turns) == []


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_prompts_that_come_at_random_are_answered_as_each_is_alone(
    exported: Exported, reference: Answers, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(4 if seed == 1 else 200):
        turns: list[Any] = []
        for _ in range(60):
            turns += [(chance.choice([1, 10, 12, 29, 33, 40, 52, 64, 70, 300]), chance.choice([1, 2, 5, 8]))]
            turns += [chance.choice([0, 0, 1, 1, 2, 5])]
        assert wrong(Answers(exported, cached=True), reference, turns) == []


def test_a_cancelled_request_lets_those_go_on_that_wait_for_it(exported: Exported, reference: Answers) -> None:
    answers = Answers(exported, cached=True)
    first = answers.ask(TEXT[:40], 300)
    answers.step()
    second = answers.ask(TEXT[:40] + answers.given[first][0], 3)
    assert list(answers.requests.live) == [first]
    answers.requests.take(first)
    answers.finish()
    assert same(answers.given[second], reference.alone(TEXT[:40] + answers.given[first][0], 3))
