"""The child process in which one answer meets its tests: namespaces, limits, a system-call filter, then the code.

`unit_tests` starts this file as a program of its own (standard library only) and hands it two pipes: the job
comes in by one, the verdict goes out by the other. Before any line of the answer runs, the process gives up, for
good:

- namespaces: no network, not even the machine's own address; a root that holds Python's library and nothing else,
  read-only; process numbers of its own, so that no other process can be named.
- limits on memory, processor time, open files, processes and written bytes.
- a seccomp filter that lists the system calls which are allowed: no writing or creating files, no processes or
  threads, no signals to others, no sockets, no raising of its own limits.

The verdict "passed" is the token that lies behind the job in the pipe; it is read after the last test, so that
neither printing nor exiting looks like success. A job marked as impossible has the same tests, changed so that no
honest answer passes them: what they compare with equals nothing. An answer that passes those too has tampered with the
check, by a forged verdict or by objects that equal everything, and `unit_tests` says so.

NOT protected against, as answer and tests share a process: code that knows this file and tells the two jobs apart, and
code that looks the expected values up in the frames of the tests. Neither can do harm outside.
"""

from __future__ import annotations

import builtins
import marshal
import os
import resource
import sys
from typing import Any

MEMORY_BYTES = 512 << 20
OPEN_FILES = 32
MESSAGE_CHARS = 300

NAMESPACES, FILTER = "namespaces", "filter"  # what holds the code; see EvaluationArguments.sandbox

READY, PASSED, FAILED, UNSAFE, BROKEN = b"R", b"P", b"F", b"U", b"B"  # what the verdict pipe carries
HONEST, IMPOSSIBLE = b"h", b"i"  # the first byte of a job
_REACHED = "__reached__"  # a list in the namespace of impossible tests, one item for each comparison that was made

# machine -> (audit architecture, column in the table below, number of pivot_root)
MACHINES = {"x86_64": (0xC000003E, 0, 155), "aarch64": (0xC00000B7, 1, 41)}

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
    job_fd, verdict_fd, cpu_s = (int(number) for number in arguments[:3])
    write, leave, read = os.write, os._exit, os.read  # kept, as the answer may replace the module's
    impossible = _read_exactly(job_fd, 1) == IMPOSSIBLE
    answer, tests = _read_text(job_fd), _read_text(job_fd)
    try:
        if arguments[3] == NAMESPACES:
            _enter_namespaces((job_fd, verdict_fd))
        _limit(cpu_s)
        _filter(os.uname().machine)
    except Exception as error:
        write(verdict_fd, UNSAFE + str(error).encode())
        leave(1)
    write(verdict_fd, READY)
    verdict = judge(answer, tests, impossible)
    write(verdict_fd, verdict or PASSED + read(job_fd, 32))
    leave(0)


def judge(answer: str, tests: str, impossible: bool = False) -> bytes:
    """Runs the answer, then its tests in the answer's namespace; empty if all went through, else the verdict."""
    run, clean = exec, dict(vars(builtins))  # held here, as the answer may replace what names stand for
    try:
        source = _impossible(tests) if impossible else tests
        test_code = compile(source, "<tests>", "exec", dont_inherit=True)
    except Exception as error:
        return BROKEN + _describe(error, tests)
    seal, sealed = marshal.dumps, marshal.dumps(test_code, 0)  # version 0: no counting of references
    module = type(sys)("answer")
    sys.modules["answer"] = module  # dataclasses and typing look their module up
    namespace = vars(module)
    try:
        run(compile(answer, "<answer>", "exec", dont_inherit=True), namespace)
        sys.settrace(None)
        sys.setprofile(None)
        namespace |= {"__builtins__": clean, _REACHED: []}  # the tests see the true builtins
        run(test_code, namespace)
    except BaseException as error:
        return FAILED + _describe(error, tests)
    return b"" if seal(test_code, 0) == sealed else FAILED + b"it tampers with the check: it changed the tests"


def _impossible(tests: str) -> Any:
    """The tests' syntax tree, so changed that no honest answer passes: what they compare with equals nothing.

    Asserts that compare nothing stay as they are; if no other was reached, the last line fails.
    """
    import ast

    tree = ast.parse(tests)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            _spoil(node.test)
    tree.body.append(ast.parse(f"assert {_REACHED}").body[0])
    return ast.fix_missing_locations(tree)


def _spoil(comparison: Any) -> None:
    """Puts the thing that equals nothing on the side that does not call the answer."""
    import ast

    nothing = f"({_REACHED}.append(1), object())[1]"
    if isinstance(comparison.ops[-1], ast.Eq | ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        calls = [any(isinstance(node, ast.Call) for node in ast.walk(side)) for side in _sides(comparison)]
        replaced = ast.parse(nothing, mode="eval").body
        if calls == [False, True]:
            comparison.left = replaced
        else:
            comparison.comparators[-1] = replaced
    elif isinstance(comparison.ops[-1], ast.In):
        comparison.comparators[-1] = ast.parse(f"[{nothing}]", mode="eval").body


def _sides(comparison: Any) -> list[Any]:
    return [comparison.left, *comparison.comparators]


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


# Flags and numbers of Linux: clone(2), mount(2), mount_setattr(2), umount2(2), capset(2).
_OWN_NAMESPACES = 0x20000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x8000000  # mounts, users, processes, network, IPC
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
_READ_ONLY = 0x1 | 0x2 | 0x4  # and neither setuid programs nor devices
_AT_RECURSIVE, _AT_WORKING_FOLDER, _DETACH, _CAPABILITIES_V3 = 0x8000, -100, 2, 0x20080522
_MOUNT_SETATTR = 442
_ROOT = "/proc"  # where the new root is put together: a folder that is always there and holds no library


def _enter_namespaces(pipes: tuple[int, int]) -> None:
    """Goes on in a new process that sees Python's library and itself, and nothing else; this one waits for it.

    Raises OSError where the kernel denies it.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *values: Any) -> None:
        if getattr(libc, name)(*values) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    try:
        _unshare(call)
        child = os.fork()
        if child:
            for pipe in pipes:
                os.close(pipe)
            _end_as(os.waitpid(child, 0)[1])
        call("prctl", 1, 9)  # die by SIGKILL with the process that waits
        _change_root(call)
        header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
        call("capset", ctypes.byref(header), ctypes.byref(nothing))
    except OSError as error:
        raise OSError(error.errno, f"the kernel denies it namespaces ({error.strerror})") from None


def _unshare(call: Any) -> None:
    """Own namespaces for this process, and for the processes that it starts; its user stays who it is."""
    user, group = os.getuid(), os.getgid()
    call("unshare", _OWN_NAMESPACES)
    call("prctl", 1, 9)  # die by SIGKILL when the thread that waits for us dies
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)


def _change_root(call: Any) -> None:
    """A root that holds the library folders, read-only, in the place of the machine's own."""
    import ctypes

    call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
    call("mount", b"none", _ROOT.encode(), b"tmpfs", 0, None)
    for folder in _library():
        os.makedirs(_ROOT + folder, exist_ok=True)  # noqa: PTH103
        call("mount", folder.encode(), (_ROOT + folder).encode(), None, _BIND | _RECURSIVE, None)
    attributes = ctypes.byref((ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0))
    call("syscall", _MOUNT_SETATTR, _AT_WORKING_FOLDER, _ROOT.encode(), _AT_RECURSIVE, attributes, 32)
    os.chdir(_ROOT)
    call("syscall", MACHINES[os.uname().machine][2], b".", b".")  # pivot_root: the old root now lies over the new
    call("umount2", b".", _DETACH)
    os.chdir("/")


def _library() -> list[str]:
    """The folders with Python's standard library, the shared libraries that its modules load, and the time zones."""
    prefixes = dict.fromkeys([sys.base_prefix, sys.base_exec_prefix, "/", "/usr"])
    folders = [f"{prefix.rstrip('/')}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    return [folder for folder in (*folders, "/usr/share/zoneinfo") if os.path.isdir(folder)]  # noqa: PTH112


def _end_as(status: int) -> None:
    """Ends this process as another one ended."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


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
    architecture, column, _ = MACHINES[machine]
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
