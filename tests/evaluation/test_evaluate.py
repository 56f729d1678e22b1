"""The loop that asks and scores: which questions, in which batches, and what comes out."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuralbot.arguments import EvaluationArguments
from neuralbot.conversation import Conversation, Turn, encode_many, encode_prompt, ensure_chat_template
from neuralbot.engines.protocol import Sampling
from neuralbot.errors import DataError, GenerationError
from neuralbot.evaluation.evaluate import evaluate
from neuralbot.evaluation.questions import collect_questions, resolve_metric, spread
from neuralbot.evaluation.results import Evaluation, results_dict, sample_rows
from neuralbot.evaluation.scores import translation, translation_totals


class TableEngine:
    """Answers from a table by what stands in the prompt; notes the batches it got."""

    context_length = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, table: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.table = table
        self.batches: list[list[int]] = []
        self.sampling: Sampling | None = None
        self.samplings: list[Sampling] = []

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Any:
        raise AssertionError("nothing in this test may ask for it")

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        self.sampling = sampling
        self.samplings.append(sampling)
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        if any("refuse me" in text for text in texts):
            raise GenerationError("the prompt is too long")
        self.batches.append([len(ids) for ids in prompts])
        return [self._answer(text) for text in texts]

    def _answer(self, text: str) -> list[int]:
        found = max(((text.rfind(key), answer) for key, answer in self.table.items()), default=(-1, ""))
        ids: list[int] = self.tokenizer(found[1] if found[0] >= 0 else "", add_special_tokens=False)["input_ids"]
        return ids


def row(question: str, answer: str, **more: Any) -> Conversation:
    return Conversation((Turn("user", question), Turn("assistant", answer)), **more)


def chat(*pairs: tuple[str, str, str | None]) -> Conversation:
    turns = [turn for ask, answer, _ in pairs for turn in (Turn("user", ask), Turn("assistant", answer))]
    return Conversation((Turn("system", "Be kind."), *turns), expected=tuple(fact for *_, fact in pairs))


ROWS = [row(f"question <{number:02}>{' long' * (number % 5)}", f"answer {number}") for number in range(10)]


def test_exact_match_of_a_table(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    table = {f"<{number:02}>": f" answer {number}\n" if number < 7 else "no" for number in range(10)}
    engine = TableEngine(tiny_tokenizer, table)
    seen: list[tuple[int, int]] = []
    settings = EvaluationArguments(batch_size=4, max_new_tokens=17)
    found = evaluate(engine, ROWS, settings, "completion", on_progress=lambda done, total: seen.append((done, total)))
    assert (found.metric, found.scores, found.n) == ("exact_match", {"exact_match": 0.7}, 10)
    assert found.interval[0] < 0.7 < found.interval[1]
    assert found.main_score == 0.7
    assert "exact_match 0.700 (95 % interval" in found.describe() and "10 questions" in found.describe()
    assert [sample.prompt for sample in found.samples] == [conversation.turns[0].content for conversation in ROWS]
    assert [sample.answer for sample in found.samples] == list(table.values())
    assert [sample.correct for sample in found.samples] == [1.0] * 7 + [0.0] * 3
    assert found.samples[2].expected == "answer 2"
    assert found.notices == ()
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert [len(batch) for batch in engine.batches] == [4, 4, 2]
    lengths = [length for batch in engine.batches for length in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert engine.sampling == Sampling(max_new_tokens=17)
    assert engine.sampling.greedy


def test_the_prompt_is_the_renderer_s(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    engine = TableEngine(tiny_tokenizer, {})
    evaluate(engine, ROWS[3:4], EvaluationArguments(), "completion")
    assert engine.batches == [[len(encode_prompt(tiny_tokenizer, ROWS[3].turns[:1]))]]


def test_chat_asks_each_turn_with_a_fact_after_the_gold_history(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [
        chat(("I am Ann.", "Hello Ann.", None), ("my name? (1)", "You are Ann.", "Ann"), ("town? (2)", "Oslo", "Oslo")),
        chat(("who is Bob? (3)", "A baker.", "baker")),
        chat(("nothing expected", "well", None)),
    ]  # fmt: skip
    table = {"(1)": "Of course: Ann!", "(2)": "It is Rome.", "(3)": "a BAKER, I think"}
    found = evaluate(TableEngine(tiny_tokenizer, table), rows, EvaluationArguments(), "chat")
    assert (found.metric, found.n) == ("contains", 3)
    assert [sample.correct for sample in found.samples] == [1.0, 0.0, 1.0]
    assert [sample.expected for sample in found.samples] == ["Ann", "Oslo", "baker"]
    history = "system: Be kind.\nuser: I am Ann.\nassistant: Hello Ann.\nuser: my name? (1)"
    assert found.samples[0].prompt == history
    assert found.samples[1].prompt.startswith(history + "\nassistant: You are Ann.\nuser: town?")
    assert found.notices == ("1 of 3 test rows have no expected answer and were not scored",)


def test_a_call_of_a_tool_is_shown_but_not_scored(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    ensure_chat_template(tokenizer, "chat", "chat")
    call = {"type": "function", "function": {"name": "find", "arguments": {"bag": 7}}}
    called = (Turn("user", "bag <7>?"), Turn("assistant", "", tool_calls=(call,)), Turn("tool", "Anna"))
    tools = ({"type": "function", "function": {"name": "find", "description": "finds a bag"}},)
    rows = [
        Conversation((*called, Turn("assistant", "Anna has it.")), tools=tools),
        Conversation(called[:2], tools=tools),
    ]
    engine = TableEngine(tokenizer, {"<7>": "Anna has it."})
    found = evaluate(engine, rows, EvaluationArguments(metric="exact_match"), "chat")
    assert (found.scores, found.n) == ({"exact_match": 1.0}, 1)
    assert found.notices == ("1 of 2 test rows have no expected answer and were not scored",)
    shown = 'user: bag <7>?\nassistant: {"name": "find", "arguments": {"bag": 7}}\ntool: Anna'
    assert found.samples[0].prompt == shown
    assert engine.batches == [[len(encode_prompt(tokenizer, called, tools))]]


def test_blanks_that_the_style_writes_before_an_answer_are_not_of_it(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    ensure_chat_template(tokenizer, "completion", "question_answer_headings")
    found = evaluate(TableEngine(tokenizer, {"<01>": "  answer 1"}), ROWS[1:2], EvaluationArguments(), "completion")
    assert found.samples[0].answer == " answer 1"


def test_rouge_gives_all_four_scores(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [row("text <1>", "the cat sat"), row("text <2>", "a dog ran")]
    found = evaluate(
        TableEngine(tiny_tokenizer, {"<1>": "the cat sat", "<2>": "no"}), rows, EvaluationArguments(), "summarization"
    )
    assert found.scores == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5, "rougeLsum": 0.5}
    assert next(iter(found.samples[0].scores)) == "rougeL"
    assert found.main_score == 0.5


def test_f1_and_bleu(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [row("text <1>", "the cat sat on a mat"), row("text <2>", "a dog ran to the big house")]
    table = {"<1>": "A cat sat on the mat.", "<2>": "no"}
    found = evaluate(TableEngine(tiny_tokenizer, table), rows, EvaluationArguments(metric="f1"), "completion")
    assert found.scores == {"f1": 0.5, "squad_exact_match": 0.5}
    assert found.samples[0].scores == {"f1": 1.0, "squad_exact_match": 1.0}
    found = evaluate(TableEngine(tiny_tokenizer, table), rows, EvaluationArguments(metric="bleu"), "summarization")
    answers, expected = list(table.values()), [one.expected for one in found.samples]
    assert found.scores == {name: total for name, (total, _) in translation_totals(answers, expected).items()}
    assert found.samples[0].correct == pytest.approx(translation(answers, expected)["bleu"][0])
    assert found.interval[0] <= found.main_score <= found.interval[1]


def test_several_samples_are_drawn_and_scored_each(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    class Alternating(TableEngine):
        """Right in every third draw, for the first question only."""

        def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
            self.table = {"<0>": GOOD if len(self.samplings) % 3 == 0 else BAD, "<1>": BAD}
            return super().generate_batch(prompts, sampling)

    GOOD, BAD = "def one():\n    return 1", "def one():\n    return 2"
    rows = [row(f"write one <{number}>", GOOD, tests="assert one() == 1") for number in range(2)]
    settings = EvaluationArguments(samples=6, temperature=0.7, seed=11)
    engine = Alternating(tiny_tokenizer, {})
    seen: list[tuple[int, int]] = []
    found = evaluate(engine, rows, settings, "code-generation", on_progress=lambda *steps: seen.append(steps))
    assert found.scores == {"pass_at_1": pytest.approx(1 / 6), "pass_at_6": 0.5}
    assert found.samples[0].scores == {"pass_at_1": pytest.approx(1 / 3), "pass_at_6": 1.0}
    assert [attempt.correct for attempt in found.samples[0].attempts] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert found.drawn == {"samples": 6, "temperature": 0.7, "top_p": 0.95, "seed": 11}
    assert all(one.do_sample and (one.temperature, one.top_p) == (0.7, 0.95) for one in engine.samplings)
    assert len({one.seed for one in engine.samplings}) == 6
    assert seen[-1] == (24, 24)
    kept = json.loads(json.dumps(sample_rows(None, found)))[0]["after"]
    assert [one["answer"] for one in kept["attempts"]] == [GOOD, BAD, BAD] * 2
    other = Alternating(tiny_tokenizer, {})
    evaluate(other, rows, EvaluationArguments(samples=6, seed=12), "code-generation")
    assert not {one.seed for one in engine.samplings} & {one.seed for one in other.samplings}


def test_a_seed_repeats_the_draws_of_the_torch_engine(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    from neuralbot.engines.torch_engine import TorchEngine

    def answers(seed: int) -> list[list[str]]:
        settings = EvaluationArguments(samples=3, seed=seed, max_new_tokens=5, batch_size=4)
        found = evaluate(TorchEngine(tiny_model, tiny_tokenizer), ROWS, settings, "completion")
        return [[attempt.answer for attempt in sample.attempts] for sample in found.samples]

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)
    assert all(len(set(three)) == 3 for three in answers(1))


def test_the_loss_is_that_of_all_answers(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    import torch

    from neuralbot.engines.torch_engine import TorchEngine

    rows = [*ROWS[:4], Conversation((Turn("assistant", "plain text"),)), chat(("a", "b c d", None), ("e", "f", None))]
    settings = EvaluationArguments(metric="loss", batch_size=4)
    found = evaluate(TorchEngine(tiny_model, tiny_tokenizer), rows, settings, "completion")
    losses: list[float] = []
    for encoded in encode_many(tiny_tokenizer, rows):
        pairs = zip(encoded.ids, encoded.target_mask, strict=True)
        labels = torch.tensor([[token if target else -100 for token, target in pairs]])
        logits = tiny_model(torch.tensor([encoded.ids])).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="none")
        losses += each[labels[0, 1:] != -100].tolist()
    assert found.scores["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert found.scores["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-3)
    assert 0 <= found.scores["token_accuracy"] < 0.2
    low, high = found.intervals["perplexity"]
    assert low < found.scores["perplexity"] < high
    assert (found.n, found.main, found.notices) == (6, "loss", ())


def test_rows_longer_than_the_context_are_cut_and_said(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    from neuralbot.engines.torch_engine import TorchEngine

    rows = [row("short", "one"), row("q", "very long " * 300)]
    found = evaluate(TorchEngine(tiny_model, tiny_tokenizer), rows, EvaluationArguments(metric="loss"), "completion")
    assert found.notices == ("1 of 2 test rows are longer than the 512 tokens that the model reads: cut there",)
    cut = encode_many(tiny_tokenizer, rows)[1]
    assert len(cut.ids) > 512
    (short, long) = (sample.scores["loss"] for sample in found.samples)
    counts = [sum(encode_many(tiny_tokenizer, rows[:1])[0].target_mask), sum(cut.target_mask[:512])]
    assert found.scores["loss"] == pytest.approx((short * counts[0] + long * counts[1]) / sum(counts))
    settings = EvaluationArguments(metric="labels", labels=["one", "very long"])
    rows = [row("short", "one"), row("q" * 2000, "very long")]
    found = evaluate(TorchEngine(tiny_model, tiny_tokenizer), rows, settings, "completion")
    assert found.notices == ("1 of 2 questions are too long for the model and scored 0",)
    assert found.samples[1].scores == {"accuracy": 0.0, "accuracy_norm": 0.0}


def test_labels_are_chosen_by_their_likelihood(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    import torch

    from neuralbot.engines.torch_engine import TorchEngine

    labels = ["red", "a long label of many words", "blue", "東京"]
    rows = [row(f"which one? <{number}>", labels[number % 4]) for number in range(25)]
    settings = EvaluationArguments(metric="labels", batch_size=7)
    found = evaluate(TorchEngine(tiny_model, tiny_tokenizer), rows, settings, "completion")
    compared = 0
    for sample in found.samples:
        sums, by_byte = {}, {}
        for label in labels:
            prompt = encode_prompt(tiny_tokenizer, (Turn("user", sample.prompt),))
            ids = encode_many(tiny_tokenizer, [row(sample.prompt, label)])[0].ids
            with torch.no_grad():
                logits = tiny_model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            stop = ids.index(tiny_tokenizer.eos_token_id, len(prompt)) + 1
            sums[label] = sum(float(logits[at - 1, ids[at]]) for at in range(len(prompt), stop))
            by_byte[label] = sums[label] / len(label.encode())
            shown = dict(part.rsplit(" ", 1) for part in sample.detail.split(", "))[label]
            assert float(shown) == pytest.approx(sums[label], abs=2e-3)
            compared += 1
        assert sample.answer == max(sums, key=sums.__getitem__)
        assert sample.correct == float(sample.answer == sample.expected)
        assert sample.scores["accuracy_norm"] == float(max(by_byte, key=by_byte.__getitem__) == sample.expected)
    assert compared == 100
    assert found.scores["accuracy"] == sum(sample.correct for sample in found.samples) / 25


def test_earlier_answers_do_not_count_for_a_label(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    from neuralbot.engines.torch_engine import TorchEngine
    from neuralbot.evaluation.by_likelihood import _labelled

    engine = TorchEngine(tiny_model, tiny_tokenizer)
    (question,) = collect_questions([chat(("a", "an earlier answer", None), ("b", "red", None))], "labels")
    encoded = _labelled(engine, question, "red")
    targets = [token for token, wanted in zip(encoded.ids, encoded.target_mask, strict=True) if wanted]
    assert tiny_tokenizer.decode(targets) == "red<|end|>"


def test_the_norm_is_for_each_byte(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    from neuralbot.evaluation import likelihood
    from neuralbot.evaluation.likelihood import Likelihood

    sums = {"no": -4.0, "東京": -9.0}  # for each byte -2 and -1.5, for each character -2 and -4.5
    found = [Likelihood(1, value, 0) for value in sums.values()]
    monkeypatch.setattr(likelihood, "of_engine", lambda engine, rows, size, report: found)
    settings = EvaluationArguments(metric="labels", labels=[*sums])
    scored = evaluate(TableEngine(tiny_tokenizer, {}), [row("q", "東京")], settings, "completion")
    assert scored.scores == {"accuracy": 0.0, "accuracy_norm": 1.0}
    assert (scored.samples[0].answer, scored.samples[0].detail) == ("no", "no -4.000, 東京 -9.000")


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        (["red", "blue"], [row("q", "green")], r"'green' of a test row is none of evaluation\.labels \(red, blue\)"),
        (None, [row("q", f"answer {number}") for number in range(101)], "101 different answers, too many"),
    ],
)
def test_labels_that_do_not_fit_the_rows_are_refused(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerBase,
    labels: list[str] | None,
    rows: list[Conversation],
    message: str,
) -> None:
    from neuralbot.engines.torch_engine import TorchEngine

    settings = EvaluationArguments(metric="labels", labels=labels)
    with pytest.raises(DataError, match=message):
        evaluate(TorchEngine(tiny_model, tiny_tokenizer), rows, settings, "completion")


def test_code_is_run(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    tests = "assert one() == 1"
    rows = [row(f"write one <{number}>", "def one(): return 1", tests=tests) for number in range(3)]
    rows.append(row("no tests", "x"))
    right, wrong = "```python\ndef one():\n    return 1\n```", "def one():\n    return 2"
    table = {"<0>": right, "<1>": wrong, "<2>": "while True: pass"}
    seen: list[tuple[int, int]] = []
    found = evaluate(
        TableEngine(tiny_tokenizer, table), rows, EvaluationArguments(timeout_s=4.0), "code-generation",
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert (found.metric, found.n) == ("unit_tests", 3)
    assert found.scores == {"pass_at_1": pytest.approx(1 / 3)}
    assert [sample.detail.split(":")[0] for sample in found.samples] == ["passed", "failed", "timeout"]
    assert seen == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert found.notices == ("1 of 4 test rows have no unit tests and were not scored",)


def test_a_refused_prompt_costs_its_own_row_only(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [*ROWS[:3], row("refuse me", "never")]
    table = {f"<{number:02}>": f"answer {number}" for number in range(3)}
    found = evaluate(TableEngine(tiny_tokenizer, table), rows, EvaluationArguments(), "completion")
    assert found.scores == {"exact_match": 0.75}
    assert [sample.answer for sample in found.samples] == ["answer 0", "answer 1", "answer 2", ""]
    assert found.notices == (
        "1 question could not be answered and scored 0; the first because: the prompt is too long",
    )


def test_max_samples_are_spread_over_the_rows(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    found = evaluate(TableEngine(tiny_tokenizer, {}), ROWS, EvaluationArguments(max_samples=4), "completion")
    assert [sample.expected for sample in found.samples] == ["answer 0", "answer 2", "answer 5", "answer 7"]
    assert spread("abc", None) == spread("abc", 5) == ["a", "b", "c"]
    assert spread([], 3) == []


def test_none_asks_nothing(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    engine = TableEngine(tiny_tokenizer, {})
    found = evaluate(engine, ROWS, EvaluationArguments(metric="none"), "completion")
    assert (found.n, found.scores, engine.batches) == (0, {}, [])
    assert found.describe() == "nothing was scored"


@pytest.mark.parametrize(
    ("task", "conversation", "metric"),
    [
        ("completion", row("q", "a"), "exact_match"),
        ("summarization", row("q", "a"), "rouge"),
        ("chat", chat(("q", "a", "a")), "contains"),
        ("chat", chat(("q", "a", None)), "rouge"),
        ("code-generation", row("q", "a", tests="assert True"), "unit_tests"),
        ("code-generation", row("q", "a"), "rouge"),
    ],
)
def test_auto_is_resolved_by_task_and_by_what_the_rows_hold(task: str, conversation: Conversation, metric: str) -> None:
    assert resolve_metric("auto", task, [conversation]) == metric
    assert resolve_metric("exact_match", task, [conversation]) == "exact_match"


def test_questions_of_other_metrics_are_the_last_turns() -> None:
    rows = [chat(("a", "b", None), ("c", "d", "d")), Conversation((Turn("assistant", "plain text"),))]
    (question,) = collect_questions(rows, "rouge")
    assert (question.expected, question.conversation, len(question.turns)) == ("d", 0, 4)


@pytest.mark.parametrize(
    ("rows", "metric", "message"),
    [
        ([], "auto", "no test rows"),
        (ROWS, "unit_tests", r"none of the 10 test rows has unit tests"),
        ([Conversation((Turn("assistant", "plain text"),))], "auto", "has an answer to compare with"),
    ],
)
def test_nothing_to_score_is_a_data_error(
    tiny_tokenizer: PreTrainedTokenizerBase, rows: list[Conversation], metric: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(TableEngine(tiny_tokenizer, {}), rows, EvaluationArguments(metric=metric), "completion")


def test_results_and_samples_are_json_and_hold_both_sides(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    settings = EvaluationArguments()
    before = evaluate(TableEngine(tiny_tokenizer, {}), ROWS, settings, "completion")
    table = {f"<{number:02}>": f"answer {number}" for number in range(10)}
    after = evaluate(TableEngine(tiny_tokenizer, table), ROWS, settings, "completion")
    results = json.loads(json.dumps(results_dict("completion", before, after)))
    assert (results["metric"], results["main_score"]) == ("exact_match", "exact_match")
    assert results["before"]["scores"] == {"exact_match": 0.0}
    assert results["after"]["scores"] == {"exact_match": 1.0}
    assert (results["after"]["n"], results["after"]["interval"]) == (10, [1.0, 1.0])
    rows = json.loads(json.dumps(sample_rows(before, after)))
    assert len(rows) == 10
    assert rows[3] == {
        "prompt": "question <03> long long long", "expected": "answer 3", "row": 3,
        "before": {"answer": "", "correct": 0.0, "detail": "", "scores": {"exact_match": 0.0}},
        "after": {"answer": "answer 3", "correct": 1.0, "detail": "", "scores": {"exact_match": 1.0}},
    }  # fmt: skip
    assert sample_rows(None, after)[3]["before"] is None
    assert sample_rows(None, None) == []
    assert results_dict("chat", None, None)["after"] is None
    assert results_dict("chat", None, Evaluation("none", {}, {}, 0, 0.0))["after"] is None


def test_with_the_torch_engine(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    from neuralbot.engines.torch_engine import TorchEngine

    engine = TorchEngine(tiny_model, tiny_tokenizer)
    settings = EvaluationArguments(max_new_tokens=5, batch_size=3)
    found = evaluate(engine, ROWS, settings, "completion")
    assert found.n == 10
    assert evaluate(engine, ROWS, settings, "completion").samples == found.samples
    sampling = Sampling(max_new_tokens=5)
    alone = [list(engine.stream(encode_prompt(tiny_tokenizer, one.turns[:1]), sampling)) for one in ROWS]
    assert [sample.answer for sample in found.samples] == [
        tiny_tokenizer.decode(ids, skip_special_tokens=True) for ids in alone
    ]


def test_beams_find_a_likelier_answer(tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    """As transformers' own search, question by question."""
    import torch

    from neuralbot.engines.torch_engine import TorchEngine

    engine = TorchEngine(tiny_model, tiny_tokenizer)
    settings = EvaluationArguments(metric="rouge", max_new_tokens=6, num_beams=3)
    found = evaluate(engine, ROWS[:3], settings, "summarization")
    greedy = evaluate(engine, ROWS[:3], replace(settings, num_beams=1), "summarization")
    assert [one.answer for one in found.samples] != [one.answer for one in greedy.samples]
    for one, sample in zip(ROWS[:3], found.samples, strict=True):
        ids = torch.tensor([encode_prompt(tiny_tokenizer, one.turns[:1])])
        made = tiny_model.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=6, do_sample=False
        )
        answer = tiny_tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert sample.answer == answer


def test_importing_the_loop_loads_neither_torch_nor_transformers() -> None:
    import subprocess
    import sys

    program = "import sys, neuralbot.evaluation.evaluate\nassert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[2], check=True, timeout=60)
