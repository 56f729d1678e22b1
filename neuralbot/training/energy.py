"""The energy that the processors took while a model trained, by the counters of RAPL where the kernel lets us read.

The counters are those of whole processors: what else ran on the machine is in them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

_POWERCAP = Path("/sys/class/powercap")
_COUNTED = ("package", "dram")  # `core` and `uncore` are inside a package, `psys` is around it
_EVERY_S = 10.0  # a counter of 65 kJ, the smallest, lasts for minutes on the largest machine


class EnergyMeter(TrainerCallback):  # type: ignore[misc]
    """Counts from the beginning to the end of training; in between often enough that no counter goes round unseen."""

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._zones = [
            zone for zone in sorted(powercap.glob("intel-rapl:*")) if _text(zone / "name").startswith(_COUNTED)
        ]
        self._last: dict[Path, int] = {}
        self._joules = 0.0
        self._next = 0.0
        self._why = "" if self._zones else "the kernel shows no RAPL counters"

    def found(self) -> dict[str, Any]:
        """{joules, counters}; or joules None and `why`."""
        if self._why:
            return {"joules": None, "why": self._why}
        return {"joules": round(self._joules, 1), "counters": [_text(zone / "name") for zone in self._zones]}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = self._read()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._why and time.monotonic() >= self._next:
            self._add()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._add()

    def _add(self) -> None:
        now = self._read()
        for zone, value in now.items():
            used = value - self._last.get(zone, value)
            if used < 0:  # it went round
                used += int(_text(zone / "max_energy_range_uj") or 0)
            self._joules += used / 1e6
        self._last = now

    def _read(self) -> dict[Path, int]:
        self._next = time.monotonic() + _EVERY_S
        if self._why:
            return {}
        try:
            return {zone: int((zone / "energy_uj").read_text()) for zone in self._zones}
        except (OSError, ValueError) as error:
            self._why = f"the RAPL counters cannot be read: {getattr(error, 'strerror', None) or error}"
            return {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
