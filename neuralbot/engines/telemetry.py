"""OpenVINO counts its uses on a server of Google's, from the moment it is imported; here it does not."""

from __future__ import annotations

import sys


def hide() -> None:
    """Call before openvino, nncf or optimum is first imported; they do without the package that sends."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it then raises ImportError
