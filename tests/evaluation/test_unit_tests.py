"""Running answers: right ones pass, wrong ones fail, hostile ones do neither harm nor pass."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuralbot.errors import ResourceError
from neuralbot.evaluation import sandbox, unit_tests
from neuralbot.evaluation.unit_tests import Verdict, extract_code, run, run_all

pytestmark = pytest.mark.skipif(unit_tests.sandbox_problem() is not None, reason=str(unit_tests.sandbox_problem()))

ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\n"
PASSED = Verdict("passed")
WAIT_S = 20.0  # far more than anything here takes, also on a busy machine


@pytest.mark.parametrize(
    "answer",
    [
        ADD,
        f"Here it is:\n```python\n{ADD}```\nIt adds.",
        f"```\n{ADD}```",
        f"```py\n{ADD}",
        "import math, re, json, functools, collections\nadd = lambda a, b: math.fsum((a, b))",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int' = 0\ndef add(a, b): return P(a).x + b",
        "import asyncio\nasync def f(a, b):\n    await asyncio.sleep(0)\n    return a + b\n"
        "def add(a, b): return asyncio.run(f(a, b))",
        ADD + "if __name__ == '__main__':\n    raise SystemExit(input())",
        ADD + "print('x' * 10_000_000)",
        ADD + "# 東京 \udcff",
    ],
)
def test_a_right_answer_passes(answer: str) -> None:
    assert run(answer, TESTS, WAIT_S) == PASSED


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("def add(a, b):\n    return a - b", "AssertionError in `assert add(1, 2) == 3`"),
        ("def add(a, b):\n    return abs(a + b) + (b == 1)", "`assert add(-1, 1) == 0`"),
        ("def sub(a, b): return a", "NameError: name 'add' is not defined"),
        ("def add(a, b)\n    return a", "SyntaxError"),
        ("", "NameError"),
        ("the answer is 3", "SyntaxError"),
        ("def add(a, b): return add(a, b)", "RecursionError"),
        ("import numpy", "ModuleNotFoundError"),
        ("\0", "null bytes"),
    ],
)
def test_a_wrong_answer_fails_and_says_why(answer: str, message: str) -> None:
    verdict = run(answer, TESTS, WAIT_S)
    assert verdict.status == "failed"
    assert message in verdict.message


def test_the_message_is_not_longer_than_its_limit() -> None:
    verdict = run("class E(Exception):\n    def __str__(self): return 'x' * 10**6\nraise E", TESTS, WAIT_S)
    assert verdict.status == "failed"
    assert len(verdict.message) == sandbox.MESSAGE_CHARS


HONEST = {
    "nothing is compared": ("assert add(1, 2)", ADD),
    "compared the other way round": ("assert 3 == add(1, 2)", ADD),
    "compared in the middle": ("assert not add(1, 2) == 4\nassert (add(1, 2) == 3) is True", ADD),
    "compared by size": ("assert 2 < add(1, 2) <= 3\nassert abs(add(0.1, 0.2) - 0.3) < 1e-9", ADD),
    "compared in a loop": ("for i in range(3):\n    assert add(i, 1) == i + 1", ADD),
    "compared in a function": ("def check(f):\n    assert f(1, 2) in (3, 4), 'sum'\ncheck(add)", ADD),
    "a compare that is never reached": ("if False:\n    assert add(1, 2) == 7\nassert add(1, 2)", ADD),
    "unequal": ("assert add(1, 2) != 4", ADD),
    "objects of its own that compare": (
        "assert P(1) == P(1)\nassert P(1) != P(2)",
        "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x",
    ),
}


@pytest.mark.parametrize(("tests", "answer"), HONEST.values(), ids=HONEST.keys())
def test_an_honest_answer_does_not_pass_for_one_that_tampers(tests: str, answer: str) -> None:
    assert run(answer, tests, WAIT_S) == PASSED


EQUAL = (
    "class Any:\n    __eq__ = __lt__ = __le__ = __gt__ = lambda self, other: True\n"
    "    __sub__ = __abs__ = lambda self, *other: self\ndef add(a, b): return Any()"
)


@pytest.mark.parametrize("place", [1, 3, 4, 5], ids=lambda place: list(HONEST)[place])
def test_an_answer_that_equals_everything_is_found_out(place: int) -> None:
    verdict = run(EQUAL, list(HONEST.values())[place][0], WAIT_S)
    assert (verdict.status, "tampers with the check" in verdict.message) == ("failed", True)


def test_a_builtin_replaced_by_the_answer_is_whole_in_the_tests() -> None:
    answer = "import builtins\nbuiltins.len = lambda x: 3\ndef parts(): return [1]"
    assert run(answer, "assert len(parts()) == 3", WAIT_S).status == "failed"
    assert run(answer, "assert len(parts()) == 1", WAIT_S) == PASSED


DENIED = {
    "kill the parent": "import os\nos.kill(os.getppid(), 9)",
    "kill the group": "import os\nos.killpg(os.getpgid(os.getppid()), 9)",
    "signal by fcntl": "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
    "fork": "import os\nwhile True: os.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "thread": "import threading\nthreading.Thread(target=print).start()",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', 1))",
    "write a file": "open('{folder}/new', 'w').write('x' * 10**9)",
    "append to a file": "open('{folder}/kept', 'a').write('x')",
    "truncate a file": "import os\nos.truncate('{folder}/kept', 0)",
    "remove a file": "import os\nos.remove('{folder}/kept')",
    "remove a folder": "import shutil\nshutil.rmtree('{folder}')",
    "make a folder": "import os\nos.mkdir('{folder}/sub')",
    "rename": "import os\nos.rename('{folder}/kept', '{folder}/gone')",
    "link": "import os\nos.symlink('/etc', '{folder}/link')",
    "change mode": "import os\nos.chmod('{folder}/kept', 0)",
    "raise the limits": "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
    "limits of others": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1))",
    "anonymous file": "import os\nos.memfd_create('x')",
    "own namespace": "import ctypes\nif ctypes.CDLL(None, use_errno=True).unshare(0x10000000): raise PermissionError",
}


@pytest.mark.parametrize("attack", DENIED.values(), ids=DENIED.keys())
def test_the_filter_alone_denies_what_could_do_harm(attack: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    verdict = run(attack.replace("{folder}", str(tmp_path)) + "\n" + ADD, TESTS, WAIT_S, "filter")
    assert verdict.status == "failed"
    assert any(text in verdict.message for text in ("PermissionError", "can't start new thread", "not allowed"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"


def test_the_namespaces_hide_files_and_processes() -> None:
    prefixes = {Path(prefix).parts[1] for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    allowed = {"lib", "lib64", "usr"} | prefixes
    look = "import os\ndef seen(): return os.listdir('/')"
    assert run(look, f"assert set(seen()) <= {allowed!r}", WAIT_S) == PASSED
    assert run(look, f"assert not set(seen()) <= {allowed!r}", WAIT_S, "filter") == PASSED
    numbers = "import os\ndef seen(): return os.getpid(), os.getppid()"
    assert run(numbers, "assert seen() == (1, 0)", WAIT_S) == PASSED


def test_the_whole_library_is_there() -> None:
    answer = (
        "import asyncio, bz2, csv, ctypes, decimal, hashlib, lzma, sqlite3, ssl, statistics, unittest, xml.sax, zlib\n"
        "import zoneinfo\ndef add(a, b): return sqlite3.connect(':memory:').execute(f'select {a} + {b}').fetchone()[0]"
    )
    assert run(answer, TESTS, WAIT_S) == PASSED


def test_reading_is_allowed_but_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    answer = "import os\nopen(os.__file__).read()\ndef token(): return os.environ.get('HF_TOKEN')"
    assert run(answer, "assert token() is None", WAIT_S) == PASSED


def test_memory_is_limited() -> None:
    assert run(f"kept = ' ' * {sandbox.MEMORY_BYTES}\n{ADD}", TESTS, WAIT_S) == Verdict("failed", "MemoryError")


@pytest.mark.parametrize(
    "answer",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "10 ** 10 ** 10",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    try: 1 / 0\n    except: pass",
        "def add(a, b):\n    while True: pass",
        "while True:\n    try: raise KeyboardInterrupt\n    except BaseException: pass",
    ],
)
def test_what_does_not_end_is_stopped_in_time(answer: str) -> None:
    start = time.monotonic()
    assert run(answer, TESTS, 1.0) == Verdict("timeout", "still running after 1 s")
    assert time.monotonic() - start < 10


def test_one_that_closes_its_pipe_and_runs_on_is_stopped() -> None:
    answer = "import os\nos.closerange(3, 64)\nwhile True: pass"
    start = time.monotonic()
    assert run(answer, TESTS, WAIT_S).status == "failed"
    assert time.monotonic() - start < WAIT_S / 2


def test_nothing_is_left_running_or_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before, children_before = open_files(), len(_children())
    run_all([ADD, "while True: pass", "import os\nos._exit(1)", "import os\nos.fork()"] * 2, [TESTS] * 8, 0.7)
    assert open_files() == before
    assert len(_children()) == children_before


def _children() -> list[str]:
    """The processes whose parent this one is, zombies included."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            states.append(path.read_text())
    return [state for state in states if state.rpartition(")")[2].split()[1] == str(os.getpid())]


@pytest.mark.parametrize(("tests", "message"), [("", "no tests"), (" \n", "no tests"), ("assert (", "do not compile")])
def test_tests_that_cannot_be_used_are_an_error_not_a_failure(tests: str, message: str) -> None:
    verdict = run(ADD, tests, WAIT_S)
    assert verdict.status == "error"
    assert message in verdict.message


def test_run_all_keeps_the_order_and_reports() -> None:
    answers = [ADD if place % 3 else "def add(a, b): return 7" for place in range(12)]
    seen: list[tuple[int, int]] = []
    verdicts = run_all(answers, [TESTS] * 12, WAIT_S, on_progress=lambda done, total: seen.append((done, total)))
    assert [verdict.status for verdict in verdicts] == ["passed" if place % 3 else "failed" for place in range(12)]
    assert seen == [(place + 1, 12) for place in range(12)]


def test_a_row_costs_milliseconds() -> None:
    before = sum(os.times()[:4])
    assert run_all([ADD] * 50, [TESTS] * 50, WAIT_S) == [PASSED] * 50
    cpu_s = sum(os.times()[:4]) - before
    assert cpu_s < 50 * 0.3  # two runs of 0.04 s each on the machine of the first measurement


def test_verdicts_repeat_where_code_depends_on_the_order_of_sets() -> None:
    answer = "def joined(): return ''.join({'ab', 'cd', 'ef', 'gh'})"
    orders = ["".join(order) for order in itertools.permutations(["ab", "cd", "ef", "gh"])]
    first, second = (
        run_all([answer] * len(orders), [f"assert joined() == {order!r}" for order in orders], WAIT_S) for _ in range(2)
    )
    assert first == second
    assert first.count(PASSED) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```Python\r\nx = 1\r\n```", "x = 1\r\n"),
        ("Text.\n\n```py\nx = 1\n```\nand\n```python\ny = 2\n```", "x = 1\n"),
        ("```json\n{}\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("s = '```python'\nx = 1", "s = '```python'\nx = 1"),
    ],
)
def test_extract_code(answer: str, code: str) -> None:
    assert extract_code(answer) == code


def test_where_the_filter_cannot_be_installed_no_answer_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "sandbox.py"
    source = Path(sandbox.__file__).read_text()
    broken.write_text(source.replace("control(22, ctypes.c_ulong(2)", "control(22, ctypes.c_ulong(77)"))
    monkeypatch.setattr(sandbox, "__file__", str(broken))
    mark = tmp_path / "ran"
    with pytest.raises(ResourceError, match=r"cannot be run safely.*prctl.*evaluation\.metric"):
        run_all([f"open({str(mark)!r}, 'w')"], [TESTS], WAIT_S)
    assert not mark.exists()


@pytest.mark.parametrize("call", ["unshare", "mount", "pivot_root", "capset"])
def test_where_the_kernel_denies_namespaces_no_answer_is_run_unless_told(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "sandbox.py"
    source = Path(sandbox.__file__).read_text()
    denied = {
        "unshare": ("_OWN_NAMESPACES = ", "_OWN_NAMESPACES = 1 | "),
        "mount": ('b"tmpfs"', 'b"nosuchfs"'),
        "pivot_root": ("0xC000003E, 0, 155)", "0xC000003E, 0, 9999)"),
        "capset": ("_CAPABILITIES_V3 = ", "_CAPABILITIES_V3 = 1 + "),
    }[call]
    assert denied[0] in source
    broken.write_text(source.replace(*denied))
    monkeypatch.setattr(sandbox, "__file__", str(broken))
    with pytest.raises(ResourceError, match=r"the kernel denies it namespaces \(.*evaluation\.sandbox: filter"):
        run_all([ADD], [TESTS], WAIT_S)
    assert run_all([ADD], [TESTS], WAIT_S, sandbox="filter") == [PASSED]


def test_a_processor_without_a_list_of_calls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ResourceError, match="riscv64"):
        run_all([ADD], [TESTS], WAIT_S)
    with pytest.raises(OSError, match="riscv64"):
        sandbox.program("riscv64")


def test_both_processors_have_every_call_that_the_other_needs() -> None:
    old_names_without_an_arm_number = {"dup2", "pipe", "stat", "lstat", "access", "readlink", "alarm", "time", "select",
                                       "poll", "epoll_wait"}  # fmt: skip
    assert {name for name, (_, arm) in sandbox._CALLS.items() if arm is None} == old_names_without_an_arm_number
    for machine in sandbox.MACHINES:
        assert len(sandbox.program(machine)) > 100


def test_the_child_dies_with_the_process_that_waits_for_it() -> None:
    program = (
        "import sys, threading, time\nfrom neuralbot.evaluation import unit_tests\n"
        "threading.Thread(target=unit_tests.run, args=('while True: pass', 'assert 1', 60.0), daemon=True).start()\n"
        "time.sleep(1)\nimport os\n"
        "print(open(f'/proc/self/task/{threading.enumerate()[-1].native_id}/children').read(), flush=True)\n"
        "os._exit(0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30)
    (child,) = done.stdout.split()
    for _ in range(50):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} lives on")
