"""The child process in which one answer meets its tests: limits, a system-call filter, then the code.

`unit_tests` starts this file as a program of its own (standard library only) and hands it two pipes: the job
comes in by one, the verdict goes out by the other. Before any line of the answer runs, the process gives up,
for good: writing or creating files, starting processes or threads, signals to others, sockets, raising its own
limits. That is a seccomp filter that lists what is allowed; the limits below stand behind it.

The verdict "passed" is the token that lies behind the job in the pipe; it is read after the last test, so that
neither printing nor exiting looks like success.

NOT protected against: reading files that the user may read (nothing can be sent anywhere); code written to
defeat this very checker, which shares its process: an object that equals everything, or a search of the frames
or the pipe for the token. Another root, process and network namespaces are not used here.
"""

from __future__ import annotations

import builtins
import os
import resource
import sys
from typing import Any

MEMORY_BYTES = 512 << 20
OPEN_FILES = 32
MESSAGE_CHARS = 300

READY, PASSED, FAILED, UNSAFE, BROKEN = b"R", b"P", b"F", b"U", b"B"  # what the verdict pipe carries

# machine -> (audit architecture, column in the table below)
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "lseek": (8, 62), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "getcwd": (79, 17),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "futex": (202, 98), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "setitimer": (38, 103), "getitimer": (36, 102), "alarm": (37, None),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrandom": (318, 278),
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73), "eventfd2": (290, 19),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "recvfrom": (45, 207), "uname": (63, 160), "sysinfo": (99, 179), "getrlimit": (97, 163), "getrusage": (98, 165),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_GUARDED = {"openat": (257, 56), "prlimit64": (302, 261), "sendto": (44, 206), "fcntl": (72, 25),
            "socketpair": (53, 199), "ioctl": (16, 29)}  # fmt: skip

_EPERM, _ENOTTY = 1, 25
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _RETURN, _IF_EQUAL, _IF_ANY_BIT = 0x20, 0x06, 0x15, 0x45
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PLAIN_FCNTL = (0, 1, 2, 3, 4, 1030)  # duplicate, get and set flags; not F_SETOWN, which can signal others
_PLAIN_IOCTL = (0x5421, 0x5450, 0x5451)  # blocking or not, close on exec or not
_AF_UNIX = 1

Step = tuple[int, int, int, int]  # one BPF instruction: code, jump if true, jump if false, value


def main(arguments: list[str]) -> None:
    """Reads the job from the first descriptor, gives the verdict to the second. Never returns."""
    job_fd, verdict_fd, cpu_s = int(arguments[0]), int(arguments[1]), int(arguments[2])
    write, leave, read = os.write, os._exit, os.read  # kept, as the answer may replace the module's
    answer, tests = _read_text(job_fd), _read_text(job_fd)
    try:
        _limit(cpu_s)
        _filter(os.uname().machine)
    except Exception as error:
        write(verdict_fd, UNSAFE + str(error).encode())
        leave(1)
    write(verdict_fd, READY)
    verdict = judge(answer, tests)
    write(verdict_fd, verdict or PASSED + read(job_fd, 32))
    leave(0)


def judge(answer: str, tests: str) -> bytes:
    """Runs the answer, then its tests in the answer's namespace; empty if all went through, else the verdict."""
    run, clean = exec, dict(vars(builtins))  # held here, as the answer may replace what names stand for
    try:
        test_code = compile(tests, "<tests>", "exec", dont_inherit=True)
    except Exception as error:
        return BROKEN + _describe(error, tests)
    module = type(sys)("answer")
    sys.modules["answer"] = module  # dataclasses and typing look their module up
    namespace = vars(module)
    try:
        run(compile(answer, "<answer>", "exec", dont_inherit=True), namespace)
        sys.settrace(None)
        sys.setprofile(None)
        namespace["__builtins__"] = clean  # the tests see the true builtins
        run(test_code, namespace)
    except BaseException as error:
        return FAILED + _describe(error, tests)
    return b""


def _read_text(fd: int) -> str:
    size = int.from_bytes(_read_exactly(fd, 8), "big")
    return _read_exactly(fd, size).decode("utf-8", "replace")


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            os._exit(1)
        data += piece
    return data


def _describe(error: BaseException, tests: str) -> bytes:
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    line = _failing_line(error)
    if line:
        text += f" in `{tests.splitlines()[line - 1].strip()}`"
    return text[:MESSAGE_CHARS].encode("utf-8", "replace")


def _failing_line(error: BaseException) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _limit(cpu_s: int) -> None:
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _filter(machine: str) -> None:
    """Installs the filter on this process for good. Raises OSError where the kernel refuses."""
    import ctypes

    steps = program(machine)

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Instruction)))

    libc = ctypes.CDLL(None, use_errno=True)
    whole = Program(len(steps), (Instruction * len(steps))(*(Instruction(*step) for step in steps)))

    def control(option: int, *values: Any) -> None:
        if libc.prctl(option, *values, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl({option}): {os.strerror(code)}")

    control(1, ctypes.c_ulong(9), ctypes.c_ulong(0))  # die by SIGKILL when the thread that waits for us dies
    control(38, ctypes.c_ulong(1), ctypes.c_ulong(0))  # no new privileges
    control(22, ctypes.c_ulong(2), ctypes.byref(whole))  # the seccomp filter


def program(machine: str) -> list[Step]:
    """The filter for a machine: what is listed is allowed, the rest fails with EPERM. Raises OSError if unknown."""
    if machine not in MACHINES:
        raise OSError(f"no list of system calls for the processor {machine!r}, only for {', '.join(MACHINES)}")
    architecture, column = MACHINES[machine]
    steps = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for numbers in _CALLS.values():
        number = numbers[column]
        if number is not None:
            steps += _when(number, [_give(_ALLOW)])
    for name, body in _guards().items():
        steps += _when(_GUARDED[name][column], body)
    return [*steps, _give(_ERRNO | _EPERM)]


def _guards() -> dict[str, list[Step]]:
    """Calls that depend on their arguments."""
    return {
        "openat": [_argument(2), (_IF_ANY_BIT, 1, 0, _WRITING), _give(_ALLOW), _give(_ERRNO | _EPERM)],
        "prlimit64": _if_zero(2),  # reading limits, not setting them
        "sendto": _if_zero(4),  # to the connected other end, not to an address
        "fcntl": _if_one_of(1, _PLAIN_FCNTL),
        "socketpair": _if_one_of(0, (_AF_UNIX,)),
        "ioctl": _if_one_of(1, _PLAIN_IOCTL, _ENOTTY),
    }


def _when(number: int, body: list[Step]) -> list[Step]:
    return [(_IF_EQUAL, 0, len(body), number), *body]


def _give(value: int) -> Step:
    return (_RETURN, 0, 0, value)


def _argument(index: int, *, upper: bool = False) -> Step:
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * upper)


def _if_zero(index: int) -> list[Step]:
    low, high = _argument(index), _argument(index, upper=True)
    return [low, (_IF_EQUAL, 0, 3, 0), high, (_IF_EQUAL, 0, 1, 0), _give(_ALLOW), _give(_ERRNO | _EPERM)]


def _if_one_of(index: int, values: tuple[int, ...], errno: int = _EPERM) -> list[Step]:
    tests = [(_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_argument(index), *tests, _give(_ERRNO | errno), _give(_ALLOW)]


if __name__ == "__main__":
    main(sys.argv[1:])
