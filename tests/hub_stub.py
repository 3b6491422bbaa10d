"""A hub on 127.0.0.1 for tests: the routes of Hugging Face's API that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMITS = {"main": "a" * 40, "old": "b" * 40}


class StubHub(BaseHTTPRequestHandler):
    """`down`, `cuts` and `lame` make it fail, as hubs do."""

    commits: Mapping[str, str] = COMMITS  # by branch or tag; no other commit is there
    repos: dict[str, Path]
    asked: list[str]
    cuts: list[int]  # of the next long files: bytes after which the connection ends
    down: list[bool]  # not empty: no file is given any more
    breaks: tuple[bool, ...] = ()  # what a cut adds to `down`
    ranges: list[str]  # the Range headers that came
    ranged: bool = True  # whether it minds them
    sent: dict[str, int]  # bytes of each file, by its name in the repository
    lame: float = 0.0  # seconds before a file is given

    def do_GET(self):
        self.asked.append(self.path)
        path, _, _ = self.path.partition("?")
        repo = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2])
        rest = path.partition(repo)[2].strip("/").split("/")
        if repo == "org/gated" and not path.startswith("/api/"):
            return self.refuse(403, "GatedRepo")  # all may list it; its files are not for all
        if repo not in self.repos:
            return self.refuse(404, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self.commits.get(revision, revision)
        if commit not in self.commits.values():
            return self.refuse(404, "RevisionNotFound")
        files = sorted(p for p in self.repos[repo].rglob("*") if p.is_file())
        names = [p.relative_to(self.repos[repo]).as_posix() for p in files]
        if path.startswith("/api/") and rest[0] == "tree":
            listed = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": self.tag(p)}
                for n, p in zip(names, files, strict=True)
            ]
            return self.reply(json.dumps(listed).encode())
        if path.startswith("/api/"):
            sizes = [p.stat().st_size for p in files]
            siblings = [{"rfilename": n, "size": s} for n, s in zip(names, sizes, strict=True)]
            about = {"id": repo, "sha": commit, "siblings": siblings}
            return self.reply(json.dumps(about).encode())
        name = unquote("/".join(rest[2:]))
        if name not in names:
            return self.refuse(404, "EntryNotFound")
        if self.down and self.command == "GET":
            return self.refuse(500, "Down")
        file = self.repos[repo] / name
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self.tag(file)}"'}
        return self.serve(name, file.read_bytes(), headers)

    do_HEAD = do_GET

    def serve(self, name, body, headers):
        """The part of a file that is asked for, and as far as `cuts` lets it come."""
        start, stop, status = 0, len(body), 200
        if self.ranged and (wanted := self.headers.get("Range")):
            self.ranges.append(wanted)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(stop, int(last or stop) + 1), 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        headers["Content-Length"] = str(stop - start)
        if self.command == "GET":
            if self.cuts and stop - start > 1000:
                stop = start + self.cuts.pop(0)
                self.down += self.breaks
            self.sent[name] = self.sent.get(name, 0) + stop - start
            time.sleep(self.lame)
        self.reply(body[start:stop], headers, status)

    def tag(self, file):
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def refuse(self, status, code):
        self.reply(b"{}", {"X-Error-Code": code}, status)

    def reply(self, body, headers=None, status=200):
        self.send_response(status)
        self.close_connection = True
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # of one who did not wait
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def running(repos: Mapping[str, Path], port: int = 0, **more: Any) -> Iterator[Any]:
    """A server of these repositories: {name: folder}; `handler` has what it was asked."""
    fresh = {"repos": dict(repos), "asked": [], "cuts": [], "ranges": [], "down": [], "sent": {}}
    handler = type("Handler", (StubHub,), fresh | more)
    server: Any = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.handler = handler
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def point_at(server: Any, cache: Path, monkeypatch: Any) -> None:
    """Have everything that is downloaded come from this hub, into an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
