"""No request ends in a 5xx, a hang or a dead server: by the schema, positive and negative, and by raw bytes.

python -m pytest -m slow tests/server/test_fuzz.py  sends 20,000 mutations (two minutes); the quick suite sends 500.
"""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.conftest import Live, Serve
from tests.server.scripted import Scripted

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "stream": True}),
    ("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 2, "n": 2, "temperature": 0.5, "logit_bias": {"5": -1}}),
    ("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 2, "stop": ["x"], "details": True}}),
    ("/generate_stream", {"inputs": "hello", "parameters": {"max_new_tokens": 2}}),
    ("/invocations", {"inputs": [[{"role": "user", "content": "hello"}]], "parameters": {"max_new_tokens": 2}}),
    ("/tokenize", {"inputs": "hello"}),
]
_BAD = [
    b"\x00",
    b"\xff\xfe",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"{",
    b"}",
    b'"',
    b"[",
    b"1e999",
    b"NaN",
    b"-1",
    b"\\ud800",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Range: bytes=0-0,1-1\r\n",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"\xf0\x9f\x98\x80",
    b"A" * 5000,
]


def request(chance: random.Random) -> bytes:
    path, body = chance.choice(BODIES)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def mutated(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:at] + chance.choice(_BAD) + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + chance.randrange(1, 20) :]
        elif kind == 2:
            data = data[:at] + chance.randbytes(chance.randrange(1, 4)) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + data[at : at + 30] + data[at:]
        else:
            data = data[:at]
    return data


def answer(live: Live, data: bytes) -> bytes:
    """What is said to the bytes; "" for a connection that is closed without a word. Raises TimeoutError: a hang."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
        found = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                found += part
                connection.settimeout(1)  # a mutation may have asked to keep the connection
        except (ConnectionResetError, BrokenPipeError):
            pass
        except TimeoutError:
            if not found:
                raise
        return found


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_mutated_requests_never_end_in_a_5xx_or_a_hang(serve: Serve, tiny_tokenizer: Any, count: int) -> None:
    live = serve(chatbot=Scripted(tiny_tokenizer).chatbot(), header_time=0.3, body_time=0.3)
    chance = random.Random(0)
    found: Counter[bytes] = Counter()
    with ThreadPoolExecutor(48) as clients:  # most of the time goes by until the server gives up on half a request
        for said in clients.map(
            lambda data: answer(live, data), [mutated(request(chance), chance) for _ in range(count)]
        ):
            status = said[9:12] if said.startswith(b"HTTP/1.1 ") else said[:3]
            assert not status.startswith(b"5"), said[:500]
            assert not re.search(rb'"server_error"|"error_type": ?"generation"', said), said[-500:]
            found[status] += 1
    print(f"{count} mutations: {dict(found)}")
    assert found[b"200"] and found[b"400"]
    live.wait_until_idle()
    with live.client() as client:
        assert client.get("/ready").status_code == 200


def test_every_number_text_and_list_of_the_schema_is_bounded(live: Live) -> None:
    """Walks the requests' schemas: what comes from outside has an end."""
    schema = live.server.schema()
    components = schema["components"]["schemas"]
    asked = {
        body["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for methods in schema["paths"].values()
        for body in methods.values()
        if "requestBody" in body
    }
    assert len(asked) >= 6
    unbounded: list[str] = []

    def walk(where: str, part: Any, seen: tuple[str, ...]) -> None:
        if not isinstance(part, dict):
            return
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            if name not in seen:
                walk(where, components[name], (*seen, name))
        kind = part.get("type")
        if kind in ("integer", "number"):
            bounds = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
            if not all(part.keys() & bound for bound in bounds):
                unbounded.append(where)
        if (kind == "string" and not part.keys() & {"maxLength", "enum", "const", "pattern"}) or (
            kind == "array" and "maxItems" not in part
        ):
            unbounded.append(where)
        for name, inner in part.get("properties", {}).items():
            walk(f"{where}.{name}", inner, seen)
        for inner in (*part.get("anyOf", ()), part.get("items")):
            walk(where, inner, seen)

    for name in asked:
        walk(name, components[name], (name,))
    assert not unbounded


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing(serve: Serve, tiny_tokenizer: Any) -> None:
    """Positive and negative data for every operation: no server error, no answer that hangs."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    live = serve(chatbot=Scripted(tiny_tokenizer).chatbot())
    schema = schemathesis.openapi.from_dict(live.server.schema())
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    found: Counter[int] = Counter()
    with httpx.Client(base_url=live.url, timeout=30) as client:
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in modes:

                @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case: Any) -> None:
                    said = case.call(base_url=live.url, timeout=30)
                    found[said.status_code] += 1
                    assert said.status_code < 500, (case.as_curl_command(), said.text)

                try:
                    check()
                except Exception as error:
                    if "nsatisfiable" not in type(error).__name__:  # nothing negative can be said to this operation
                        raise
        assert client.get("/ready").status_code == 200
    print(f"schemathesis: {dict(found)}")
