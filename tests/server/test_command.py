"""`neuralbot serve` as a process: what it refuses, keys, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from neuralbot import cli
from neuralbot.server import command


def test_other_machines_are_served_with_a_key_or_on_ones_own_risk_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert cli.main(["serve", "seedling", "--host", host]) == 2
        assert "no key is asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which model?"),
        (["seedling", "--slots", "0"], "--slots=0"),
        (["seedling", "--queue", "-1"], "--queue=-1"),
        (["seedling", "--port", "70000"], "--port=70000"),
        (["seedling", "--deadline", "nan"], "--deadline=nan"),
        (["seedling", "--allow-origin", "null"], "sandboxed"),
        (["seedling", "--allow-origin", "page.example"], "expected https://"),
        (["seedling", "--api-keys", "missing.txt"], "cannot be read"),
        (["--make-key", "alice"], "--api-keys FILE"),
        (["no/such/model"], "no/such/model"),
    ],
)
def test_what_cannot_be_used_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", *arguments]) in (2, 4)
    assert message in capsys.readouterr().err


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NEURALBOT_SLOTS", "3")
    monkeypatch.setenv("NEURALBOT_INSECURE", "1")
    monkeypatch.setenv("NEURALBOT_ALLOW_HOST", "a.example,b.example")
    found = command.settings_of(command._parser().parse_args(["seedling", "--queue", "5"]))
    assert (found.slots, found.queue, found.insecure) == (3, 5, True)
    assert found.allowed_hosts == ("a.example", "b.example")
    assert command.settings_of(command._parser().parse_args(["seedling", "--slots", "4"])).slots == 4
    monkeypatch.setenv("NEURALBOT_SLOTS", "many")
    assert cli.main(["serve", "seedling"]) == 2
    assert "NEURALBOT_SLOTS='many'" in capsys.readouterr().err


def test_a_key_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.txt"
    assert cli.main(["serve", "--make-key", "alice", "--api-keys", str(path)]) == 0
    key = capsys.readouterr().out.strip()
    assert len(key) > 40 and key not in path.read_text() and path.read_text().startswith("alice sha256:")


class Process:
    """`neuralbot serve seedling` on a free port."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "neuralbot", "serve", "seedling", "--port", "0", "--engine", "torch", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        assert self.child.stderr is not None
        for line in self.child.stderr:
            if '"listening"' in line:
                self.url = f"http://127.0.0.1:{json.loads(line)['port']}"
                break
        else:
            raise AssertionError("it ended before it listened")
        threading.Thread(target=self.child.stderr.read, daemon=True).start()


def test_told_to_stop_it_finishes_what_it_has_begun_and_takes_nothing_new() -> None:
    process = Process(NEURALBOT_API_KEY="a-key-of-this-test")
    try:
        with httpx.Client(base_url=process.url, headers={"Authorization": "Bearer a-key-of-this-test"}) as client:
            environ = Path(f"/proc/{process.child.pid}/cmdline").read_bytes()
            assert b"a-key-of-this-test" not in environ
            assert client.get("/ready").status_code == 200
            body = {"prompt": "Once", "max_tokens": 200, "stream": True, "temperature": 1, "seed": 1}
            with client.stream("POST", "/v1/completions", json=body | {"logit_bias": {"1": -100}}) as answer:
                events = answer.iter_lines()
                next(events)
                process.child.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                with httpx.Client(base_url=process.url, headers=client.headers) as other:
                    assert other.get("/ready").status_code == 503
                    refused = other.post("/v1/completions", json={"prompt": "x"})
                    assert refused.status_code == 503 and refused.headers["retry-after"]
                    assert other.get("/health").status_code == 200
                rest = [line for line in events if line]
            assert rest[-1] == "data: [DONE]"
            assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
        assert process.child.wait(10) == 0
    finally:
        process.child.kill()


def test_answers_that_take_too_long_are_cut_off_at_the_end_of_the_grace() -> None:
    process = Process("--grace", "0.5")
    try:
        body = {"prompt": "Once", "max_tokens": 900, "stream": True, "logit_bias": {"1": -100}}
        with httpx.stream("POST", f"{process.url}/v1/completions", json=body, timeout=30) as answer:
            events = answer.iter_lines()
            next(events)
            process.child.send_signal(signal.SIGTERM)
            rest = [line for line in events if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "stopping"
        assert process.child.wait(10) == 0
    finally:
        process.child.kill()
