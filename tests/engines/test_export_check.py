"""What is compared before an exported model answers anybody: a damaged or another model is found, rounding is not."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from neuralbot.engines import export_check
from neuralbot.engines.export_check import TOKENS, Known, reference
from neuralbot.engines.openvino_engine import Exported
from neuralbot.errors import ModelError, ResourceError

Answers = list[tuple[list[int], list[float]]]


@pytest.fixture(scope="module")
def known(tiny_model: LlamaForCausalLM) -> Known:
    return reference(tiny_model, "some model")


def right(known: Known) -> Answers:
    """What an engine answers that computes the same."""
    logprobs = [float(row[token]) for row, token in zip(known.logprobs, known.ids, strict=True)]
    return [
        (known.ids[place:] + known.ids[:place], logprobs[place:] + logprobs[:place])  # as many tokens to each
        for place in range(TOKENS)
    ]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, known: Known) -> Any:
    """What is said of answers."""

    def said(answers: Answers, known: Known = known) -> str | None:
        monkeypatch.setattr(export_check, "answers", lambda *_: answers)
        return export_check.differs(Path(), known)

    return said


def test_the_same_answer_passes_and_others_do_not(told: Any, known: Known) -> None:
    assert told(right(known)) is None
    for place, (damaged, value) in enumerate([(0, float("nan")), (0, 0.0), (1, -1e3)]):
        answers = right(known)
        answers[place][1][damaged] = value
        assert told(answers) == f"it answers otherwise than the model, from token {place + 1} of {TOKENS} on"
    worst = int(known.logprobs[3].argmin())
    answers = right(known)
    answers[3] = ([worst, *answers[3][0][1:]], [float(known.logprobs[3][worst]), *answers[3][1][1:]])
    assert told(answers) == f"it answers otherwise than the model, from token 4 of {TOKENS} on"
    assert told([*right(known)[:-1], ([], [])]) == f"it answers otherwise than the model, from token 8 of {TOKENS} on"


def test_a_near_tie_may_fall_the_other_way(told: Any, known: Known) -> None:
    second = int(known.logprobs[2].topk(2).indices[1])
    logprobs = known.logprobs.clone()
    logprobs[2, second] = logprobs[2, known.ids[2]] - 0.001
    near = replace(known, logprobs=logprobs)
    answers = right(near)
    parted = [*known.ids[:2], second, *[0] * (TOKENS - 3)]
    answers[0] = (parted, [*answers[0][1][:2], float(logprobs[2, second]), *[-1.0] * (TOKENS - 3)])
    assert told(answers, near) is None
    assert told(answers, known) is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(tiny_model: LlamaForCausalLM, value: float) -> None:
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 3] = value
    with pytest.raises(ModelError, match=r"some model is damaged.*embed_tokens\.weight holds NaN or infinity"):
        reference(model, "some model")


def test_probabilities_that_are_no_numbers_are_told(tiny_model: LlamaForCausalLM) -> None:
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.fill_(1e30)
    with pytest.raises(ModelError, match="computes NaN instead of probabilities"):
        reference(model, "some model")


def test_an_exported_model_is_held_against_its_own(
    exported: Exported, known: Known, tiny_model: LlamaForCausalLM
) -> None:
    assert export_check.differs(exported.folder, known) is None
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.model.layers[1].self_attn.v_proj.weight.neg_()
    assert "answers otherwise than the model" in str(export_check.differs(exported.folder, reference(other, "other")))
    assert "Could not find a model" in str(export_check.differs(exported.folder.parent / "none", known))


@pytest.mark.parametrize(("name", "how"), [("SIGSEGV", "its process ended with SIGSEGV"), ("SIGKILL", None)])
def test_a_crash_is_told_and_want_of_memory_is_not_remembered(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str | None
) -> None:
    script = tmp_path / "check"
    script.write_text(f"#!{sys.executable}\nimport os, signal; os.kill(os.getpid(), signal.{name})\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    if how:
        assert export_check.differs(tmp_path, known) == how
    else:
        with pytest.raises(ResourceError, match="its process ended with SIGKILL"):
            export_check.differs(tmp_path, known)
