"""Floods, idle crowds and hours of use. The large ones: python -m pytest -m slow tests/server/test_load.py"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import resource
import socket
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from neuralbot import hardware
from tests.server.conftest import Live, Serve
from tests.server.scripted import Scripted

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000), hard))


@pytest.fixture(autouse=True)
def enough_files() -> None:
    files()


def flooded(url: str, count: int) -> Counter[int]:
    """From a process of its own: its memory is not the server's."""
    return asyncio.run(flood(url, count))


async def flood(url: str, count: int) -> Counter[int]:
    """That many requests at once, each on a connection of its own; how many ended with each status."""
    files()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:

        async def ask() -> int:
            answer = await client.post(CHAT, json=ASK)
            assert answer.status_code == 200 or "retry-after" in answer.headers
            return answer.status_code

        return Counter(await asyncio.gather(*(ask() for _ in range(count))))


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_of_a_flood_every_request_is_answered_or_refused(serve: Serve, tiny_tokenizer: Any, count: int) -> None:
    live = serve(chatbot=Scripted(tiny_tokenizer, delay=0.002).chatbot(), slots=4, queue=16)
    before = hardware.resident_bytes()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:
        found = clients.submit(flooded, live.url, count).result()
    assert sum(found.values()) == count and set(found) <= {200, 503} and found[200] >= 20
    live.wait_until_idle()
    grown = hardware.resident_bytes() - before
    print(f"{count} requests: {dict(found)}, {grown / 1e6:.0f} MB more")
    assert grown < 200e6


def p95(live: Live, count: int = 60) -> float:
    """Seconds of a short answer, the 95th percentile."""
    times = []
    with live.client() as client:
        for _ in range(count):
            start = time.perf_counter()
            assert client.post(CHAT, json=ASK).status_code == 200
            times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=20)[-1]


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_idle_connections_cost_little(serve: Serve, tiny_tokenizer: Any, count: int) -> None:
    """The 95th percentile of a short answer beside them: under 10 % more; of the small crowd 50 %, for noise."""
    live = serve(chatbot=Scripted(tiny_tokenizer, delay=0.01).chatbot(), header_time=60)
    p95(live, 10)
    alone = p95(live)
    idle = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(count)]
    try:
        crowded = p95(live)
        assert len(live.uvicorn.server_state.connections) >= count
    finally:
        for connection in idle:
            connection.close()
    print(f"95th percentile {alone * 1e3:.1f} ms alone, {crowded * 1e3:.1f} ms beside {count} idle connections")
    assert crowded < alone * (1.1 if count >= 5000 else 1.5)


def test_the_event_loop_is_free_while_a_long_text_is_read(serve: Serve, tiny_tokenizer: Any) -> None:
    engine = Scripted(tiny_tokenizer, delay=0.01, context=10**6)
    live = serve(chatbot=engine.chatbot())
    text = {"prompt": "ab" * 500_000, "max_tokens": 1}
    long = threading.Thread(target=lambda: httpx.post(live.url + "/v1/completions", json=text, timeout=60))
    gaps: list[float] = []
    with httpx.stream("POST", live.url + CHAT, json=ASK | {"max_tokens": 150, "stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data"))
        next(lines)
        long.start()
        last = time.perf_counter()
        for _ in lines:
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()
    long.join()
    assert len(gaps) > 100 and max(gaps) < 0.25


@pytest.mark.slow
@pytest.mark.timeout(5000)
def test_an_hour_of_mixed_use_grows_nothing(serve: Serve, tiny_tokenizer: Any) -> None:
    """NEURALBOT_SOAK_S seconds, an hour by default: memory, descriptors, threads and tasks before and after."""
    seconds = float(os.environ.get("NEURALBOT_SOAK_S", "3600"))
    live = serve(chatbot=Scripted(tiny_tokenizer).chatbot())

    def use(end: float) -> int:
        done = 0
        with live.client() as client:
            while time.monotonic() < end:
                text = f"text {done} " * (done % 30 + 1)
                client.post(CHAT, json=ASK | {"stream": done % 2 == 0, "messages": [{"role": "user", "content": text}]})
                client.post("/generate_stream", json={"inputs": text, "parameters": {"max_new_tokens": 4}})
                client.post("/v1/completions", json={"prompt": [5] * (done % 200 + 1), "temperature": 7})
                client.get(f"/nothing/{done}")
                done += 4
        return done

    def held() -> dict[str, int]:
        gc.collect()
        return {
            "megabytes": hardware.resident_bytes() // 10**6,
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "threads": threading.active_count(),
            "tasks": len(live.uvicorn.server_state.tasks),
        }

    use(time.monotonic() + min(60, seconds / 10))
    before = held()
    done = use(time.monotonic() + seconds)
    after = held()
    print(f"{done} requests in {seconds:.0f} s: {before} before, {after} after")
    assert after["megabytes"] - before["megabytes"] < 5 + done / 1000
    assert all(after[name] <= before[name] + 2 for name in ("descriptors", "threads", "tasks"))
