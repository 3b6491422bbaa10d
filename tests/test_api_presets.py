"""Presets over HTTP and on disk: saved, read, exported, shared by servers, never lost."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_talk import get, put
from typer.testing import CliRunner

from server.cli import app

BODY = {
    "title": "Foggy",
    "description": "Wraps everything in fog.",
    "edits": [{"feature": "fog", "op": "add", "strength": 0.5}],
    "norm": "keep",
}


class TestPresets:
    def test_a_saved_preset_is_read_back_used_and_deleted(self, live):
        saved = put(live, "foggy", BODY)
        assert saved.status_code == 200, saved.text
        assert saved.json()["builtin"] is False
        assert get(live, "/v1/presets/foggy") == saved.json()
        assert saved.json() in get(live, "/v1/presets")["data"]
        reply = live.chat(model="tiny@foggy")
        assert reply["steering"]["applied"][0]["op"] == "add"
        assert reply["steering"]["receipt"]["norm"] == "keep"
        assert live.http.delete("/v1/presets/foggy").json()["deleted"] is True
        assert live.http.get("/v1/presets/foggy").status_code == 404
        gone = live.http.post("/v1/chat/completions", json=live.body(model="tiny@foggy"))
        assert gone.status_code == 404

    def test_presets_outlive_the_process_and_are_the_models_own(self, live, tmp_path):
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        path = tmp_path / "deep" / "presets.json"
        mine = Presets("tiny", [], path)
        mine.put("kept", PresetBody(**BODY))
        assert Presets("tiny", [], path).get("kept").body == PresetBody(**BODY)
        assert Presets("other", [], path).all() == []
        Presets("other", [], path).put("kept", PresetBody(**{**BODY, "title": "Other"}))
        mine.put("second", PresetBody(**BODY))
        assert Presets("other", [], path).get("kept").body.title == "Other"
        assert [p.name for p in Presets("tiny", [], path).all()] == ["kept", "second"]
        assert [file.name for file in path.parent.iterdir()] == ["presets.json"]

    def test_a_damaged_file_is_told_and_left_as_it_is(self, tmp_path, caplog):
        """Only who would write over it is refused: the model is served."""
        from server.errors import BadRequest
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        path = tmp_path / "presets.json"
        for text in ("{", "", "[]", '{"tiny": 3}', "[" * 100_000):
            path.write_text(text)
            caplog.clear()
            mine = Presets("tiny", [], path)
            assert mine.all() == []
            assert "presets.json cannot be read" in caplog.text
            with pytest.raises(BadRequest, match=r"presets\.json.*repair it"):
                mine.put("new", PresetBody(**BODY))
            assert path.read_text() == text

    def test_an_entry_that_cannot_be_read_is_left_out_and_kept(self, tmp_path, caplog):
        """It may be another model's, or a newer version's."""
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        path = tmp_path / "presets.json"
        bad = {"b": {**BODY, "of a later version": 1}}
        path.write_text(json.dumps({"tiny": {"a": BODY, **bad}, "other": bad}))
        mine = Presets("tiny", [], path)
        assert [preset.name for preset in mine.all()] == ["a"]
        assert caplog.text.count("preset 'b' of tiny is left out") == 1
        mine.put("c", PresetBody(**BODY))
        mine.delete("a")
        stored = json.loads(path.read_text())
        assert (set(stored["tiny"]), stored["tiny"]["b"]) == ({"b", "c"}, bad["b"])
        assert stored["other"] == bad

    def test_servers_on_one_file_lose_nothing_and_list_what_another_saved(self, tmp_path):
        from server.presets import Presets
        from server.schemas.steering import PresetBody

        servers = [Presets("tiny", [], tmp_path / "presets.json") for _ in range(2)]

        def save(who):
            for i in range(15):
                servers[who].put(f"{who}-{i}", PresetBody(**BODY))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(save, range(2)))
        assert [len(server.all()) for server in servers] == [30, 30]
        servers[0].delete("1-3")
        assert not servers[1].has("1-3")

    def test_a_write_that_fails_keeps_the_old_file(self, tmp_path, monkeypatch):
        from server import presets, presets_file
        from server.errors import SteerdeckError
        from server.schemas.steering import PresetBody

        path = tmp_path / "presets.json"
        mine = presets.Presets("tiny", [], path)
        mine.put("kept", PresetBody(**BODY))
        before = path.read_text()

        def full(_):
            raise OSError("no space left")

        monkeypatch.setattr(presets_file.os, "fsync", full)
        with pytest.raises(SteerdeckError, match=r"no space left.*nothing was changed"):
            mine.put("lost", PresetBody(**BODY))
        assert path.read_text() == before
        assert [p.name for p in mine.all()] == ["kept"]
        assert [file.name for file in tmp_path.iterdir()] == ["presets.json"]

    @pytest.mark.parametrize(
        ("name", "body", "names"),
        [
            ("loud", BODY, "cannot be changed"),
            ("x y", BODY, "name"),
            ("new", {**BODY, "edits": []}, "edits"),
            ("new", {**BODY, "edit": []}, "'edit'"),
            ("new", {**BODY, "edits": [{"feature": 99, "strength": 1}]}, "0..63"),
            ("new", {**BODY, "edits": [{"feature": 7, "strength": 1}]}, "maximum"),
            ("new", {**BODY, "title": "\ud800"}, "half a character"),
        ],
    )
    def test_a_preset_that_could_not_be_used_is_not_saved(self, live, name, body, names):
        response = live.http.put(
            f"/v1/presets/{name}",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )
        assert response.status_code in (400, 404)
        assert names in response.json()["error"]["message"]
        assert live.http.get("/v1/presets/new").status_code == 404

    def test_who_reads_presets_waits_for_no_disk(self, tmp_path, monkeypatch):
        """The routes do so on the event loop."""
        from server import presets, presets_file
        from server.schemas.steering import PresetBody

        store = presets.Presets("tiny", [], tmp_path / "presets.json")
        body = PresetBody(edits=[{"feature": 3, "op": "ablate"}])
        store.put("one", body)
        read, writing = threading.Event(), threading.Event()
        slow = presets_file.replace_file

        def waiting(*args):
            writing.set()
            assert read.wait(10), "nobody could read meanwhile"
            slow(*args)

        monkeypatch.setattr(presets_file, "replace_file", waiting)
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(store.put, "two", body)
            assert writing.wait(10)
            seen = [preset.name for preset in store.all()]
            assert store.get("one").body == body
            assert (store.has("one"), store.has("two")) == (True, False)
            read.set()
            written.result(10)
        assert seen == ["one"]
        assert store.has("two")

    def test_built_in_presets_stay(self, live):
        response = live.http.delete("/v1/presets/loud")
        assert response.status_code == 400
        assert "cannot be deleted" in response.json()["error"]["message"]

    def test_broken_built_in_entries_are_left_out(self, tmp_path, caplog):
        from server.presets import read_builtin

        path = tmp_path / "presets.json"
        good = {"name": "good", **BODY}
        path.write_text(json.dumps([good, {"name": "bad", "edits": "x"}, {"no": "name"}, 3]))
        assert [preset.name for preset in read_builtin(path)] == ["good"]
        assert caplog.text.count("left out") == 3
        path.write_text("{")
        assert read_builtin(path) == []

    def test_a_preset_as_it_is_exported_is_one_beside_a_dictionary(self, live, tmp_path, caplog):
        from server.presets import read_builtin

        path = tmp_path / "presets.json"
        runner, ask = CliRunner(), ["presets", "export", "loud", str(path), "--url", live.url]
        assert runner.invoke(app, ask).exit_code == 0
        (read,) = read_builtin(path)
        assert (read.name, read.body) == ("loud", live.service.deck.presets.get("loud").body)
        assert not caplog.text
        path.write_text(json.dumps({"tiny": {"loud": BODY}}))  # as a data folder has it
        assert read_builtin(path) == []
        assert '[{"name": "…", "title": "…", "edits": […]}]' in caplog.text
