"""A pipeline whose steps are told: `python -m tests.engines.stepped`, in a process of its own, as OpenVINO is.

In, as JSON: [folder, turns, ...]. A turn: a number of steps; [from, to, new]: so many new tokens are asked for behind
that part of TEXT; {"behind": number, "new": new}: behind the prompt of that request and what it has given so far;
{"cancel": number}. Out: for each list of turns {"wrong": numbers of requests that were not answered as each is alone,
without a cache, "waited": numbers of those that did not join at once}.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from neuralbot.engines import openvino_engine, openvino_process
from neuralbot.engines.openvino_engine import Exported

TEXT = random.Random(1).sample(range(5, 500), 400)
Given = tuple[list[int], list[float]]


class Answers:
    """With the cache of known beginnings or without."""

    def __init__(self, folder: Path, *, cached: bool) -> None:
        settings = openvino_engine.settings(Exported(folder, None, 0, frozenset()))
        settings["scheduler"]["enable_prefix_caching"] = cached
        self.requests = openvino_process._Requests(openvino_process.load(settings))
        self.asked: list[tuple[list[int], int]] = []
        self.given: list[Given] = []
        self.waited: list[int] = []

    def ask(self, ids: list[int], new: int) -> Given:
        number = len(self.asked)
        self.asked.append((ids, new))
        self.given.append(([], []))
        self.requests.take(number, ids, {"max_new_tokens": new, "ignore_eos": True, "logprobs": 1})
        self.requests.join()
        if number not in self.requests.live:
            self.waited.append(number)
        return self.given[number]

    def step(self) -> None:
        self.requests.step()
        for number, ids, logprobs, _ in self.requests.made():
            self.given[number][0].extend(ids)
            self.given[number][1].extend(logprobs)
        self.requests.join()

    def finish(self) -> None:
        while self.requests.unfinished:
            self.step()


def played(folder: Path, turns: list[Any], alone: Answers) -> dict[str, list[int]]:
    answers, cancelled = Answers(folder, cached=True), set[int]()
    for turn in turns:
        if isinstance(turn, int):
            for _ in range(turn):
                answers.step()
        elif isinstance(turn, list):
            answers.ask(TEXT[turn[0] : turn[1]], turn[2])
        elif "behind" in turn:
            number = turn["behind"]
            answers.ask(answers.asked[number][0] + answers.given[number][0], turn["new"])
        else:
            cancelled.add(turn["cancel"])
            answers.requests.take(turn["cancel"])
    answers.finish()
    whole = [number for number in range(len(answers.asked)) if number not in cancelled]
    wrong = [number for number in whole if not same(answers.given[number], _alone(alone, *answers.asked[number]))]
    return {"wrong": wrong, "waited": answers.waited}


def _alone(answers: Answers, ids: list[int], new: int) -> Given:
    given = answers.ask(ids, new)
    answers.finish()
    return given


def same(found: Given, known: Given) -> bool:
    """Up to a near tie: where another token is as likely, answers may part."""
    for token, own, logprob, likely in zip(found[0], known[0], *(found[1], known[1]), strict=True):
        if abs(logprob - likely) > 1e-3:
            return False
        if token != own:
            break
    return True


def main() -> None:
    folder, *several = json.load(sys.stdin)
    alone = Answers(Path(folder), cached=False)
    print(json.dumps([played(Path(folder), turns, alone) for turns in several]))


if __name__ == "__main__":
    main()
