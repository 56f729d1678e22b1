"""What stands before every route: keys, hosts, bodies, slow clients, and what refusals look like."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from neuralbot.server import gate, keys
from neuralbot.server.keys import Keys
from tests.server.conftest import Live, Serve

ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Keys]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    return keys.make("alice", path), keys.read(path)


def raw(live: Live, text: str | bytes, seconds: float = 5) -> bytes:
    """What the server says to bytes, until it closes or says no more."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=seconds) as connection:
        connection.sendall(text.encode() if isinstance(text, str) else text)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def test_every_route_but_the_public_ones_needs_a_key(serve: Serve, key: tuple[str, Keys]) -> None:
    live = serve(keys=key[1])
    assert {"/health", "/ready", "/ping"} == gate.PUBLIC
    paths = live.server.schema()["paths"]
    routes = [(path, method.upper()) for path, methods in paths.items() for method in methods]
    assert len(routes) >= 9
    with live.client() as client:
        for path, method in [
            *routes,
            ("/nothing", "GET"),
            ("/openapi.json", "GET"),
            ("/health/", "GET"),
            ("//health", "GET"),
            ("/x", "DELETE"),
        ]:
            answer = client.request(method, path.replace("{name}", "tiny"))
            if path in gate.PUBLIC:
                assert answer.status_code in (200, 405)
            else:
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
    with live.client(key[0]) as client:
        assert client.post(CHAT, json=ASK).status_code == 200


def test_wrong_keys_get_the_same_answer_whatever_is_wrong_with_them(serve: Serve, key: tuple[str, Keys]) -> None:
    live, right = serve(keys=key[1]), key[0]
    wrong: list[list[tuple[str, bytes]]] = [
        [("Authorization", f"Bearer {right[:-1]}".encode())],
        [("Authorization", f"Bearer {right.upper()}".encode())],
        [("Authorization", f"Basic {right}".encode())],
        [("Authorization", right.encode())],
        [("Authorization", "Bearer schlüssel".encode())],
        [("Authorization", f"Bearer {right}".encode())] * 2,
        [],
    ]
    with live.client() as client:
        said = set()
        for headers in wrong:
            answer = client.post(CHAT, json=ASK, headers=headers)
            said.add((answer.status_code, answer.text))
    assert said == {
        (
            401,
            json.dumps(
                {
                    "error": {
                        "message": "a key is needed: Authorization: Bearer KEY",
                        "type": "invalid_request_error",
                        "param": None,
                        "code": "invalid_api_key",
                    }
                }
            ),
        )
    }


@pytest.mark.parametrize(
    "host", ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test", "", "localhost/health", "x?"]
)
def test_on_the_loopback_other_host_names_are_refused(live: Live, host: str) -> None:
    said = raw(live, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")


def test_hosts_of_the_loopback_and_named_ones_are_served(serve: Serve) -> None:
    live = serve(allowed_hosts=("bot.example",))
    for host in ("localhost", f"127.0.0.1:{live.port}", "bot.example", "BOT.example:443"):
        said = raw(live, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 "), host


def test_a_path_is_judged_as_it_is_routed(serve: Serve, key: tuple[str, Keys]) -> None:
    live = serve(keys=key[1])
    host = f"127.0.0.1:{live.port}"
    for target in (
        "/v1/models?/health",
        f"http://{host}/health/../v1/models",
        "/health%2f..%2fv1/models",
        "/%2e/health",
    ):
        said = raw(live, f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert said.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")), target


def test_bodies_are_counted_while_they_are_read(serve: Serve) -> None:
    live = serve(max_body=10000)

    def chunks() -> Any:
        for _ in range(20):
            yield b"x" * 1000

    with live.client() as client:
        for content in (b"x" * 10001, chunks()):
            answer = client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["message"]) == (
                413,
                "the body is larger than 10000 bytes",
            )
        small = json.dumps(ASK | {"user": "x" * 500})
        assert client.post(CHAT, content=small, headers={"Content-Type": "application/json"}).status_code == 200


def test_an_endless_body_is_cut_off_within_a_second_or_two(serve: Serve) -> None:
    live = serve(max_body=10000)
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        start, sent = time.monotonic(), 0
        try:
            while time.monotonic() - start < 10:
                sent += connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.monotonic() - start < 5 and sent > 10000


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"text"', "application/json", 400),
        (b'{"messages": NaN}', "application/json", 400),
        (b'{"temperature": 1e999, "messages": []}', "application/json", 400),
        (b'{"messages": [], "messages": []}', "application/json", 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "application/json", 400),
        (b'{"x":' * 500 + b"1" + b"}" * 500, "application/json", 400),
        (b"[" * 100000, "application/json", 400),
        (json.dumps(ASK).encode() + b"{}", "application/json", 400),
        (b"1" * 5000, "application/json", 400),
        (json.dumps(ASK).encode(), "text/plain", 415),
        (json.dumps(ASK).encode(), "", 415),
        (json.dumps(ASK).encode(), "application/x-www-form-urlencoded", 415),
        (json.dumps(ASK).encode(), "application/json; charset=utf-8", 200),
    ],
)
def test_bodies_that_are_no_json_objects(client: httpx.Client, content: bytes, kind: str, status: int) -> None:
    answer = client.post(CHAT, content=content, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status, answer.text
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_compressed_bodies_are_not_opened(client: httpx.Client) -> None:
    answer = client.post(
        CHAT, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
    )
    assert answer.status_code == 415


def test_half_a_head_and_half_a_body_are_waited_for_only_so_long(serve: Serve) -> None:
    live = serve(header_time=0.5, body_time=0.5)
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nContent-Type: application/json\r\n"
    )
    start = time.monotonic()
    assert raw(live, head) == b""
    assert raw(live, "") == b""
    assert raw(live, head + "\r\n{").startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - start < 4.5
    dripped = b""
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        start = time.monotonic()
        try:
            for byte in head.encode():
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
            dripped = connection.recv(1)
        except OSError:
            pass
    assert dripped == b"" and time.monotonic() - start < 2


def test_heads_are_bounded(live: Live) -> None:
    for head in ("X: " + "y" * 200000, "\r\n".join(f"X{number}: y" for number in range(20000))):
        said = raw(live, f"GET /health HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n", 2)
        assert said[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")


def test_what_is_no_http_is_told_in_the_same_form(live: Live) -> None:
    said = raw(live, "NONSENSE\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_pages_of_other_origins_may_ask_only_where_they_are_named(serve: Serve, client: httpx.Client) -> None:
    ask = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options(CHAT, headers=ask).headers
    assert "access-control-allow-origin" not in client.get("/health", headers=ask).headers
    with serve(allowed_origins=("https://page.example",)).client() as named:
        assert named.options(CHAT, headers=ask).headers["access-control-allow-origin"] == "https://page.example"
        other = named.options(CHAT, headers=ask | {"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-credentials" not in named.get("/health", headers=ask).headers


def test_a_request_has_a_name_which_may_be_the_clients(client: httpx.Client) -> None:
    assert client.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for unfit in ("a b", "x" * 100, "a\\n{}"):
        made = client.get("/health", headers={"X-Request-Id": unfit}).headers["x-request-id"]
        assert made != unfit and len(made) == 32


def test_the_log_holds_neither_prompts_nor_keys(
    serve: Serve, key: tuple[str, Keys], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    live = serve(keys=key[1])
    with caplog.at_level("DEBUG"), live.client(key[0]) as client:
        client.post(CHAT, json={"messages": [{"role": "user", "content": "CANARY"}], "max_tokens": 1})
        client.post(CHAT, json={"messages": "CANARY"})
        client.post(CHAT + "?secret=CANARY", json=ASK)
        client.post("/v1/completions", json={"prompt": "CANARY", "temperature": "CANARY"})
        client.get("/a%0a%1b[31mb")
    printed = capfd.readouterr()
    records = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    fields = [record.fields for record in records if hasattr(record, "fields")]
    everything = " ".join(record.getMessage() for record in records) + str(fields) + printed.out + printed.err
    assert "CANARY" not in everything and key[0] not in everything
    chats = [one for one in fields if one.get("path") == CHAT]
    assert chats[0] | {"id": "", "seconds": 0} == {
        "id": "",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "seconds": 0,
        "key": "alice",
        "prompt_tokens": chats[0]["prompt_tokens"],
        "completion_tokens": 1,
    }


def test_metrics_tell_what_was_done(live: Live, client: httpx.Client) -> None:
    client.post(CHAT, json=ASK)
    for number in range(50):
        client.get(f"/made-up-{number}")
    text = client.get("/metrics").text
    assert 'neuralbot_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "made-up" not in text and 'neuralbot_requests_total{route="none",status="404"}' in text
    assert "neuralbot_generated_tokens_total" in text and "neuralbot_event_loop_lag_seconds_bucket" in text


def test_connections_without_a_request_give_way(serve: Serve) -> None:
    live = serve(max_connections=20)
    idle = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(60)]
    try:
        with live.client() as client:
            assert client.get("/health").status_code == 200
        assert len(live.uvicorn.server_state.connections) <= 21
    finally:
        for connection in idle:
            connection.close()


def test_many_refusals_at_once_are_all_told(serve: Serve) -> None:
    """More than there are places: each is answered, with 200 or 503 and when to try again."""
    live = serve(slots=1, queue=2)
    found: list[tuple[int, str | None]] = []

    def ask() -> None:
        with live.client() as client:
            answer = client.post(CHAT, json=ASK | {"max_tokens": 16})
            found.append((answer.status_code, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40 and {status for status, _ in found} == {200, 503}
    assert all(after is not None for status, after in found if status == 503)
    live.wait_until_idle()


def test_unexpected_failures_tell_clients_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    live = serve()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("internal detail")

    monkeypatch.setattr(live.state.served, "system_turns", fail)
    with live.client() as client:
        answer = client.post(CHAT, json=ASK)
    assert answer.status_code == 500 and "detail" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    live.wait_until_idle()
