"""What the Dockerfile starts, started here: its own environment, its own words; and ITREX's way to start a server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from neuralbot.errors import RecipeError, UsageError
from neuralbot.neural_chat.server.neuralchat_server import arguments_of, main

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def started(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """The process, when it listens."""
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    assert child.stderr is not None
    for line in child.stderr:
        if '"listening"' in line:
            return child
    raise AssertionError(f"it ended with {child.wait()}")


def test_the_containers_command_serves_sagemakers_contract(base: Path) -> None:
    text = DOCKERFILE.read_text()
    environment = dict(pair.split("=") for pair in re.search(r"^ENV (.*)$", text, re.M)[1].split())  # type: ignore[index]
    words = [json.loads(re.search(rf"^{name} (.*)$", text, re.M)[1]) for name in ("ENTRYPOINT", "CMD")]  # type: ignore[index]
    assert environment["NEURALBOT_MODEL"] == "/opt/ml/model" and words == [["neuralbot"], ["serve"]]
    port = free_port()
    environment |= {"NEURALBOT_MODEL": str(base), "NEURALBOT_PORT": str(port), "NEURALBOT_INSECURE": "1"}
    child = started([sys.executable, "-m", "neuralbot", *words[1]], environment)
    try:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/ping").status_code == 200
        page = {"inputs": "Who invented it?", "parameters": {"max_new_tokens": 8, "top_p": 0.9, "temperature": 0.8}}
        (answer,) = httpx.post(f"{url}/invocations", json=page, timeout=60).json()
        assert set(answer) == {"generation"}
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    finally:
        child.kill()


def write(path: Path, **values: Any) -> Path:
    whole = {
        "host": "127.0.0.1",
        "port": 8000,
        "model_name_or_path": "seedling",
        "device": "cpu",
        "tasks_list": ["textchat"],
    }
    path.write_text(yaml.safe_dump(whole | values))
    return path


def test_a_neuralchat_yaml_becomes_the_options_of_serve(tmp_path: Path) -> None:
    path = write(tmp_path / "neuralchat.yaml", peft_model_path="adapter", use_deepspeed=False, world_size=1)
    expected = ["seedling", "--host=127.0.0.1", "--port=8000", "--device=cpu", "--adapter=adapter"]
    assert arguments_of(path) == expected


def test_all_that_is_not_offered_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "neuralchat.yaml",
        tasks_list=["textchat", "voicechat"],
        use_deepspeed=True,
        retrieval={"enable": True},
        host=None,
    )
    with pytest.raises(RecipeError) as refused:
        arguments_of(path)
    assert {problem.key for problem in refused.value.problems} == {"tasks_list", "use_deepspeed", "retrieval", "host"}
    assert main(["start", "--config_file", str(path)]) == 2
    assert "'voicechat' is not offered" in capsys.readouterr().err
    for text in ("a: [", "- 1", ""):
        path.write_text(text)
        with pytest.raises(UsageError):
            arguments_of(path)


def test_the_executor_serves(base: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log.txt"
    path = write(tmp_path / "neuralchat.yaml", model_name_or_path=str(base), port=port)
    script = (
        "from neuralbot.neural_chat import NeuralChatServerExecutor\n"
        f"NeuralChatServerExecutor()(config_file={str(path)!r}, log_file={str(log)!r})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), base_url=f"http://127.0.0.1:{port}") as client:
            body = {"model": base.name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
            assert client.post("/v1/chat/completions", json=body, timeout=60).json()["usage"]["completion_tokens"] <= 3
            assert client.post("/v1/models").json()["data"][0]["id"] == base.name  # as neural_chat's server had it
        assert '"listening"' in log.read_text()
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    finally:
        child.kill()
