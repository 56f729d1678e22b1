"""Names of ITREX that are there so that imports work, and say why they cannot be used when a script uses them."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from neuralbot.errors import NeuralbotError


class Refused:
    """Base of a name that cannot be honoured: calling it, or anything on it, raises NeuralbotError with `reason`."""

    reason: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.refuse()

    @classmethod
    def refuse(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise NeuralbotError(f"{cls.__name__} cannot be honoured: {cls.reason}")

    from_pretrained = from_config = refuse
