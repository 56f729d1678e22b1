"""What the machine is said to be able to do, against what the kernel says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from neuralbot import hardware


def test_probe_reads_this_machine() -> None:
    found = hardware.probe()
    assert 1 <= found.usable_cpus <= (os.cpu_count() or 1)
    assert found.physical_cores >= 1
    assert found.memory_bytes > 1 << 28
    assert found.has_bf16 == hardware.has_bf16()
    assert found.isa in (*hardware.ISA_ORDER, "baseline")


def test_threads_follow_the_affinity_mask() -> None:
    code = "from neuralbot import hardware; print(hardware.plan(hardware.probe()).threads)"
    first = min(os.sched_getaffinity(0))
    pinned = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{first}]); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert pinned.stdout.strip() == "1"


def test_bf16_only_where_the_processor_has_it() -> None:
    with_it = replace(hardware.probe(), has_bf16=True)
    without = replace(hardware.probe(), has_bf16=False, cpu="Old Xeon")
    assert hardware.plan(with_it).dtype == "bfloat16"
    assert hardware.plan(with_it, bf16=False).dtype == "float32"
    assert hardware.plan(without).dtype == "float32"
    assert "amx_bf16" in hardware.plan(without).notices[0]
    assert not hardware.plan(without, bf16=False).notices
    refused = hardware.plan(without, bf16=True)
    assert refused.dtype == "float32"
    assert "Old Xeon" in refused.notices[0]
    assert "amx_bf16" in refused.notices[0]


def test_quota_of_the_cgroup_caps_the_threads(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(hardware, "_read", lambda path: "150000 100000" if path.endswith("cpu.max") else "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert hardware.usable_cpus() == 1


def test_freed_memory_is_kept_while_asked_for() -> None:
    """Pages newly asked of the system by 64 MiB, where 128 MiB were freed a moment before."""
    code = """
import contextlib, resource, torch
from neuralbot import hardware

def pages(around):
    with around:
        torch.ones(2**25)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
print(pages(contextlib.nullcontext()), pages(hardware.freed_memory_kept()), pages(contextlib.nullcontext()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, inside, after = map(int, done.stdout.split())
    assert inside < min(before, after) / 10
