"""How the server listens, whom it lets in and where it stops; one option of `neuralbot serve` a field."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from neuralbot.errors import UsageError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """slots: answers made at the same time. queue: requests that may wait. per_key: places one key may hold at once.

    Times are in seconds. Raises UsageError for what would be unsafe or cannot work.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    slots: int = 8
    queue: int = 64
    per_key: int | None = None  # None: all of them
    allowed_hosts: tuple[str, ...] = ()  # besides those of the loopback; on other addresses none: any
    allowed_origins: tuple[str, ...] = ()
    insecure: bool = False
    max_body: int = 2 * 2**20  # bytes
    deadline: float = 600.0  # of a request, the queue included
    grace: float = 30.0  # for answers on their way, once told to stop
    ping: float = 10.0  # between two signs of life of a stream that has no text yet
    header_time: float = 10.0  # to send the head of a request
    body_time: float = 30.0  # to send its body
    stall_time: float = 60.0  # a reader of a stream may take nothing for so long
    max_connections: int = 10000

    def __post_init__(self) -> None:
        for name in ("slots", "queue", "per_key", "max_body", "max_connections"):
            value, least = getattr(self, name), 0 if name == "queue" else 1
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')}={value} cannot be used: expected at least {least}")
        for name in ("deadline", "grace", "ping", "header_time", "body_time", "stall_time"):
            if not 0 < getattr(self, name) <= 86400:
                flag = name.replace("_", "-")
                value = getattr(self, name)
                raise UsageError(f"--{flag}={value} cannot be used: expected seconds above 0, a day at most")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port={self.port} cannot be used: expected 0 (any free one) to 65535")
        for origin in self.allowed_origins:
            _check_origin(origin)

    @property
    def places(self) -> int:
        return self.slots + self.queue

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names that a Host header may give, without ports; None: any."""
        if self.on_loopback:
            # A page of another site whose name was made to point here would give its own name.
            return frozenset((*LOOPBACK_NAMES, self.host, *self.allowed_hosts))
        return frozenset(self.allowed_hosts) or None


def _check_origin(origin: str) -> None:
    if origin == "null":
        raise UsageError("--allow-origin null cannot be used: any page can have the origin null (a sandboxed frame)")
    if origin != "*" and not origin.startswith(("http://", "https://")):
        raise UsageError(f"--allow-origin {origin!r} cannot be used: expected https://name[:port], or * for any page")
