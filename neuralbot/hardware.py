"""What the machine can do, read from the kernel's own lists, and the plan made from it.

Nothing is guessed from model names, and nothing is started: a plan is a value until `apply` is called.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last one is Arm's
ISA_ORDER = ("amx_bf16", "avx512_bf16", "avx512", "avx2")
ISA_FLAG = {"avx512": "avx512f"}
INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "i8mm"})  # the last one is Arm's
FP16_FLAGS = frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})


def cpu_flags() -> frozenset[str]:
    """The instruction sets in the kernel's words ("avx512_bf16", ...); empty where /proc/cpuinfo has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    return not BF16_FLAGS.isdisjoint(cpu_flags())


def has_fp16() -> bool:
    """Whether the processor computes in float16 natively."""
    return not FP16_FLAGS.isdisjoint(cpu_flags())


@dataclass(frozen=True)
class Hardware:
    """What was found: read once, stored in each run's manifest."""

    cpu: str
    isa: str  # the widest instruction set that matters here: amx_bf16, avx512_bf16, avx512, avx2 or baseline
    physical_cores: int
    usable_cpus: int  # what affinity and the cgroup quota leave of them
    memory_bytes: int  # the smaller of the machine's and the cgroup's
    has_bf16: bool
    has_int8: bool


def probe() -> Hardware:
    """Read the machine from /proc, /sys and the cgroup; starts nothing."""
    flags = cpu_flags()
    return Hardware(
        cpu=_cpu_name(),
        isa=next((name for name in ISA_ORDER if ISA_FLAG.get(name, name) in flags), "baseline"),
        physical_cores=_physical_cores(),
        usable_cpus=usable_cpus(),
        memory_bytes=_memory_bytes(),
        has_bf16=not BF16_FLAGS.isdisjoint(flags),
        has_int8=not INT8_FLAGS.isdisjoint(flags),
    )


def wanted_engine() -> str:
    """What NEURALBOT_ENGINE says about the engine of chatbots that do not say it themselves: auto without it."""
    return os.environ.get("NEURALBOT_ENGINE") or "auto"


def usable_cpus() -> int:
    """Processors this process may keep busy: its affinity mask, capped by the cgroup's CPU quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        allowed = min(allowed, max(1, int(quota[0]) // int(quota[1])))
    return allowed


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held at once; None where the kernel does not tell."""
    # Not ru_maxrss: that begins with what the process that started this one held.
    lines = (line.split() for line in _read("/proc/self/status").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == "VmHWM:"), None)


@dataclass(frozen=True)
class Plan:
    """How this recipe runs on this machine, and why."""

    device: str
    dtype: Literal["bfloat16", "float32"]
    threads: int
    hardware: Hardware
    notices: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for people: dtype, threads, processor."""
        machine = f"{self.hardware.cpu} ({self.hardware.isa})"
        return f"{self.dtype}, {self.threads} threads on {self.device}, {machine}"

    def torch_dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def apply(self) -> None:
        """Set torch's threads; the only place that does."""
        import torch

        torch.set_num_threads(self.threads)


def plan(hardware: Hardware, *, bf16: bool | None = None, device: str = "auto") -> Plan:
    """Choose dtype and threads. Without bf16 in the processor: fp32, with a notice unless `bf16` is False."""
    notices: tuple[str, ...] = ()
    if bf16 is not False and not hardware.has_bf16:
        notices = (f"float32 is used: this processor ({hardware.cpu}) has neither amx_bf16 nor avx512_bf16",)
    use_bf16 = hardware.has_bf16 if bf16 is None else bf16 and hardware.has_bf16
    return Plan(
        device="cuda" if device == "cuda" else "cpu",
        dtype="bfloat16" if use_bf16 else "float32",
        threads=min(hardware.usable_cpus, hardware.physical_cores),
        hardware=hardware,
        notices=notices,
    )


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process: getting the same pages anew for each step costs several per cent.

    Only glibc can be told so; elsewhere nothing happens. Afterwards the memory goes back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, 2**16)
        mallopt(_M_TRIM_THRESHOLD, 2**17)
        return_freed_memory()


# malloc.h; the values set back are glibc's own.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def return_freed_memory() -> None:
    """Give freed memory back to the system; without glibc it stays with the process."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """The memory that this process holds now; 0 where the kernel does not say."""
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def busy_processors() -> float:
    """How many processors' worth of work the machine has had in the last minute, this process included."""
    return os.getloadavg()[0]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _physical_cores() -> int:
    """Cores, not hyper-threads: two threads of one core share its matrix units."""
    ids = {
        _read(str(path)).strip()
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    }
    return len(ids - {""}) or os.cpu_count() or 1


def _memory_bytes() -> int:
    total = next(
        (int(line.split()[1]) * 1024 for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), 0
    )
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() and total else total
