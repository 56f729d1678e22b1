"""The meter reads the kernel's counters, here files of a test: one goes round, one is inside another, one is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuralbot.training import energy
from neuralbot.training.energy import EnergyMeter

ZONES = {
    "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "package-1",
    "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0",
}  # fmt: skip


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for zone, name in ZONES.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("65532610987\n")
        count(tmp_path, **{zone: 1_000_000})
    return tmp_path


def count(powercap: Path, **values: int) -> None:
    for zone, value in values.items():
        (powercap / zone / "energy_uj").write_text(f"{value}\n")


def tell(meter: EnergyMeter, *events: str) -> None:
    for event in events:
        getattr(meter, f"on_{event}")(None, None, None)


def test_packages_and_memory_are_added_and_what_is_in_them_or_around_them_is_not(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    tell(meter, "train_begin")
    count(powercap, **{zone: 1_000_000 + 2_000_000 * 10**place for place, zone in enumerate(ZONES)})
    tell(meter, "train_end")
    assert meter.found() == {"joules": 2 + 200 + 2000, "counters": ["package-0", "dram", "package-1"]}


def test_a_counter_that_goes_round_twice_is_followed(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_EVERY_S", 0.0)
    meter = EnergyMeter(powercap)
    tell(meter, "train_begin")
    for value in (60_000_000_000, 5_000_000_000, 60_000_000_000, 1_000_000):
        count(powercap, **{"intel-rapl:0": value})
        tell(meter, "step_end")
    tell(meter, "train_end")
    assert meter.found()["joules"] == pytest.approx(2 * 65532.610987, abs=0.1)


def test_between_steps_it_is_read_seldom(powercap: Path) -> None:
    meter = EnergyMeter(powercap)
    tell(meter, "train_begin")
    for zone in ZONES:
        (powercap / zone / "energy_uj").unlink()
    tell(meter, "step_end")
    assert meter.found()["joules"] == 0


@pytest.mark.parametrize("when", ["train_begin", "train_end"])
def test_what_cannot_be_read_is_said_and_no_figure_given(powercap: Path, when: str) -> None:
    meter = EnergyMeter(powercap)
    tell(meter, *(["train_begin"] if when == "train_end" else []))
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    tell(meter, when, "step_end", "train_end")
    assert meter.found() == {"joules": None, "why": "the RAPL counters cannot be read: No such file or directory"}


def test_a_machine_without_counters_is_told(tmp_path: Path) -> None:
    meter: Any = EnergyMeter(tmp_path / "none")
    tell(meter, "train_begin", "step_end", "train_end")
    assert meter.found() == {"joules": None, "why": "the kernel shows no RAPL counters"}


def test_peak_memory_stays_when_memory_is_given_back() -> None:
    program = (
        "from neuralbot.hardware import peak_memory_bytes as peak\n"
        "before = peak()\nheld = bytearray(b'1') * 2**27\ndel held\nprint(before, peak())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, done.stdout.split())
    assert 2**22 < before < 2**27 and after - before == pytest.approx(2**27, rel=0.1)
