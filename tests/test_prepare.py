"""The shipped data sets: reproducible, disjoint, and right by their own rules."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from neuralbot.prepare import articles, corpus, dialogues, functions, shipped, skills
from neuralbot.prepare.skills import Split
from neuralbot.prepare.words import an

DATA = Path(__file__).parents[1] / "data"
SPLITS: tuple[Split, ...] = get_args(Split)


def read(name: str, split: Split) -> list[dict[str, Any]]:
    suffix = shipped.SETS[name][2]
    path = DATA / name / f"{split}.{suffix}"
    if suffix == "csv":
        return list(csv.DictReader(path.open(encoding="utf-8")))
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", shipped.SETS)
def test_files_are_what_the_generator_writes(name: str, split: Split) -> None:
    path = DATA / name / f"{split}.{shipped.SETS[name][2]}"
    assert path.read_text(encoding="utf-8") == shipped.render(name, split)
    assert len(read(name, split)) == shipped.COUNTS[name][split]


def test_the_command_writes_all_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "neuralbot.prepare.shipped", str(tmp_path)], check=True)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 12
    assert all((DATA / path).read_bytes() == (tmp_path / path).read_bytes() for path in written)


def test_alpaca_splits_share_no_set_of_words() -> None:
    """Checked on the files alone: the same question about the same words, in any order, never returns."""

    def combination(row: dict[str, Any]) -> tuple[str, ...]:
        return (row["output"], *sorted(row["input"].replace(".", "").replace(",", "").split()))

    seen = {split: {combination(row) for row in read("alpaca", split)} for split in SPLITS}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_summaries_and_dialogues_share_no_event_and_no_set_of_facts() -> None:
    events = {split: {row["highlights"] for row in read("summarization", split)} for split in SPLITS}
    assert not events["test"] & (events["train"] | events["validation"])
    questions = {split: {json.dumps(row["messages"]) for row in read("chat", split)} for split in SPLITS}
    assert not questions["test"] & (questions["train"] | questions["validation"])


def test_code_splits_share_no_function_body() -> None:
    """`filter, change, result` decides the body up to the name of the parameter."""

    def body(row: dict[str, Any]) -> str:
        head, _, rest = row["output"].partition(":\n")
        parameter = head.partition("(")[2].rstrip(")")
        return rest.replace(f" in {parameter}", " in it")

    bodies = {split: {body(row) for row in read("code", split)} for split in SPLITS}
    # "any" ignores the change, so those bodies alone may return.
    shared = {text for text in bodies["test"] & bodies["train"] if "any(True" not in text}
    assert not shared
    assert len(bodies["test"]) >= 20


@pytest.mark.parametrize("split", SPLITS)
def test_every_function_passes_its_own_tests_and_fails_when_broken(split: Split) -> None:
    rows = read("code", split)[:200]
    for row in rows:
        scope: dict[str, Any] = {}
        exec(row["output"], scope)
        exec(row["tests"], scope)
    broken = rows[0]["output"].replace("return ", "return not ")
    scope = {}
    exec(broken, scope)
    with pytest.raises(AssertionError):
        exec(rows[0]["tests"], scope)


def test_expected_facts_were_told_before_and_are_in_the_gold_answer() -> None:
    rows = read("chat", "test")
    asked = 0
    for row in rows:
        answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        told = " ".join(m["content"] for m in row["messages"] if m["role"] == "user")
        assert len(row["expected"]) == len(answers)
        for fact, answer in zip(row["expected"], answers, strict=True):
            if fact is not None:
                asked += 1
                assert fact in answer
                assert fact in told
    assert asked >= 200


def test_highlights_are_told_by_their_article() -> None:
    for row in read("summarization", "test"):
        names = [word.strip(".,") for word in row["highlights"].split() if word[0].isupper() or word[0].isdigit()]
        missing = [name for name in names if name not in row["article"]]
        assert not missing, row


def test_splits_are_decided_by_the_combination_alone() -> None:
    keys = [f"key {n}" for n in range(4000)]
    share = {split: sum(skills.split_of(key) == split for key in keys) / len(keys) for split in SPLITS}
    assert abs(share["test"] - 0.10) < 0.02
    assert abs(share["validation"] - 0.05) < 0.02


@pytest.mark.parametrize("family", skills.FAMILIES, ids=lambda family: family.__name__)
def test_pretraining_sees_the_skill_and_never_its_instruction_with_an_answer(family: Any) -> None:
    rng = random.Random(3)
    for _ in range(50):
        task = family(rng)
        plain = corpus.plain(rng, task.skill, task.input)
        assert task.family == family.__name__
        assert task.input in plain
        assert task.instruction not in plain
        assert task.answer


def test_unanswered_texts_hold_no_input() -> None:
    rng = random.Random(4)
    documents = [corpus.draw(rng, "train") for _ in range(3000)]
    texts = [document for document in documents if document.kind == "text"]
    assert len(texts) > 100
    assert not [document for document in texts if document.prompt or "\n" in document.answer]


def test_pretraining_never_draws_a_held_out_combination() -> None:
    rng = random.Random(5)
    held_out = {row["input"] for row in read("alpaca", "test")}
    prompts = " ".join(corpus.draw(rng, "train").prompt for _ in range(4000))
    assert not [text for text in held_out if text in prompts and len(text) > 40]


def test_draws_are_seeded() -> None:
    for module in (skills, articles, functions, dialogues):
        assert module.draw(random.Random(1), "train") == module.draw(random.Random(1), "train")


def test_an_before_vowels() -> None:
    assert an("A eagle and a owl saw a cat.") == "An eagle and an owl saw a cat."
