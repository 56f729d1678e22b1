"""Both engines on the shipped test rows: the same ids in float32, and as near to them in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuralbot import chat_engine
from neuralbot.conversation import encode_prompt
from neuralbot.data import origins
from neuralbot.data.bad_rows import BadRows
from neuralbot.engines import export
from neuralbot.engines.protocol import Sampling
from neuralbot.evaluation.questions import collect_questions, spread
from neuralbot.neural_chat.config import PipelineConfig
from neuralbot.transformers import MixedPrecisionConfig

pytestmark = pytest.mark.skipif(export.missing() is not None, reason=f"{export.missing()} is not installed")

DATA = Path(__file__).parents[2] / "data"
ROWS = (
    ("alpaca/test.json", "completion"),
    ("chat/test.jsonl", "chat"),
    ("code/test.jsonl", "code-generation"),
    ("summarization/test.csv", "summarization"),
)


@pytest.mark.slow
def test_the_engines_agree_on_the_shipped_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: Any = request.config.cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.mkdir("neuralbot")))
    answers = {
        (engine, dtype): _answers(engine, dtype)
        for engine in ("torch", "openvino")
        for dtype in ("float32", "bfloat16")
    }
    right = answers["torch", "float32"]
    assert answers["openvino", "float32"] == right
    near = {
        engine: sum(a == b for a, b in zip(answers[engine, "bfloat16"], right, strict=True)) / len(right)
        for engine in ("torch", "openvino")
    }
    print(f"answers in bfloat16 that are those in float32, of {len(right)}: {near}")
    assert near["openvino"] >= near["torch"] - 0.05


def _answers(engine: str, dtype: Any) -> list[list[int]]:
    config = PipelineConfig("seedling", optimization_config=MixedPrecisionConfig(dtype), engine=engine)
    loaded: Any = chat_engine.load(config).engine
    prompts = []
    for file, task in ROWS:
        rows = list(origins.of_file(str(DATA / file), task, BadRows(), None))
        for question in spread(collect_questions(rows, "exact_match"), 60):
            prompts.append(encode_prompt(loaded.tokenizer, question.turns, question.tools))
    found: list[list[int]] = loaded.generate_batch(prompts, Sampling(max_new_tokens=48))
    if engine == "openvino":
        loaded.close()
    return found
