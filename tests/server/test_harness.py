"""lm-evaluation-harness scores through /v1/completions what it scores in process; and curl asks as the README does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neuralbot.evaluation import lm_harness
from tests.evaluation.test_lm_harness import task
from tests.server.conftest import Live

__all__ = ["task"]


@pytest.mark.slow
def test_a_task_scores_the_same_over_http_and_in_process(
    live: Live, base: Path, task: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    pytest.importorskip("tenacity")
    from lm_eval import simple_evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    tasks = lm_harness.find([str(task)])
    expected = lm_harness.run(tiny_model, tiny_tokenizer, tasks, batch_size=4)
    model = LocalCompletionsAPI(
        model="tiny", base_url=f"{live.url}/v1/completions", tokenizer=str(base), batch_size=4, max_length=512
    )
    found: Any = simple_evaluate(model, tasks=list(tasks.names), task_manager=tasks.manager, bootstrap_iters=0)
    assert found["results"]["colours"]["acc,none"] == expected.scores["colours"]["acc"]
    for ours, theirs in zip(found["samples"]["colours"], expected.samples, strict=True):
        assert [one[0] for one in ours["filtered_resps"]] == pytest.approx(
            [one[0] for one in theirs["filtered_resps"]], abs=1e-3
        )


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(live: Live) -> None:
    ask = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    command = ["curl", "-sN", f"{live.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d"]
    answer = json.loads(subprocess.run([*command, json.dumps(ask)], capture_output=True, check=True).stdout)
    text = answer["choices"][0]["message"]["content"]
    events = subprocess.run([*command, json.dumps(ask | {"stream": True})], capture_output=True, check=True).stdout
    chunks = [json.loads(line[6:]) for line in events.decode().splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
