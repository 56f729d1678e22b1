"""The inner loops of training: `native` in C where a compiler is, `plain` in torch everywhere, the same functions."""

from __future__ import annotations

from types import ModuleType

from neuralbot.kernels import native, plain


def best() -> ModuleType:
    """`native` where it can be built on this machine, else `plain`."""
    return plain if native.library() is None else native
