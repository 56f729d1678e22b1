"""Likelihoods of texts against the library's own loss, row by row."""

from __future__ import annotations

import random
from types import ModuleType

import pytest
import torch
from random_texts import pairs
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuralbot.conversation import Conversation, Encoded, Turn, encode_many
from neuralbot.errors import ResourceError
from neuralbot.evaluation import likelihood
from neuralbot.evaluation.likelihood import Likelihood, likelihoods


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """120 rows up to the model's 512 tokens: empty, Unicode and long questions with every kind of answer."""
    chats = [Conversation((Turn("user", left), Turn("assistant", right))) for left, right in pairs(120)]
    encoded = encode_many(tiny_tokenizer, chats)
    cut = [Encoded(row.ids[:512], row.target_mask[:512]) for row in encoded]
    random.Random(1).shuffle(cut)
    return cut


def alone(model: PreTrainedModel, row: Encoded) -> tuple[int, float, int]:
    """Targets, sum of log-probabilities and likeliest tokens, by the loss that transformers computes for one row."""
    labels = torch.tensor([[token if wanted else -100 for token, wanted in zip(row.ids, row.target_mask, strict=True)]])
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([row.ids]), labels=labels)
    count = int((labels[0, 1:] != -100).sum())
    hits = int((output.logits[0, :-1].argmax(-1) == labels[0, 1:]).sum())
    return count, -float(output.loss) * count if count else 0.0, hits


def test_a_batch_gives_what_the_library_gives_for_each_row(tiny_model: PreTrainedModel, rows: list[Encoded]) -> None:
    found = likelihoods(tiny_model, rows, batch_size=16)
    assert len(found) == 120
    for row, one in zip(rows, found, strict=True):
        count, log_probability, hits = alone(tiny_model, row)
        assert (one.targets, one.likeliest) == (count, hits)
        assert one.log_probability == pytest.approx(log_probability, rel=1e-4, abs=1e-4)
    assert sum(one.likeliest for one in found) > 0
    assert sum(one.targets for one in found) > 1000


def test_the_perplexity_is_torchmetrics_s(
    tiny_model: PreTrainedModel, rows: list[Encoded], torchmetrics_text: ModuleType
) -> None:
    for row, one in zip(rows[:100], likelihoods(tiny_model, rows[:100], batch_size=8), strict=True):
        if not one.targets:
            continue
        ids = torch.tensor([row.ids])
        wanted = torch.where(torch.tensor([row.target_mask]), ids, -100)
        with torch.inference_mode():
            logits = tiny_model(ids).logits
        library = float(torchmetrics_text.perplexity(logits[:, :-1], wanted[:, 1:], ignore_index=-100))
        assert torch.tensor(-one.log_probability / one.targets).exp().item() == pytest.approx(library, rel=1e-3)


def test_the_batch_shrinks_where_its_logits_would_not_fit(
    tiny_model: PreTrainedModel, rows: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = likelihoods(tiny_model, rows[:8], batch_size=8)
    monkeypatch.setattr(likelihood, "_LOGITS_BYTES", 1)
    done: list[tuple[int, int]] = []
    single = likelihoods(tiny_model, rows[:8], batch_size=8, on_progress=lambda *steps: done.append(steps))
    assert done == [(count, 8) for count in range(1, 9)]
    assert [one.log_probability for one in single] == pytest.approx([one.log_probability for one in together], rel=1e-4)


def test_rows_without_targets_and_rows_of_one_token(tiny_model: PreTrainedModel) -> None:
    rows = [Encoded([5], [True]), Encoded([], []), Encoded([5, 6], [True, False])]
    assert likelihoods(tiny_model, rows, batch_size=1) == [Likelihood(0, 0.0, 0)] * 3
    assert likelihoods(tiny_model, rows, batch_size=3) == [Likelihood(0, 0.0, 0)] * 3
    assert likelihoods(tiny_model, [], batch_size=3) == []


def test_an_engine_without_a_model_is_refused_by_name() -> None:
    class Fast:
        pass

    with pytest.raises(ResourceError, match=r"Fast generates only .* use the torch engine"):
        likelihood.model_of(Fast())  # type: ignore[arg-type]
