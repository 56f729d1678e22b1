"""A dict whose keys are attributes too, as scripts of ITREX use its plugins."""

from __future__ import annotations

from typing import Any

__all__ = ["DotDict"]


class DotDict(dict[str, Any]):
    """`d.key` is `d["key"]`, with dicts inside made DotDicts. A key that is not there raises, a misspelt one too.

    New keys are made by item only: `d["key"] = value`.
    """

    def __init__(self, value: dict[str, Any] | None = None) -> None:
        super().__init__()
        for key, item in (value or {}).items():
            self[key] = item

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, DotDict(value) if type(value) is dict else value)

    def __getattr__(self, name: str) -> Any:
        self._require(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._require(name)
        self[name] = value

    def _require(self, name: str) -> None:
        if name not in self:
            raise AttributeError(
                f"there is no {name!r} here: expected one of {', '.join(self) or 'nothing'}", name=name
            )
