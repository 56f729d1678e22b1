"""Asks the model the held-out questions, greedily and in batches, and scores its answers.

One question is the opening of a conversation (with the gold answers in its history) and what is expected next.
The prompts come from `conversation.encode_prompt`, as in training and serving.

Not done here: loss and perplexity (the trainer's evaluation), writing files (`training.run_folder`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from neuralbot.conversation import Conversation, Tool, Turn, answer_lead, encode_prompt
from neuralbot.engines.protocol import Sampling
from neuralbot.errors import DataError, GenerationError
from neuralbot.evaluation import scores, unit_tests

if TYPE_CHECKING:
    from neuralbot.arguments import EvaluationArguments
    from neuralbot.engines.protocol import Engine

Progress = Callable[[int, int], None]  # steps done, steps in all
Item = TypeVar("Item")

MAIN_SCORE = {"exact_match": "exact_match", "contains": "contains", "rouge": "rougeL", "unit_tests": "pass_at_1"}
_BY_TASK = {"completion": "exact_match", "summarization": "rouge", "chat": "contains", "code-generation": "unit_tests"}


@dataclass(frozen=True)
class Sample:
    """One question with its answer; `correct` is the row's main score in 0..1, `detail` why a test failed."""

    prompt: str
    expected: str
    answer: str
    correct: float
    detail: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Scores in 0..1 over `n` questions; `interval` is the 95 % interval of the main score."""

    metric: str
    scores: dict[str, float]
    interval: tuple[float, float]
    n: int
    seconds: float
    samples: tuple[Sample, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def main_score(self) -> float:
        """The score that `interval` belongs to; 0.0 where nothing was asked."""
        return self.scores.get(MAIN_SCORE.get(self.metric, ""), 0.0)

    def describe(self) -> str:
        """One line for people: the main score with its interval, the others, the number of questions."""
        if not self.n:
            return "nothing was scored"
        low, high = self.interval
        main = MAIN_SCORE[self.metric]
        others = "".join(f", {name} {value:.3f}" for name, value in self.scores.items() if name != main)
        return f"{main} {self.main_score:.3f} (95 % interval {low:.3f} to {high:.3f}){others}, {self.n} questions"


@dataclass(frozen=True)
class Question:
    """What is put to the model and what is expected; `conversation` numbers the row that it comes from."""

    turns: tuple[Turn, ...]
    expected: str
    conversation: int
    tests: str = ""
    tools: tuple[Tool, ...] = ()


def evaluate(
    engine: Engine,
    conversations: Sequence[Conversation],
    settings: EvaluationArguments,
    task: str,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Answers and scores the questions of `conversations` (`settings.max_samples` of them, evenly spread).

    A prompt that the engine refuses (too long) scores 0 and is named in `notices`. Metric "none" asks nothing.
    Raises DataError if no row fits the metric, ResourceError if code cannot be run safely.
    """
    start = time.monotonic()
    metric = resolve_metric(settings.metric, task, conversations)
    if metric == "none":
        return Evaluation("none", {}, (0.0, 0.0), 0, 0.0)
    chosen = spread(conversations, settings.max_samples)
    questions = collect_questions(chosen, metric)
    if not questions:
        raise DataError(_nothing_to_ask(metric, len(chosen)))
    report = _Steps(on_progress, len(questions) * (2 if metric == "unit_tests" else 1))
    answers, notices = _answer_all(engine, questions, settings, report)
    rows, details = _score(metric, answers, questions, settings.timeout_s, report)
    main = rows[MAIN_SCORE[metric]]
    samples = tuple(
        Sample(_as_text(question.turns), question.expected, answer, correct, detail)
        for question, answer, correct, detail in zip(questions, answers, main, details, strict=True)
    )
    return Evaluation(
        metric=metric,
        scores={name: scores.mean(values) for name, values in rows.items()},
        interval=scores.bootstrap_interval(main, groups=[question.conversation for question in questions]),
        n=len(questions),
        seconds=time.monotonic() - start,
        samples=samples,
        notices=(*_skipped(metric, chosen, questions), *notices),
    )


def resolve_metric(metric: str, task: str, conversations: Sequence[Conversation]) -> str:
    """The metric that "auto" stands for; any other is returned as it is.

    By task; but chat rows that name no expected fact and code rows without tests are compared by ROUGE with the
    gold answer, as there is nothing else to hold them to.
    """
    if metric != "auto":
        return metric
    chosen = _BY_TASK.get(task, "rouge")
    if chosen == "contains" and not any(fact is not None for row in conversations for fact in row.expected):
        return "rouge"
    if chosen == "unit_tests" and not any(row.tests for row in conversations):
        return "rouge"
    return chosen


def collect_questions(conversations: Sequence[Conversation], metric: str) -> list[Question]:
    """The questions in these rows, in order.

    `contains`: each assistant turn with an expected fact. The other metrics, and rows that name no facts at all: the
    last assistant turn with its gold answer. `unit_tests`: rows with tests only. Plain text gives no question.
    """
    return [question for place, row in enumerate(conversations) for question in _questions(row, place, metric)]


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` items at even distances, so that data sorted by kind stays represented; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def results_dict(task: str, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
    """The content of results.json."""
    metric = next((one.metric for one in (after, before) if one is not None), "none")
    return {
        "task": task,
        "metric": metric,
        "main_score": MAIN_SCORE.get(metric),
        "before": _result(before),
        "after": _result(after),
    }


def sample_rows(before: Evaluation | None, after: Evaluation | None) -> list[dict[str, Any]]:
    """The lines of samples.jsonl: each question once, with the answers before and after (None where not asked)."""
    asked = [one.samples if one is not None else () for one in (before, after)]
    count = max(len(samples) for samples in asked)
    rows = []
    for place in range(count):
        old, new = (samples[place] if place < len(samples) else None for samples in asked)
        known = new or old
        assert known is not None
        rows.append(
            {"prompt": known.prompt, "expected": known.expected, "before": _answer_of(old), "after": _answer_of(new)}
        )
    return rows


def _answer_of(sample: Sample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    return {"answer": sample.answer, "correct": sample.correct, "detail": sample.detail}


def _result(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None or evaluation.metric == "none":
        return None
    return {
        "scores": evaluation.scores,
        "interval": list(evaluation.interval),
        "n": evaluation.n,
        "seconds": round(evaluation.seconds, 3),
        "notices": list(evaluation.notices),
    }


class _Steps:
    """Counts finished steps for the caller's progress display."""

    def __init__(self, on_progress: Progress | None, total: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._on_progress:
            self._on_progress(self._done, self._total)


def _questions(row: Conversation, place: int, metric: str) -> list[Question]:
    answers = [index for index, turn in enumerate(row.turns) if turn.role == "assistant"]
    if metric == "contains" and row.expected:
        asked = [(index, fact) for index, fact in zip(answers, row.expected, strict=True) if fact is not None]
    else:  # what is compared is text, not a call of a tool
        asked = [(index, row.turns[index].content) for index in answers if not row.turns[index].tool_calls][-1:]
    if metric == "unit_tests" and not row.tests:
        return []
    return [
        Question(row.turns[:index], expected, place, row.tests or "", row.tools)
        for index, expected in asked
        if index > 0
    ]


def _answer_all(
    engine: Engine, questions: Sequence[Question], settings: EvaluationArguments, report: _Steps
) -> tuple[list[str], list[str]]:
    """The answers in the order of the questions. The longest prompts go first: too little memory shows at once."""
    prompts = [encode_prompt(engine.tokenizer, question.turns, question.tools) for question in questions]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    greedy = Sampling(max_new_tokens=settings.max_new_tokens, do_sample=False)
    answers = [""] * len(prompts)
    refused: list[GenerationError] = []
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        for index, ids in zip(batch, _generate(engine, [prompts[index] for index in batch], greedy), strict=True):
            if isinstance(ids, GenerationError):
                refused.append(ids)
            else:
                answers[index] = _decode(engine, ids)
        report.add(len(batch))
    return answers, _refusals(refused)


def _generate(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> Sequence[list[int] | GenerationError]:
    """A batch's answers; if the engine refuses it, each prompt alone, so that one bad row costs one row."""
    try:
        return engine.generate_batch(prompts, sampling)
    except GenerationError as error:
        if len(prompts) == 1:
            return [error]
    return [_generate(engine, [prompt], sampling)[0] for prompt in prompts]


def _refusals(refused: Sequence[GenerationError]) -> list[str]:
    if not refused:
        return []
    rows = "1 question" if len(refused) == 1 else f"{len(refused)} questions"
    return [f"{rows} could not be answered and scored 0; the first because: {refused[0]}"]


def _decode(engine: Engine, ids: list[int]) -> str:
    text = engine.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).removeprefix(answer_lead(engine.tokenizer))


def _score(
    metric: str, answers: list[str], questions: Sequence[Question], timeout_s: float, report: _Steps
) -> tuple[dict[str, list[float]], list[str]]:
    """The scores of each row by name, and what there is to say about each row."""
    expected = [question.expected for question in questions]
    silent = [""] * len(answers)
    if metric == "exact_match":
        return {"exact_match": scores.exact_match(answers, expected)}, silent
    if metric == "contains":
        return {"contains": scores.contains(answers, expected)}, silent
    if metric == "rouge":
        return scores.rouge(answers, expected), silent
    tests = [question.tests for question in questions]
    verdicts = unit_tests.run_all(answers, tests, timeout_s, on_progress=lambda done, total: report.add(1))
    details = [f"{verdict.status}: {verdict.message}".removesuffix(": ") for verdict in verdicts]
    return {"pass_at_1": [float(verdict.status == "passed") for verdict in verdicts]}, details


def _as_text(turns: Sequence[Turn]) -> str:
    if any(turn.role == "assistant" for turn in turns):
        return "\n".join(f"{turn.role}: {turn.shown}" for turn in turns)
    return "\n\n".join(turn.content for turn in turns)


def _skipped(metric: str, rows: Sequence[Conversation], questions: Sequence[Question]) -> list[str]:
    used = len({question.conversation for question in questions})
    if used == len(rows):
        return []
    missing = "unit tests" if metric == "unit_tests" else "expected answer"
    return [f"{len(rows) - used} of {len(rows)} test rows have no {missing} and were not scored"]


def _nothing_to_ask(metric: str, count: int) -> str:
    if not count:
        return "there are no test rows to score; give data.test_file, or set evaluation.metric: none"
    if metric == "unit_tests":
        return f"none of the {count} test rows has unit tests (column `tests`); choose another evaluation.metric"
    return f"none of the {count} test rows has an answer to compare with; check the columns of data.test_file"
