"""A hub on 127.0.0.1 for tests: the routes of Hugging Face's API that a download needs.

Like the real one it holds no large files: whoever asks for one is sent to another host, which
knows no accounts and takes signed addresses. Small files are sent on, too, to a cache of its own.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

COMMITS = {"main": "a" * 40, "old": "b" * 40}
_LARGE = (".safetensors", ".npz", ".pt", ".pth", ".distcp", ".bin", ".sqlite")
_SIGNED = "Expires=1&Signature=of-the-hub"


class StubHub(BaseHTTPRequestHandler):
    """`down`, `cuts` and `lame` make it fail, as hubs do."""

    commits: Mapping[str, str] = COMMITS  # by branch or tag; no other commit is there
    repos: dict[str, Path]
    renamed: dict[str, str]  # a repository's old name -> what it is called today
    cdn: int  # port of the other host
    xet: bool = False  # whether large files are said to be had of Xet, which is not there
    asked: list[str]
    tokens: set[str]  # what the hub was shown
    cuts: list[int]  # of the next long files: bytes after which the connection ends
    down: list[bool]  # not empty: no file is given any more
    breaks: tuple[bool, ...] = ()  # what a cut adds to `down`
    ranges: list[str]  # the Range headers that came
    ranged: bool = True  # whether it minds them
    sent: dict[str, int]  # bytes of each file, by its name in the repository
    lame: float = 0.0  # seconds before a file is given

    def do_GET(self):
        self.asked.append(self.path)
        path, _, query = self.path.partition("?")
        if self.server.server_port == self.cdn:
            return self.elsewhere(path, query)
        token = self.headers.get("Authorization")
        self.tokens |= {token} if token else set()
        parts = path.removeprefix("/api/resolve-cache/models").removeprefix("/api/models")
        repo, rest = "/".join(parts.split("/")[1:3]), parts.split("/")[3:]
        if repo in self.renamed:
            return self.reply(b"", {"Location": self.path.replace(repo, self.renamed[repo])}, 307)
        if repo == "org/gated" and (not path.startswith("/api/") or "resolve-cache" in path):
            # All may list it; its files are not for all.
            return self.refuse(403 if token else 401, "GatedRepo")
        if repo not in self.repos:
            return self.refuse(404 if token else 401, "RepoNotFound")
        if "resolve-cache" in path:
            name = unquote("/".join(rest[1:]))
            tag = f'"{self.tag(self.repos[repo] / name)}"'
            return self.content(repo, name, {"X-Repo-Commit": rest[0], "ETag": tag})
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self.commits.get(revision, revision)
        if commit not in self.commits.values():
            return self.refuse(404, "RevisionNotFound")
        if path.startswith("/api/"):
            listed = self.tree(repo) if rest[:1] == ["tree"] else self.about(repo, commit)
            return self.reply(json.dumps(listed).encode())
        return self.resolve(repo, commit, unquote("/".join(rest[2:])))

    do_HEAD = do_GET

    def files(self, repo):
        """(path in the repository, path here) of each."""
        folder = self.repos[repo]
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return [(p.relative_to(folder).as_posix(), p) for p in files]

    def tree(self, repo):
        listed: list[dict[str, Any]] = []
        for name, file in self.files(repo):
            tag, size = self.tag(file), file.stat().st_size
            listed.append({"type": "file", "path": name, "size": size, "oid": tag})
            if file.suffix in _LARGE:
                listed[-1] |= {"lfs": {"oid": tag, "size": size, "pointerSize": 134}}
                listed[-1] |= {"xetHash": "c" * 64} if self.xet else {}
        return listed

    def about(self, repo, commit):
        siblings = [{"rfilename": name, "size": p.stat().st_size} for name, p in self.files(repo)]
        return {"id": repo, "sha": commit, "siblings": siblings}

    def resolve(self, repo, commit, name):
        """Where a file is, and what it is: the answer about it is in the redirection's headers."""
        file = dict(self.files(repo)).get(name)
        if file is None:
            return self.refuse(404, "EntryNotFound")
        if self.down and self.command == "GET":
            return self.refuse(500, "Down")
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(file.stat().st_size),
            "X-Linked-ETag": f'"{self.tag(file)}"',
            "ETag": f'"{self.tag(file)}"',
        }
        if file.suffix not in _LARGE:
            place = f"/api/resolve-cache/models/{repo}/{commit}/{quote(name)}?etag=1"
            return self.reply(b"Temporary Redirect", headers | {"Location": place}, 307)
        place = f"http://127.0.0.1:{self.cdn}/{repo}/{quote(name)}?{_SIGNED}"
        if self.xet:
            headers |= {"X-Xet-Hash": "c" * 64, "X-Xet-Refresh-Route": "/no/such/route"}
        return self.reply(b"Found", headers | {"Location": place}, 302)

    def elsewhere(self, path, query):
        """The other host: a second way of proving who one is makes it refuse, as S3 does."""
        if "Authorization" in self.headers:
            return self.reply(b"only one authentication mechanism is allowed", status=400)
        if query != _SIGNED:
            return self.reply(b"missing Key-Pair-Id", status=403)
        _, org, repo, *name = path.split("/")
        return self.content(f"{org}/{repo}", unquote("/".join(name)), {"ETag": '"of-this-host"'})

    def content(self, repo, name, headers):
        if self.down and self.command == "GET":
            return self.refuse(500, "Down")
        return self.serve(name, (self.repos[repo] / name).read_bytes(), headers)

    def serve(self, name, body, headers):
        """The part of a file that is asked for, and as far as `cuts` lets it come."""
        start, stop, status = 0, len(body), 200
        if self.ranged and (wanted := self.headers.get("Range")):
            self.ranges.append(wanted)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(stop, int(last or stop) + 1), 206
            if start >= len(body):
                return self.reply(b"", {"Content-Range": f"bytes */{len(body)}"}, 416)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        headers["Content-Length"] = str(stop - start)
        if self.command == "GET":
            if self.cuts and stop - start > 1000:
                stop = start + self.cuts.pop(0)
                self.down += self.breaks
            self.sent[name] = self.sent.get(name, 0) + stop - start
            time.sleep(self.lame)
        return self.reply(body[start:stop], headers, status)

    def tag(self, file):
        """What the file is called among all: large ones by their SHA-256, as Git LFS has it."""
        kind = hashlib.sha256 if file.suffix in _LARGE else hashlib.sha1
        return kind(file.read_bytes()).hexdigest()

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
    lists: dict[str, Any] = {"asked": [], "cuts": [], "ranges": [], "down": []}
    fresh = {"repos": dict(repos), "renamed": {}, "sent": {}, "tokens": set(), **lists}
    handler: Any = type("Handler", (StubHub,), fresh | more)
    with ExitStack() as stack:
        hub, cdn = (stack.enter_context(_serving(handler, at)) for at in (port, 0))
        handler.cdn = cdn.server_port
        hub.handler, hub.cdn = handler, cdn
        yield hub


@contextmanager
def _serving(handler: Any, port: int) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
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
