"""The inner loops of training: `native` in C where a compiler is, `plain` in torch everywhere, the same functions."""

from __future__ import annotations

from types import ModuleType


def best() -> ModuleType:
    """`native` where it can be built on this machine, else `plain`."""
    from neuralbot.kernels import native, plain

    return plain if native.library() is None else native
