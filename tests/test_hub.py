"""Names -> files, from folders and from a hub that runs on 127.0.0.1 for the test."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.hub import find_files

FIXTURES = Path(__file__).parent / "fixtures"
COMMITS = {"main": "a" * 40, "old": "b" * 40}


class StubHub(BaseHTTPRequestHandler):
    """The routes of the hub's API that a snapshot needs, over folders: {repo: folder}."""

    repos: dict[str, Path]
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        path, _, _ = self.path.partition("?")
        repo = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2])
        rest = path.partition(repo)[2].strip("/").split("/")
        if repo == "org/gated":
            return self.refuse(403, "GatedRepo")
        if repo not in self.repos:
            return self.refuse(404, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
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
            siblings = [{"rfilename": n} for n in names]
            about = {"id": repo, "sha": commit, "siblings": siblings}
            return self.reply(json.dumps(about).encode())
        name = "/".join(rest[2:])
        if name not in names:
            return self.refuse(404, "EntryNotFound")
        file = self.repos[repo] / name
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self.tag(file)}"'}
        return self.reply(file.read_bytes(), headers)

    do_HEAD = do_GET

    def tag(self, file):
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def refuse(self, status, code):
        self.reply(b"{}", {"X-Error-Code": code}, status)

    def reply(self, body, headers=None, status=200):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running stub hub with one repository of two dictionaries, and an empty cache."""
    from huggingface_hub import constants

    repo = tmp_path / "saes"
    for place, name in (("layer_1", "saelens_v6_topk"), ("layer_12", "saelens_v6_standard")):
        source = next(FIXTURES.glob(f"{name}/*/blocks.12.hook_resid_post"))
        shutil.copytree(source, repo / "res" / place)
    (repo / "res/layer_1" / "examples.safetensors").write_bytes(b"far too big")
    (repo / "config.json").write_text("{}")
    (repo / "model.safetensors").write_bytes(b"weights")
    (repo / "pytorch_model.bin").write_bytes(b"a pickle")
    handler = type("Handler", (StubHub,), {"repos": {"org/saes": repo}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server.handler = handler
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def stop(hub):
    hub.shutdown()
    hub.server_close()


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_local_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    assert find_files(str(tmp_path), kind="model") == tmp_path
    (tmp_path / "org" / "repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_files("org/repo", kind="dictionary") == Path("org/repo")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files("~/org", kind="model") == tmp_path / "org"


@pytest.mark.parametrize(
    "name",
    ["", "foghorn2", "./no/place", "/no/such/place", "~/no/such", "~x/y/z", "a\0/b", "a" * 9000],
)
def test_what_is_neither_a_path_nor_a_hub_name_is_refused(name):
    with pytest.raises(DictionaryError, match="neither an existing path nor a name on the hub"):
        find_files(name, kind="model")


def test_one_dictionary_of_a_repository_is_fetched_alone_and_opens(hub):
    folder = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert names(folder) == ["cfg.json", "sae_weights.safetensors"]
    assert open_dictionary(folder).info.architecture == "topk"
    assert names(folder.parents[1]) == [
        "config.json",
        "res/layer_1/cfg.json",
        "res/layer_1/sae_weights.safetensors",
    ]


def test_of_a_model_only_what_runs_it_is_fetched(hub):
    folder = find_files("org/saes", kind="model", progress=False)
    fetched = names(folder)
    assert "model.safetensors" in fetched
    assert "pytorch_model.bin" not in fetched


@pytest.mark.parametrize("name", ["org/saes", "org/saes/res", f"org/saes@{COMMITS['main']}/res"])
def test_a_folder_of_many_dictionaries_asks_which(name, hub):
    said = r"holds 2 dictionaries.*org/saes/res/layer_1, org/saes/res/layer_12"
    with pytest.raises(DictionaryError, match=said):
        find_files(name, kind="dictionary", progress=False)
    assert not Path(hub.handler.repos["org/saes"].parent / "cache").exists(), "nothing was fetched"


def test_a_folder_that_is_not_there_is_named_with_those_that_are(hub):
    with pytest.raises(DictionaryError, match=r"no 'layer_3'; it has .*res/layer_1"):
        find_files("org/saes/layer_3", kind="dictionary", progress=False)


@pytest.mark.parametrize("name", ["org/saes@old/res/layer_1", "org/saes/res/layer_1"])
def test_a_revision_is_pinned_by_name_or_argument(name, hub):
    folder = find_files(
        name, revision=None if "@" in name else "old", kind="dictionary", progress=False
    )
    assert folder.parents[1].name == COMMITS["old"]
    with pytest.raises(DictionaryError, match=r"no revision 'newest'"):
        find_files(name, revision="newest", kind="dictionary", progress=False)


def test_a_pinned_commit_is_found_again_without_asking_the_hub(hub):
    name = f"org/saes@{COMMITS['main']}/res/layer_1"
    first = find_files(name, kind="dictionary", progress=False)
    hub.handler.asked.clear()
    assert find_files(name, kind="dictionary", progress=False) == first
    assert hub.handler.asked == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_cached_serves_when_the_hub_is_gone(hub):
    first = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    stop(hub)
    assert find_files("org/saes/res/layer_1", kind="dictionary", progress=False) == first
    with pytest.raises(DictionaryError, match=r"not in the cache .* cannot be reached"):
        find_files("org/saes/res/layer_12", kind="dictionary", progress=False)
    with pytest.raises(DictionaryError, match=r"org/other is not in the cache"):
        find_files("org/other", kind="model", progress=False)


def test_a_gated_repository_says_how_to_get_in(hub):
    with pytest.raises(DictionaryError, match=r"org/gated is gated: accept.*HF_TOKEN"):
        find_files("org/gated/layer", kind="dictionary", progress=False)


def test_a_missing_repository_says_what_to_check(hub):
    with pytest.raises(DictionaryError, match=r"org/nothing was not found.*spelling"):
        find_files("org/nothing", kind="model", progress=False)


def test_progress_is_shown_unless_told_not_to(hub, capfd):
    find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert capfd.readouterr().err == ""
    find_files("org/saes/res/layer_12", kind="dictionary")
    assert "%" in capfd.readouterr().err
