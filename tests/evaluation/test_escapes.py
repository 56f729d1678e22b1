"""The corpus of escapes, in both sandboxes: none scores, and nothing outside is changed, read, reached or hit."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuralbot.errors import ResourceError
from neuralbot.evaluation import unit_tests
from neuralbot.evaluation.unit_tests import Sandbox, run_all

CORPUS = Path(__file__).parent / "escapes"
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add(20, 22) == 42\n"
SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----"
TOKEN = "hf_the_token_of_the_test"
WAIT_S, ENDLESS_S = 20.0, 0.8


def escapes(name: str) -> dict[str, str]:
    blocks = (CORPUS / f"{name}.txt").read_text().split("### ")[1:]
    return {title: code for title, _, code in (block.partition("\n") for block in blocks)}


FILES = [path.stem for path in sorted(CORPUS.glob("*.txt"))]


@dataclass
class World:
    """What an escape could harm, and the signs of harm."""

    folder: Path
    secret: Path
    listeners: list[socket.socket]
    signals: list[int] = field(default_factory=list)

    def fill_in(self, code: str) -> str:
        places = {"folder": self.folder, "secret": self.secret, "parent": os.getpid()}
        places["port"] = self.listeners[0].getsockname()[1]
        for name, value in places.items():
            code = code.replace(f"{{{name}}}", str(value))
        return code

    def state(self) -> dict[str, object]:
        """All that must be the same afterwards."""
        kept = {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_uid, path.lstat().st_nlink)
                for path in sorted(self.folder.rglob("*"))}  # fmt: skip
        return {
            "files": kept,
            "kept": (self.folder / "kept").read_bytes(),
            "attributes": os.listxattr(self.folder / "kept"),
            "strays": [*Path("/dev/shm").glob("*neuralbot*"), *Path("/tmp").glob("neuralbot-escape*")],
            "library": (Path(os.__file__).stat().st_mtime_ns, Path(site.getusersitepackages()).exists()),
            "strays elsewhere": [*Path("/etc").glob("neuralbot*"), *Path.cwd().glob("neuralbot-escape*")],
            "limits": [resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
            "host": socket.gethostname(),
            "signals": list(self.signals),
            "reached": [sock.type for sock in self.listeners if _reached(sock)],
            "running": _sandboxes(),
        }


def _reached(sock: socket.socket) -> bool:
    try:
        if sock.type == socket.SOCK_STREAM:
            sock.accept()[0].close()
        else:
            sock.recv(1)
    except BlockingIOError:
        return False
    return True


def _sandboxes() -> list[str]:
    """Command lines of children of the sandbox that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode(errors="replace")
            if "evaluation/sandbox.py" in line and _is_below(path.parent.name):
                found.append(line)
    return found


def _is_below(pid: str) -> bool:
    """Whether the process descends from this one."""
    while pid not in ("0", "1"):
        if pid == str(os.getpid()):
            return True
        try:
            pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            return False
    return False


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "home/.ssh").mkdir(parents=True)
    secret = tmp_path / "home/.ssh/id_rsa"
    secret.write_text(f"{SECRET}\n")
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "folder/kept").write_text("kept")
    (tmp_path / "folder/deep/kept").write_text("kept too")
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagram.bind(stream.getsockname())
        named = stack.enter_context(socket.socket(socket.AF_UNIX))
        named.bind("\0neuralbot-escape")
        named.listen()
        found = World(tmp_path / "folder", secret, [stream, datagram, named])
        for sock in found.listeners:
            sock.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            old = signal.signal(number, lambda received, frame: found.signals.append(received))
            stack.callback(signal.signal, number, old)
        yield found


def skip_where_denied(sandbox: Sandbox) -> None:
    try:
        unit_tests.require(sandbox)
    except ResourceError as error:
        pytest.skip(str(error))


def test_the_corpus_has_at_least_sixty_escapes() -> None:
    names = [title for name in FILES for title in escapes(name)]
    assert len(names) == len(set(names)) >= 60


def in_each_sandbox() -> Iterator[object]:
    """The filter alone lets answers read files, as the option says; waiting for the time limit again takes long."""
    for name in FILES:
        yield pytest.param(name, "namespaces", id=f"{name}-namespaces")
        if name != "reading":
            marks = [pytest.mark.slow] if name == "endless" else []
            yield pytest.param(name, "filter", id=f"{name}-filter", marks=marks)


@pytest.mark.parametrize(("name", "sandbox"), list(in_each_sandbox()))
def test_no_escape_scores_or_does_harm(name: str, sandbox: Sandbox, world: World) -> None:
    skip_where_denied(sandbox)
    before, start = world.state(), time.monotonic()
    answers = [world.fill_in(code) for code in escapes(name).values()]
    limit = ENDLESS_S if name == "endless" else WAIT_S
    verdicts = run_all(answers, [TESTS] * len(answers), limit, sandbox=sandbox)
    found = dict(zip(escapes(name), verdicts, strict=True))
    assert {title: one for title, one in found.items() if one.status not in ("failed", "timeout")} == {}
    assert {title: one for title, one in found.items() if SECRET in one.message or TOKEN in one.message} == {}
    if name != "endless":
        assert {title: one for title, one in found.items() if one.status == "timeout"} == {}
    assert world.state() == before
    assert time.monotonic() - start < 60


def test_the_signs_of_harm_show_harm(world: World) -> None:
    """The same kinds of answers in a plain Python, as far as they can be run there."""
    before = world.state()
    harmless = ("write a file", "connect", "datagram", "unix socket by name", "read a key", "terminate the parent")
    codes = {title: code for name in FILES for title, code in escapes(name).items() if title in harmless}
    assert len(codes) == len(harmless)
    done = {
        title: subprocess.run([sys.executable, "-c", world.fill_in(code)], capture_output=True, text=True, timeout=30)
        for title, code in codes.items()
    }
    after = world.state()
    assert SECRET in done["read a key"].stderr
    assert after["files"] != before["files"]
    assert len(after["reached"]) == 3  # type: ignore[arg-type]
    # their order is the kernel's
    assert set(after["signals"]) == {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


def test_a_right_answer_passes_in_both_sandboxes() -> None:
    for sandbox in ("namespaces", "filter"):
        skip_where_denied(sandbox)
        (verdict,) = run_all(["def add(a, b): return a + b"], [TESTS], WAIT_S, sandbox=sandbox)
        assert verdict.status == "passed"
