"""Nothing here sees pictures: a torchvision that would break transformers is hidden, on `import neuralbot`.

optimum-intel brings PyPI's torchvision. Beside a torch for processors only, or another torch than it was built for, it
cannot be imported, and neither can `Trainer` of transformers, which asks for it wherever it is installed.
"""

from __future__ import annotations

import logging
import re
import sys
from importlib.util import find_spec

logger = logging.getLogger(__name__)

_TORCH_PIN = re.compile(r"torch\s*\(?==\s*([\w.+]+)")


def hide_torchvision() -> None:
    """Hide one that was not built for this torch, and leave any other; call before transformers is first imported."""
    if "torchvision" in sys.modules or find_spec("torchvision") is None:
        return
    if (why := _misfit()) is not None:
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # importing it then raises ImportError
        logger.debug("torchvision is hidden from this process, where it would break transformers: %s", why)


def _misfit() -> str | None:
    """Told by what the packages say of themselves: to import both would take seconds."""
    from importlib import metadata

    try:
        vision, torch = metadata.distribution("torchvision"), metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    release, _, build = torch.partition("+")
    wanted = next((found[1] for line in vision.requires or () if (found := _TORCH_PIN.match(line))), release)
    if wanted.partition("+")[0] != release:
        return f"torchvision {vision.version} is for torch {wanted}, not for {torch}"
    if build == "cpu" and not vision.version.endswith("+cpu"):
        return f"torchvision {vision.version} is not for torch {torch}"
    return None
