"""The terminal chat on a tiny saved model, through a pipe and line by line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuralbot.chatbot import Chatbot, build_chatbot
from neuralbot.conversation import Turn
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.torch_engine import TorchEngine
from neuralbot.errors import ModelError, UsageError
from neuralbot.neural_chat import MixedPrecisionConfig, PipelineConfig
from neuralbot.terminal import Session, main

SERVING = {"system_prompt": "Be brief.", "do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_tokenizer: Any) -> Path:
    path = tmp_path_factory.mktemp("run")
    tiny_model.save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    (path / "serving.json").write_text(json.dumps(SERVING))
    return path


@pytest.fixture(scope="module")
def chatbot(folder: Path) -> Chatbot:
    return build_chatbot(PipelineConfig(str(folder), optimization_config=MixedPrecisionConfig("float32")))


@pytest.fixture
def session(chatbot: Chatbot) -> Session:
    return Session(chatbot, chatbot.sampling)


@pytest.fixture
def chat(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command with these lines piped into it."""

    def run(*arguments: str, lines: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return main([str(folder), "--dtype", "float32", *arguments])

    return run


def asked(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Turn], Sampling]]:
    """The conversations the session hands to its chatbot from now on."""
    calls: list[tuple[list[Turn], Sampling]] = []
    reply = session.chatbot.reply

    def recording(turns: list[Turn], sampling: Sampling) -> Any:
        calls.append((list(turns), sampling))
        return reply(turns, sampling)

    monkeypatch.setattr(session.chatbot, "reply", recording)
    return calls


def test_a_pipe_gets_the_answers_and_nothing_else(
    chat: Callable[..., int], chatbot: Chatbot, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(lines="hello\n\n  \nwho are you\n") == 0
    first = chatbot.predict("hello")
    second = chatbot.predict("who are you", history=[Turn("user", "hello"), Turn("assistant", first)])
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_a_real_pipe_works(folder: Path, chatbot: Chatbot) -> None:
    command = [sys.executable, "-m", "neuralbot.terminal", str(folder), "--dtype", "float32"]
    ended = subprocess.run(command, input="hello\n/quit\nnot read\n", capture_output=True, text=True, encoding="utf-8")
    assert (ended.returncode, ended.stdout) == (0, chatbot.predict("hello") + "\n")
    assert "Traceback" not in ended.stderr


def test_what_the_command_line_sets_wins_over_the_run(
    chat: Callable[..., int], chatbot: Chatbot, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--temperature", "2", "--top-k", "0", "--top-p", "1", "--seed", "4", "--max-new-tokens", "5"]
    assert chat(*options, "--system", "Be kind.", "--stop", "\x00", lines="hello\n") == 0
    sampling = replace(
        chatbot.sampling, do_sample=True, temperature=2.0, top_k=0, top_p=1.0, seed=4, max_new_tokens=5, stop=("\x00",)
    )
    expected = "".join(chatbot.reply(chatbot.turns("hello", system_prompt="Be kind."), sampling))
    captured = capsys.readouterr()
    assert captured.out == expected + "\n"
    assert expected != chatbot.predict("hello")
    assert "[cut off after 5 tokens]" in captured.err


def test_commands(session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = asked(session, monkeypatch)
    for line in ["/system", "one", "/system  Be kind. ", "two", "/clear", "/system none", "three", "/help", "/hepl"]:
        assert session.handle(line)
    assert not session.handle("/quit")
    assert [[turn.role for turn in turns] for turns, _ in calls] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["user"],
    ]
    assert [calls[0][0][0].content, calls[1][0][0].content] == ["Be brief.", "Be kind."]
    told = capsys.readouterr().err
    for text in ["system message: Be brief.", "Be kind.", "forgotten", "message: none", "/clear ", "no command /hepl"]:
        assert text in told


def test_pieces_are_shown_as_they_come(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Screen())
    session.handle("hello")
    assert len([text for text in written if text.strip()]) > 2


class Interrupted:
    """The real engine, whose user presses Ctrl-C after three tokens."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.context_length = engine.context_length
        self.closed = 0

    def stream(self, prompt_ids: list[int], sampling: Sampling) -> Iterator[int]:
        try:
            for place, token in enumerate(self.engine.stream(prompt_ids, sampling)):
                if place == 3:
                    raise KeyboardInterrupt
                yield token
        finally:
            self.closed += 1

    def generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        raise AssertionError("nothing in this test may ask for it")


def test_ctrl_c_stops_the_answer_only(chatbot: Chatbot, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Interrupted(chatbot.engine)
    session = Session(Chatbot(engine), replace(chatbot.sampling, max_new_tokens=20))
    assert session.handle("hello") and session.handle("again")
    assert capsys.readouterr().err == "[stopped]\n[stopped]\n"
    assert engine.closed == 2
    assert [turn.role for turn in session.history][:2] == ["user", "assistant"]
    assert session.history[1].content


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_ctrl_c_and_ctrl_d_at_the_prompt_leave(
    chat: Callable[..., int], monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    def stop(prompt: str) -> str:
        raise end

    monkeypatch.setattr("builtins.input", stop)
    assert chat(lines="") == 0


def test_the_oldest_turns_make_room_and_that_is_said(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = asked(session, monkeypatch)
    for number in range(12):
        session.handle(f"question {number} " + "word " * 30)
    assert 6 < max(len(turns) for turns, _ in calls) < 24  # of 24 turns in all, the last call would hold 24
    for turns, sampling in calls:
        assert session.chatbot.room(turns) >= sampling.max_new_tokens  # type: ignore[operator]
        assert turns[0].role == "system" and turns[-1].content.startswith("question")
    assert "the context is full: the oldest 1 question" in capsys.readouterr().err
    assert not session.failed


def test_a_question_too_long_is_an_error_line_and_the_chat_goes_on(
    chat: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(lines="word " * 2000 + "\nhello\n") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: the prompt has ") and len(captured.out) > 1


def test_control_characters_of_an_answer_do_not_reach_the_terminal(
    tiny_tokenizer: Any, chatbot: Chatbot, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tiny_tokenizer("a\x1b]0;b\x07\tc\n", add_special_tokens=False)["input_ids"]
    engine = Interrupted(chatbot.engine)
    engine.stream = lambda prompt_ids, sampling: iter(ids)  # type: ignore[method-assign]
    session = Session(Chatbot(engine), chatbot.sampling)
    session.handle("hello")
    assert capsys.readouterr().out == "a\ufffd]0;b\ufffd\tc\n\n"
    assert session.history[1].content == "a\x1b]0;b\x07\tc\n"


def test_wrong_command_lines(chat: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"top_p=2\.0"):
        chat("--top-p", "2", lines="")
    with pytest.raises(SystemExit) as stopped:
        chat("--dtype", "int3", lines="")
    assert stopped.value.code == 2
    with pytest.raises(ModelError, match="no folder"):
        main([str(tmp_path / "nothing")])


def test_the_command_shows_errors_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neuralbot", "chat", str(tmp_path / "nothing")]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 4
    assert ended.stderr.startswith("error: there is no folder") and ended.stderr.count("\n") == 1


def test_an_engine_serves_a_session_too(tiny_model: Any, tiny_tokenizer: Any) -> None:
    session = Session(Chatbot(TorchEngine(tiny_model, tiny_tokenizer)), Sampling(max_new_tokens=3))
    assert session.handle("hello") and len(session.history) == 2
