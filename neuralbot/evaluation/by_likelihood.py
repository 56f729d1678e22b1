"""The metrics that need no answers: loss (with perplexity and token accuracy), and which label is likeliest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from neuralbot.conversation import Conversation, Encoded, Turn, encode, encode_many, encode_prompt
from neuralbot.errors import DataError
from neuralbot.evaluation import likelihood, scores
from neuralbot.evaluation.likelihood import Likelihood
from neuralbot.evaluation.metrics import Attempt, Scored

if TYPE_CHECKING:
    from neuralbot.arguments import EvaluationArguments
    from neuralbot.engines.protocol import Engine
    from neuralbot.evaluation.questions import Question

MOST_LABELS = 100


def score_loss(
    engine: Engine,
    conversations: Sequence[Conversation],
    settings: EvaluationArguments,
    on_progress: Callable[[int, int], None],
) -> Scored:
    """Loss, perplexity and token accuracy of all answers in these rows, over tokens; the end tokens count too.

    Rows longer than the model's context are cut, and said. Raises DataError if no token is left to measure.
    """
    encoded = encode_many(engine.tokenizer, conversations)
    limit = engine.context_length or max(len(row.ids) for row in encoded)
    cut = sum(len(row.ids) > limit for row in encoded)
    rows = [Encoded(row.ids[:limit], row.target_mask[:limit]) for row in encoded]
    found = likelihood.of_engine(engine, rows, settings.batch_size, on_progress)
    weights = [float(one.targets) for one in found]
    if not sum(weights):
        raise DataError("the test rows hold no token to measure the loss on; check the columns of data.test_file")
    loss = [-one.log_probability / max(one.targets, 1) for one in found]
    values = {
        "loss": loss,
        "perplexity": [_exp(value) for value in loss],
        "token_accuracy": [one.likeliest / max(one.targets, 1) for one in found],
    }
    low, high = scores.bootstrap_interval(loss, weights=weights, seed=settings.seed)
    perplexity = (_exp(scores.mean(loss, weights)), (_exp(low), _exp(high)))
    notices = [f"{cut} of {len(rows)} test rows are longer than the {limit} tokens that the model reads: cut there"]
    attempts = [[Attempt("", value)] for value in loss]
    return Scored(attempts, values, {"perplexity": perplexity}, weights, tuple(notices) if cut else ())


def score_labels(
    engine: Engine,
    questions: Sequence[Question],
    settings: EvaluationArguments,
    on_progress: Callable[[int, int], None],
) -> Scored:
    """Which label the model finds likeliest as the answer, with the token that ends it, and how often that is right.

    accuracy: by the sum of the log-probabilities. accuracy_norm: by that sum for each byte of the label. A question
    that is too long for the model scores 0, and is said.
    """
    labels = _labels(questions, settings.labels)
    groups = [[_labelled(engine, question, label) for label in labels] for question in questions]
    limit = engine.context_length or math.inf
    fits = [all(len(row.ids) <= limit for row in group) for group in groups]
    rows = [row for group, fit in zip(groups, fits, strict=True) if fit for row in group]
    found = iter(likelihood.of_engine(engine, rows, settings.batch_size, on_progress))
    attempts, norm = [], []
    for question, fit in zip(questions, fits, strict=True):
        said = {label: next(found) for label in labels} if fit else {}
        expected = question.expected.strip()
        attempts.append([_chosen(said, expected)])
        by_byte = max(said, key=lambda label: said[label].log_probability / max(len(label.encode()), 1), default=None)
        norm.append(float(by_byte == expected))
    long = fits.count(False)
    notices = (f"{long} of {len(questions)} questions are too long for the model and scored 0",) if long else ()
    values = {"accuracy": [one[0].correct for one in attempts], "accuracy_norm": norm}
    return Scored(attempts, values, notices=notices)


def _chosen(said: dict[str, Likelihood], expected: str) -> Attempt:
    if not said:
        return Attempt("", 0.0, "the question is too long for the model")
    best = max(said, key=lambda label: said[label].log_probability)
    detail = ", ".join(f"{label} {one.log_probability:.3f}" for label, one in said.items())
    return Attempt(best, float(best == expected), detail)


def _labelled(engine: Engine, question: Question, label: str) -> Encoded:
    """The question answered by the label; the label alone is the target, not earlier answers."""
    turns = (*question.turns, Turn("assistant", label))
    row = encode(engine.tokenizer, Conversation(turns, tools=question.tools))
    start = len(encode_prompt(engine.tokenizer, question.turns, question.tools))
    return Encoded(row.ids, [wanted and place >= start for place, wanted in enumerate(row.target_mask)])


def _labels(questions: Sequence[Question], named: Sequence[str] | None) -> list[str]:
    """The labels to choose from, each once. Raises DataError where the rows do not go with them."""
    present = sorted({question.expected.strip() for question in questions})
    if named is None:
        if len(present) > MOST_LABELS:
            raise DataError(
                f"the test rows have {len(present)} different answers, too many to be labels (at most {MOST_LABELS}): "
                "name them as evaluation.labels, or choose another evaluation.metric"
            )
        return present
    if unknown := [label for label in present if label not in named]:
        raise DataError(
            f"the answer {unknown[0][:60]!r} of a test row is none of evaluation.labels ({', '.join(named)}); "
            "add it there, or correct the row"
        )
    return list(dict.fromkeys(named))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
