"""The fast engine against the torch engine, and against itself: many at once, stopped, with grammars, with guesses."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from neuralbot.engines import openvino_engine
from neuralbot.engines.openvino_engine import Answer, Exported, OpenVinoEngine
from neuralbot.engines.openvino_worker import Crash, Request
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.errors import GenerationError, ModelError, ResourceError

GREEDY = Sampling(max_new_tokens=24)
SAMPLED = Sampling(max_new_tokens=24, do_sample=True, temperature=1.5, top_k=30, top_p=0.9, seed=7)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [40], [20, 21, 22], [60, 61, 62, 63, 64], list(range(5, 300))]


@pytest.fixture(scope="module")
def engine(exported: Exported, tiny_tokenizer: Any) -> Iterator[OpenVinoEngine]:
    engine = OpenVinoEngine(exported, tiny_tokenizer)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(tiny_model: LlamaForCausalLM, tiny_tokenizer: Any) -> TorchEngine:
    engine = TorchEngine(tiny_model, tiny_tokenizer)
    engine.end_ids = frozenset()
    return engine


@pytest.mark.parametrize("sampling", [GREEDY, replace(GREEDY, repetition_penalty=1.3)])
def test_greedy_ids_are_those_of_the_torch_engine(
    engine: OpenVinoEngine, reference: TorchEngine, sampling: Sampling
) -> None:
    for prompt in PROMPTS:
        assert list(engine.stream(prompt, sampling)) == list(reference.stream(prompt, sampling))


def test_a_batch_is_what_its_streams_are(engine: OpenVinoEngine) -> None:
    alone = [list(engine.stream(prompt, SAMPLED)) for prompt in PROMPTS]
    assert engine.generate_batch(PROMPTS, SAMPLED) == alone
    several = engine.generate_batch(PROMPTS[:1], replace(SAMPLED, num_return_sequences=3))
    assert several == [list(engine.stream(PROMPTS[0], replace(SAMPLED, seed=seed))) for seed in (7, 8, 9)]
    assert len({tuple(answer) for answer in several}) == 3


def test_without_a_seed_each_answer_is_another(engine: OpenVinoEngine) -> None:
    answers = engine.generate_batch([PROMPTS[0]] * 4, replace(SAMPLED, seed=None))
    assert len({tuple(answer) for answer in answers}) == 4


def test_seeds_of_64_bits_differ(engine: OpenVinoEngine) -> None:
    first, second = (list(engine.stream(PROMPTS[0], replace(SAMPLED, seed=seed))) for seed in (7, 7 + 2**32))
    assert first != second


def test_tokens_are_drawn_as_often_as_the_model_says(engine: OpenVinoEngine, tiny_model: LlamaForCausalLM) -> None:
    sampling = Sampling(max_new_tokens=1, do_sample=True, temperature=0.5, top_k=4, top_p=0.9)
    drawn = Counter(
        answer[0] for seed in range(600) for answer in engine.generate_batch([PROMPTS[0]], replace(sampling, seed=seed))
    )
    with torch.inference_mode():
        logits = tiny_model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.5
    shares, places = logits.topk(4).values.softmax(-1), logits.topk(4).indices.tolist()
    kept = [place for place, before in zip(places, shares.cumsum(-1) - shares, strict=True) if before < 0.9]
    total = sum(float(share) for share, _ in zip(shares, kept, strict=False))
    assert set(drawn) == set(kept)
    for place, share in zip(kept, shares, strict=False):
        expected = float(share) / total
        assert abs(drawn[place] / 600 - expected) < 4 * math.sqrt(expected / 600)


def test_logprobs_are_those_of_the_model(engine: OpenVinoEngine, tiny_model: LlamaForCausalLM) -> None:
    answer = engine.stream(PROMPTS[0], replace(GREEDY, logprobs=True))
    ids = list(answer)
    with torch.inference_mode():
        logits = tiny_model(torch.tensor([PROMPTS[0] + ids])).logits[0, len(PROMPTS[0]) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(ids)), ids]
    assert isinstance(answer, Answer)
    assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_an_end_token_ends_an_answer_and_is_left_out(exported: Exported, engine: OpenVinoEngine) -> None:
    plain = list(engine.stream(PROMPTS[0], GREEDY))
    ending = OpenVinoEngine(replace(exported, end_ids=frozenset({plain[5]})), engine.tokenizer)
    try:
        assert list(ending.stream(PROMPTS[0], GREEDY)) == plain[: plain.index(plain[5])]
    finally:
        ending.close()


def test_a_closed_stream_stops_and_others_go_on(engine: OpenVinoEngine) -> None:
    long = replace(GREEDY, max_new_tokens=400)
    expected = list(engine.stream(PROMPTS[1], replace(long, max_new_tokens=40)))
    worker = engine._workers["plain"]
    kept, closing, dropped = (engine.stream(prompt, long) for prompt in (PROMPTS[1], PROMPTS[2], PROMPTS[3]))
    assert isinstance(closing, Answer)
    for answer in (closing, dropped):
        next(answer)
    assert worker.running == 3
    closing.close()
    del answer, dropped
    _wait_until(lambda: worker.running == 1)
    assert list(closing) == []
    assert list(islice(kept, 40)) == expected
    assert worker.running == 1, "the work on those that were left ended long before their answers would have"
    kept.close()  # type: ignore[attr-defined]
    _wait_until(lambda: worker.running == 0)


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_openvino_stays_out_of_the_process_that_asks(exported: Exported) -> None:
    """GenAI's step holds the global lock of the interpreter that calls it: a server could do nothing else meanwhile."""
    program = f"{_ASKING}print(len(list(answer)), 'openvino' in sys.modules, 'openvino_genai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program.format(str(exported.folder))], capture_output=True, text=True)
    assert done.stdout == "400 False False\n", done.stderr


_ASKING = """
import os, sys
from pathlib import Path
from neuralbot.engines.openvino_engine import *
engine = OpenVinoEngine(Exported(Path({!r}), 512, 512, frozenset()), None)
answer = engine.stream([5], Sampling(max_new_tokens=400))
"""


def test_a_process_that_dies_fails_its_requests_and_is_replaced(
    engine: OpenVinoEngine, caplog: pytest.LogCaptureFixture
) -> None:
    expected = list(engine.stream(PROMPTS[0], GREEDY))
    answers = [engine.stream(prompt, replace(GREEDY, max_new_tokens=400)) for prompt in PROMPTS[:3]]
    for answer in answers:
        next(answer)
    engine._workers["plain"]._process._child.kill()
    for answer in answers:
        with pytest.raises(GenerationError, match="its process ended with SIGKILL"):
            list(answer)
    assert list(engine.stream(PROMPTS[0], GREEDY)) == expected
    assert [record.message for record in caplog.records] == [
        "a step failed (its process ended with SIGKILL): 0 of 3 requests are made again"
    ]


def test_a_process_ends_with_the_one_that_asks(exported: Exported) -> None:
    program = f"{_ASKING}print(engine._workers['plain']._process.pid, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", program.format(str(exported.folder))], capture_output=True, text=True)
    assert done.stdout, done.stderr
    _wait_until(lambda: not Path(f"/proc/{done.stdout.strip()}").exists())


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("import os; os.kill(os.getpid(), 8)", Crash, "its process ended with SIGFPE"),
        ("import os; os.kill(os.getpid(), 9)", ResourceError, "its process ended with SIGKILL; it needs more memory"),
        ("raise RuntimeError", ModelError, "its process ended with status 1"),
    ],
)
def test_a_crash_of_openvino_is_none_of_ours(
    exported: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: type[Exception],
    words: str,
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(error, match=words) as raised:
        OpenVinoEngine(exported, None)  # type: ignore[arg-type]
    assert type(raised.value) is error


def test_weights_that_are_not_numbers_are_found_before_they_answer(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "copy", copy_function=shutil.copyfile))
    weights = folder / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="its weights may hold NaN"):
        OpenVinoEngine(replace(exported, folder=folder), None)  # type: ignore[arg-type]


def test_closing_ends_a_reader_that_waits(engine: OpenVinoEngine) -> None:
    answer = engine.stream(PROMPTS[0], replace(GREEDY, max_new_tokens=500))
    assert isinstance(answer, Answer)
    ids: list[int] = []
    begun = threading.Event()

    def read() -> None:
        for token in answer:
            ids.append(token)
            begun.set()

    reader = ThreadPoolExecutor(1).submit(read)
    assert begun.wait(5)
    answer.close()
    reader.result(timeout=5)
    assert len(ids) < 500


def test_answers_by_a_grammar(exported: Exported, tiny_tokenizer: Any) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]})
    engine = OpenVinoEngine(replace(exported, end_ids=frozenset({tiny_tokenizer.eos_token_id})), tiny_tokenizer)
    free = replace(SAMPLED, max_new_tokens=300, top_k=0)
    try:
        for seed in range(5):
            ids = list(engine.stream(PROMPTS[0], replace(free, seed=seed, json_schema=schema)))
            assert json.loads(tiny_tokenizer.decode(ids))["a"] in ("x", "y")
            ids = list(engine.stream(PROMPTS[0], replace(free, seed=seed, regex="[a-c]{3}-[0-9]{2}")))
            assert re.fullmatch("[a-c]{3}-[0-9]{2}", tiny_tokenizer.decode(ids))
    finally:
        engine.close()


def test_a_grammar_that_breaks_a_step_fails_alone(engine: OpenVinoEngine) -> None:
    long, drawn = replace(GREEDY, max_new_tokens=200), replace(SAMPLED, max_new_tokens=200)
    expected = [list(engine.stream(prompt, how)) for prompt, how in zip(PROMPTS[1:3], (long, drawn), strict=True)]
    answers = [engine.stream(prompt, how) for prompt, how in zip(PROMPTS[1:3], (long, drawn), strict=True)]
    begun = [list(islice(answer, 5)) for answer in answers]
    bad = engine.stream(PROMPTS[0], replace(GREEDY, json_schema='{"type": 5}'))
    with pytest.raises(GenerationError, match="Type should be a string"):
        next(bad)
    assert [first + list(rest) for first, rest in zip(begun, answers, strict=True)] == expected
    assert list(engine.stream(PROMPTS[1], long)) == expected[0]


def test_genais_penalties_are_not_openais(engine: OpenVinoEngine, reference: TorchEngine) -> None:
    """GenAI adds them to logits below zero, so that some tokens come again. Where it does not, `_beyond` can let go."""
    values = openvino_engine._values(GREEDY, 24, frozenset(), "plain") | {"presence_penalty": 2.0}
    theirs = list(Answer(engine._worker("plain"), Request(PROMPTS[0], values, may_fail=False), frozenset()))
    penalized = replace(GREEDY, max_new_tokens=24, presence_penalty=2.0)
    assert len(set(reference.stream(PROMPTS[0], penalized))) == len(theirs) == 24
    assert len(set(theirs)) < 24


@pytest.mark.parametrize("mode", ["lookup", "draft"])
def test_guessing_ahead_changes_no_greedy_answer(
    exported: Exported, engine: OpenVinoEngine, reference: TorchEngine, mode: Any
) -> None:
    guessing = OpenVinoEngine(exported, engine.tokenizer, mode=mode, draft=exported.folder)
    prompts = [*PROMPTS, [7, 8, 9] * 20]
    try:
        for sampling in (GREEDY, replace(GREEDY, repetition_penalty=1.3)):
            assert guessing.generate_batch(prompts, sampling) == reference.generate_batch(prompts, sampling)
        assert list(guessing.stream(PROMPTS[0], SAMPLED)) == list(engine.stream(PROMPTS[0], SAMPLED))
    finally:
        guessing.close()


def test_prompts_that_cannot_be_used(engine: OpenVinoEngine) -> None:
    for prompt, words in (
        ([5] * 513, "513 tokens, but the model reads at most 512"),
        ([], "no tokens"),
        ([600000], "vocabulary"),
    ):
        with pytest.raises(GenerationError, match=words):
            engine.stream(prompt, GREEDY)
    assert len(list(engine.stream([5] * 505, GREEDY))) == 7


def test_what_it_has_not_is_asked_of_the_torch_engine(
    exported: Exported, engine: OpenVinoEngine, reference: TorchEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GenerationError, match="num_beams=2 is not offered"):
        engine.generate_batch(PROMPTS[:1], replace(GREEDY, num_beams=2))
    both = OpenVinoEngine(exported, engine.tokenizer, reference=lambda: reference)
    try:
        forbidden = replace(GREEDY, bad_words_ids=((5,),))
        for how in (replace(GREEDY, num_beams=2), forbidden):
            assert both.generate_batch(PROMPTS[:1], how) == reference.generate_batch(PROMPTS[:1], how)
        assert list(both.stream(PROMPTS[0], forbidden)) == list(reference.stream(PROMPTS[0], forbidden))
    finally:
        both.close()
    assert [record.message for record in caplog.records] == [
        "num_beams=2 is not offered by the OpenVINO engine: the torch engine is loaded beside it"
    ]


def test_a_closed_engine_says_so(exported: Exported, tiny_tokenizer: Any) -> None:
    engine = OpenVinoEngine(exported, tiny_tokenizer)
    answer = engine.stream(PROMPTS[0], replace(GREEDY, max_new_tokens=500))
    engine.close()
    with pytest.raises(GenerationError, match="closed"):
        list(answer)
    with pytest.raises(GenerationError, match="closed"):
        engine.stream(PROMPTS[0], GREEDY)


@pytest.mark.parametrize("tokens", [6_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_64_streams_lose_repeat_and_cross_no_token(engine: OpenVinoEngine, tokens: int) -> None:
    """Streams join when they like, some are closed on their way; what each gives is the beginning of its own answer.

    Half of the prompts are beginnings of one text, so that they share what the cache holds.
    """
    chance = random.Random(3)
    hows = [replace(GREEDY, max_new_tokens=100), replace(SAMPLED, max_new_tokens=100)]
    text = [chance.randrange(5, 500) for _ in range(60)]
    lengths = [chance.randrange(1, 60) for _ in range(16)]
    prompts = [text[:length] for length in lengths[:8]]
    prompts += [[chance.randrange(5, 500) for _ in range(length)] for length in lengths[8:]]
    asked = [(prompt, how) for how in hows for prompt in prompts]
    expected = [list(engine.stream(prompt, how)) for prompt, how in asked]
    given, lock = Counter[str](), threading.Lock()

    def client(number: int) -> None:
        own = random.Random(number)
        while given["tokens"] < tokens:
            place = own.randrange(len(asked))
            prompt, how = asked[place]
            answer = engine.stream(prompt, how)
            wanted = own.choice([None, None, own.randrange(1, 100)])
            ids = list(islice(answer, wanted))
            assert ids == expected[place][:wanted]
            if wanted is not None:
                answer.close()  # type: ignore[attr-defined]
            with lock:
                given["tokens"] += len(ids)
                given["stopped" if wanted else "whole"] += 1
            time.sleep(own.random() / 100)

    with ThreadPoolExecutor(64) as pool:
        for done in [pool.submit(client, number) for number in range(64)]:
            done.result(timeout=600)
    assert given["stopped"] and given["whole"]


def test_nobody_is_told_that_it_runs(
    exported: Exported, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's telemetry writes a number for the user into the home folder before it sends anything."""
    monkeypatch.setenv("HOME", str(tmp_path))
    OpenVinoEngine(exported, tiny_tokenizer).close()
    assert list(tmp_path.iterdir()) == []


def test_an_answer_can_be_listened_to_instead_of_waited_for(engine: OpenVinoEngine) -> None:
    expected = list(engine.stream(PROMPTS[0], Sampling(max_new_tokens=12)))
    answer: Any = engine.stream(PROMPTS[0], Sampling(max_new_tokens=12, logprobs=True))
    ready = threading.Event()
    answer.listen(ready.set)
    ids: list[int] = []
    over = False
    while not over:
        assert ready.wait(30)
        ready.clear()
        fresh, over = answer.take()
        ids += fresh
        assert len(answer.logprobs) == len(ids)
    assert ids == expected and answer.take() == ([], True)
