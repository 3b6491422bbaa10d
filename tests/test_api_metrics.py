"""GET /metrics: what a reply and a refusal move, and what no label tells."""

from __future__ import annotations


class TestMetrics:
    def read(self, live):
        found = {}
        for line in live.http.get("/metrics").text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def moved(self, live, act):
        before = self.read(live)
        act()
        after = self.read(live)
        return {name: value - before.get(name, 0.0) for name, value in after.items()}

    def test_a_reply_moves_them(self, live):
        edits = [
            {"feature": "fog", "op": "add", "strength": 1.0},
            {"feature": 3, "op": "ablate"},
        ]
        moved = self.moved(
            live,
            lambda: live.chat(max_tokens=6, ignore_eos=True, steering={"edits": edits}),
        )
        assert moved["steerdeck_generated_tokens_total"] == 6
        assert moved["steerdeck_prompt_tokens_total"] > 6
        assert moved["steerdeck_edited_tokens_total"] > 6
        assert moved["steerdeck_time_to_first_token_seconds_count"] == 1
        assert moved["steerdeck_inter_token_seconds_count"] == 5
        assert moved['steerdeck_edits_total{op="add"}'] == 1
        assert moved['steerdeck_edits_total{op="ablate"}'] == 1
        assert moved['steerdeck_replies_total{reason="length"}'] == 1
        route = 'method="POST",route="/v1/chat/completions",status="200"'
        assert moved[f"steerdeck_http_request_seconds_count{{{route}}}"] == 1

    def test_a_refusal_is_counted_by_its_code(self, live):
        def act():
            live.http.get("/v1/features/nope")
            live.http.get("/v1/models", headers={"host": "evil.example"})
            live.http.post("/v1/completions", content="x" * (4 * 2**20 + 1))

        moved = self.moved(live, act)
        assert moved['steerdeck_refused_total{code="unknown_feature"}'] == 1
        assert moved['steerdeck_refused_total{code="invalid_request"}'] == 1
        assert moved['steerdeck_refused_total{code="body_too_large"}'] == 1

    def test_paths_are_counted_by_their_template(self, live):
        live.http.get("/v1/features/some-name-that-is-no-template")
        live.http.get("/any/page/of/mine")
        live.http.request("BREW", "/v1/models")
        text = live.http.get("/metrics").text
        assert 'route="/v1/features/{ref:path}"' in text
        assert "no-template" not in text
        assert "/any/page" not in text
        assert "BREW" not in text
