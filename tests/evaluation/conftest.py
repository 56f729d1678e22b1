"""torchmetrics, the library that some scores are held against."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torchmetrics_text() -> ModuleType:
    """torchmetrics.functional.text: what it has to do with pictures is left out where torchvision is hidden.

    It asks the installed distributions for torchvision; neuralbot/text_only.py hides the module alone.
    """
    distribution = importlib.metadata.distribution

    def seen(name: str) -> importlib.metadata.Distribution:
        if name == "torchvision" and sys.modules.get(name, sys) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return distribution(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "distribution", seen)
        import torchmetrics.functional.text

    return torchmetrics.functional.text
