"""A tiny model exported for OpenVINO: made once, and kept by pytest's cache for later sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from neuralbot.engines.openvino_engine import Exported


@pytest.fixture(scope="session")
def exported(tiny_folder: Path, request: pytest.FixtureRequest) -> Exported:
    """The tiny model in float32, as its export is: its end tokens are left out, a random model draws them anywhere."""
    from neuralbot.engines import export
    from neuralbot.engines.openvino_engine import Exported

    if (name := export.missing()) is not None:
        pytest.skip(f"{name} is not installed")

    cache: Any = request.config.cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache.mkdir("neuralbot")))
        entry = export.exported(export.Spec(str(tiny_folder), "fp32"), lambda _: None)
    facts = entry.facts
    return Exported(entry.folder, facts["context_length"], facts["vocabulary"], frozenset())
