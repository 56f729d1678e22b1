"""A hub on the loopback: what huggingface_hub and datasets ask of huggingface.co, answered from a folder.

The folder holds `models/OWNER/NAME/REVISION/...` and `datasets/OWNER/NAME/REVISION/...`. Served are the repository's
facts, its file list, and its files; large ones from another host name by redirect, as the hub's storage is. Owners
can gate a repository (its README stays public), a repository can have moved, and downloads can be made to break.
Not covered: uploads, commits between revisions, Xet storage, pages of listings.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MAX_REQUESTS = 5000
LARGE = (".safetensors", ".bin", ".parquet")
PUBLIC = ("README.md", ".gitattributes")

_API = re.compile(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info|auth-check)(?:/([^/]+)(?:/(.+))?)?)?")
_RESOLVE = re.compile(r"/(?:(datasets)/)?(.+?)/resolve/([^/]+)/(.+)")


class Refused(Exception):
    """An answer other than the one asked for: status, X-Error-Code, X-Error-Message."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Request:
    """One line of the hub's log. `secret`: whether it carried a token; `sent`: bytes of the body that left."""

    host: str
    method: str
    path: str
    range: str | None
    secret: bool
    status: int
    sent: int


@dataclass(frozen=True)
class Commit:
    """The files of one revision."""

    folder: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    @cached_property
    def sha(self) -> str:
        listing = "".join(f"{name} {blob_id(path)}\n" for name, path in self.files.items())
        return hashlib.sha1(f"{self.folder.parts[-3:-1]} {listing}".encode()).hexdigest()


@cache
def blob_id(path: Path) -> str:
    """The name git gives a file's content; for large files, which git-lfs keeps, their SHA-256."""
    data = path.read_bytes()
    if path.suffix in LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """What is served and what was asked. `url` is the HF_ENDPOINT while the server runs.

    gated: kind/owner/name of repositories that need a token which may read them. tokens: token -> what it may read.
    moved: old kind/name -> new owner/name. cuts: file name -> after how many bytes each next download of it breaks.
    outage: every answer is a page with this status.
    """

    root: Path
    gated: frozenset[str] = frozenset()
    tokens: Mapping[str, frozenset[str]] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    outage: int | None = None
    log: list[Request] = field(default_factory=list)
    url: str = ""

    def commit(self, kind: str, name: str, revision: str) -> Commit:
        """A revision by its name or sha. Raises Refused."""
        revisions = {path.name: self._commit(path) for path in (self.root / kind / name).iterdir()}
        found = revisions.get(revision) or next((c for c in revisions.values() if c.sha == revision), None)
        if found is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def admit(self, kind: str, name: str, token: str | None, file: str | None = None) -> None:
        """Raise Refused unless `token` may see the repository, and read `file` of it."""
        if token is not None and token not in self.tokens:
            raise Refused(401, None, "Invalid credentials in Authorization header")
        if name.count("/") != 1 or ".." in name or not (self.root / kind / name).is_dir():
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            raise Refused(status, "RepoNotFound", message)
        key = f"{kind}/{name}"
        if file is None or file in PUBLIC or key not in self.gated:
            return
        if token is None:
            message = f"Access to {kind[:-1]} {name} is restricted. You must have access to it and be authenticated "
            raise Refused(401, "GatedRepo", message + "to access it. Please log in.")
        if key not in self.tokens[token]:
            message = f"Access to {kind[:-1]} {name} is restricted and you are not in the authorized list. Visit "
            raise Refused(403, "GatedRepo", f"{message}https://huggingface.co/{name} to ask for access.")

    def asked(self, part: str, method: str = "GET") -> list[Request]:
        """The requests whose path contains `part`."""
        return [request for request in self.log if request.method == method and part in request.path]

    def _commit(self, folder: Path) -> Commit:
        return self._commits.setdefault(folder, Commit(folder))

    @cached_property
    def _commits(self) -> dict[Path, Commit]:
        return {}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of the loopback, until the block ends."""
    handler = type("HubHandler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    timeout = 20  # of an idle connection

    def do_GET(self) -> None:
        self._sent = 0
        try:
            if len(self.hub.log) >= MAX_REQUESTS:
                raise Refused(503, None, "too many requests for one test session")
            status = self._answer()
        except Refused as refused:
            status = self._refuse(refused)
        secret = self._token() is not None
        self.hub.log.append(
            Request(self._host(), self.command, self.path, self.headers["Range"], secret, status, self._sent)
        )

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """The log is `Hub.log`."""

    def _host(self) -> str:
        return self.headers.get("Host", "").partition(":")[0]

    def _token(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def _answer(self) -> int:
        if self.hub.outage:
            return self._send(self.hub.outage, b"<html>Welcome</html>", {"Content-Type": "text/html"})
        path = unquote(urlsplit(self.path).path)
        if self._host() == "localhost":
            return self._storage(path)
        if found := _API.fullmatch(path):
            return self._api(*found.groups())
        if found := _RESOLVE.fullmatch(path):
            kind, name, revision, file = found.groups()
            return self._resolve(kind or "models", name, revision, file)
        raise Refused(404, None, "Not found")

    # Facts and listings

    def _api(self, kind: str, name: str, verb: str | None, revision: str | None, inside: str | None) -> int:
        if target := self.hub.moved.get(f"{kind}/{name}"):
            return self._redirect(self.path.replace(f"/{name}", f"/{target}", 1), status=307)
        self.hub.admit(kind, name, self._token(), file="" if verb == "auth-check" else None)
        commit = self.hub.commit(kind, name, revision or "main")
        if verb == "auth-check":
            return self._json({})
        if verb == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
            return self._json(_tree(commit, inside or "", recursive))
        if verb == "paths-info":
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            entries = {entry["path"]: entry for entry in _tree(commit, "", recursive=True)}
            return self._json([entries[path] for path in form["paths"] if path in entries])
        siblings = [{"rfilename": file} for file in commit.files]
        gated = "manual" if f"{kind}/{name}" in self.hub.gated else False
        facts = {"id": name, "sha": commit.sha, "private": False, "gated": gated, "siblings": siblings}
        return self._json(facts | {"tags": [], "downloads": 0, "likes": 0})

    def _json(self, value: Any) -> int:
        return self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    # Files

    def _resolve(self, kind: str, name: str, revision: str, file: str) -> int:
        if target := self.hub.moved.get(f"{kind}/{name}"):
            return self._redirect(self.path.replace(f"/{name}/", f"/{target}/", 1), status=307)
        self.hub.admit(kind, name, self._token(), file)
        commit = self.hub.commit(kind, name, revision)
        headers = {"X-Repo-Commit": commit.sha}
        path = commit.files.get(file)
        if path is None:
            return self._refuse(Refused(404, "EntryNotFound", "Entry not found"), headers)
        tag = blob_id(path)
        if path.suffix in LARGE:
            linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(path.stat().st_size)}
            storage = self.hub.url.replace("127.0.0.1", "localhost")
            return self._redirect(f"{storage}/{path.relative_to(self.hub.root)}", headers | linked)
        return self._file(path, headers | {"ETag": f'"{tag}"'})

    def _storage(self, path: str) -> int:
        file = (self.hub.root / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.hub.root) or not file.is_file():
            raise Refused(404, None, "Not found")
        return self._file(file, {"ETag": f'"{blob_id(file)}"'})

    def _file(self, path: Path, headers: dict[str, str]) -> int:
        data = path.read_bytes()
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        cut = None
        if self.command == "GET" and self.hub.cuts.get(path.name):
            cut = self.hub.cuts[path.name].pop(0)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or ""):
            start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if start >= len(data):
                raise Refused(416, None, "Range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return self._send(206, data[start : end + 1], headers, cut)
        return self._send(200, data, headers, cut)

    # Answers

    def _redirect(self, location: str, headers: Mapping[str, str] | None = None, status: int = 302) -> int:
        return self._send(status, b"", {"Location": location, **(headers or {})})

    def _refuse(self, refused: Refused, headers: Mapping[str, str] | None = None) -> int:
        told = {"X-Error-Message": str(refused), "Content-Type": "application/json", **(headers or {})}
        if refused.code:
            told["X-Error-Code"] = refused.code
        return self._send(refused.status, json.dumps({"error": str(refused)}).encode(), told)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> int:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut is not None:
            body, self.close_connection = body[:cut], True
        if self.command != "HEAD":
            self.wfile.write(body)
            self._sent = len(body)
        return status


def _tree(commit: Commit, inside: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{inside}/" if inside else ""
    entries: dict[str, dict[str, Any]] = {}
    for name, path in commit.files.items():
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)) if recursive else range(1, min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(folder.encode()).hexdigest()
            entries.setdefault(folder, {"type": "directory", "oid": oid, "size": 0, "path": folder})
        if recursive or len(parts) == 1:
            entries[name] = _entry(name, path)
    if prefix and not entries:
        raise Refused(404, "EntryNotFound", f"{inside} does not exist")
    return list(entries.values())


def _entry(name: str, path: Path) -> dict[str, Any]:
    oid, size = blob_id(path), path.stat().st_size
    entry: dict[str, Any] = {"type": "file", "oid": oid[:40], "size": size, "path": name}
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
    return entry
