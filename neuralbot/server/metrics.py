"""What the server measures of itself, for Prometheus: labels are few and fixed, whatever clients send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from neuralbot.server.admission import Admission

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_LAG_EVERY_S = 0.1


class Metrics:
    """One registry a server, so that several may live in one process."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "neuralbot_requests", "Requests that were answered or refused.", ("route", "status"), registry=registry
        )
        self.left = Counter("neuralbot_clients_left", "Clients that left before their answer.", registry=registry)
        self.prompt = Counter("neuralbot_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.generated = Counter("neuralbot_generated_tokens", "Tokens that were generated.", registry=registry)
        self.waited = Histogram("neuralbot_queue_seconds", "Time in the queue.", buckets=_SECONDS, registry=registry)
        self.first_token = Histogram(
            "neuralbot_first_token_seconds",
            "Time to the first token, queue included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "neuralbot_request_seconds", "Time of a request.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.lag = Histogram(
            "neuralbot_event_loop_lag_seconds", "How late the event loop is.", buckets=_LAG_SECONDS, registry=registry
        )
        busy = Gauge("neuralbot_busy_slots", "Slots at work.", registry=registry)
        busy.set_function(lambda: admission.busy)
        waiting = Gauge("neuralbot_waiting_requests", "Requests in the queue.", registry=registry)
        waiting.set_function(lambda: len(admission.waiting()))

    def text(self) -> bytes:
        return generate_latest(self.registry)

    async def watch_loop(self) -> None:
        """Measures for ever how much later than asked for the event loop wakes up."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self.lag.observe(max(0.0, loop.time() - due))
