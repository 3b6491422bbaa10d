"""What fires on a text, what tells texts apart, what to steer: activations, contrast, suggest."""

from __future__ import annotations

import math

import api_gate
import httpx2
import pytest
import torch
from api_gate import HUNG_UP, idle, metric, until
from api_talk import HELLO, USER

from dictionaries.weights import Weights
from server.engine.text import encode_raw, render
from server.suggesting import subjects

gate, narrow = api_gate.gate, api_gate.narrow  # fixtures
ACTIVATIONS, CONTRAST = "/v1/features/activations", "/v1/features/contrast"
SUGGEST = "/v1/features/suggest"


def post(live, path, status=200, **body):
    response = live.http.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.fixture(scope="module")
def encoded(make_model, live):
    """Text -> (flags, activations [tokens, d_sae] of a plain pass of the whole model)."""
    model, deck = make_model(), live.service.deck
    seen = []
    model.model.layers[1].register_forward_hook(lambda *a: seen.append(a[2].clone()))

    def encode(prompt):
        with torch.no_grad():
            model(torch.tensor([prompt.ids]), use_cache=False)
        return torch.tensor(prompt.steerable), deck.dictionary("tiny").encode(seen.pop()[0])

    return encode


def test_each_token_has_its_largest_activations(live, encoded) -> None:
    told = post(live, ACTIVATIONS, text=HELLO, top=4)
    prompt = encode_raw(live.service.deck.tokenizer, HELLO)
    flags, f = encoded(prompt)
    assert (told["object"], told["model"], told["dictionary"]) == ("activations", "tiny", "tiny")
    assert "".join(token["token"] for token in told["tokens"]) == HELLO
    assert [token["features"] is not None for token in told["tokens"]] == flags.tolist()
    for token, row in zip(told["tokens"], f, strict=True):
        if token["features"] is None:
            continue
        most = row.topk(4)
        refs = [f"tiny/{i}" for i in most.indices.tolist()]
        expected = dict(zip(refs, most.values.tolist(), strict=True))
        got = {one["ref"]: one["activation"] for one in token["features"]}
        assert got == pytest.approx({k: v for k, v in expected.items() if v > 0}, abs=1e-4)
        assert list(got.values()) == sorted(got.values(), reverse=True)


def test_the_features_of_a_text_are_ranked_by_their_maxima_and_rarity(live, encoded) -> None:
    """Card 3 has a maximum of 2.5, and card 5 one of 1.5 at twice the usual density; of the others
    one activation is one, and they are as rare as card 3.
    """
    maxima, rarity = torch.ones(64), torch.ones(64)
    maxima[3], maxima[5] = 2.5, 1.5
    rarity[5] = math.log(0.02) / math.log(0.01)
    differ = [False, False]
    for text in (HELLO, "a red bridge", "fog and mist and fog", "my cat sat down here, so what"):
        told = post(live, ACTIVATIONS, text=text, limit=200, top=0)
        flags, f = encoded(encode_raw(live.service.deck.tokenizer, text))
        read = f.masked_fill(~flags[:, None], 0.0)
        most = read.amax(0)
        assert all(token["features"] in (None, []) for token in told["tokens"])
        order = ranked(most / maxima * rarity)
        assert [x["id"] for x in told["features"]] == order
        differ[0] |= order != ranked(most / maxima)
        differ[1] |= order != ranked(most * rarity)
        for one in told["features"]:
            assert one["activation"] == pytest.approx(most[one["id"]].item(), abs=1e-4)
            assert read[one["at"], one["id"]].item() == pytest.approx(one["activation"], abs=1e-4)
            assert one["mean"] == pytest.approx(f[flags, one["id"]].mean().item(), abs=1e-4)
    assert all(differ)
    bridge = next(x for x in told["features"] if x["id"] == 3)
    assert (bridge["label"], bridge["band"]) == ("Golden Gate Bridge", [0.5, 3.0])


def ranked(scores):
    return [i for i in scores.argsort(descending=True).tolist() if scores[i] > 0]


def test_of_a_conversation_only_what_was_said_is_read(live, encoded) -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
    ]
    told = post(live, ACTIVATIONS, messages=messages, top=2)
    read = "".join(t["token"] for t in told["tokens"] if t["features"] is not None)
    assert read == "Be kind.hellohi"
    roles = [{**m, "role": m["role"].replace("developer", "system")} for m in messages]
    _, f = encoded(render(live.service.deck.tokenizer, roles))
    first = next(i for i, t in enumerate(told["tokens"]) if t["features"])
    assert told["tokens"][first]["features"][0]["activation"] == pytest.approx(
        f[first].max().item(), abs=1e-4
    )


def test_contrast_is_the_difference_of_the_means(live, encoded) -> None:
    more, less = ["the red bridge", "fog"], ["bread and salt", "a cat sat here today"]
    told = post(live, CONTRAST, more=more, less=less, limit=200)
    sides = {}
    for side, texts in (("more", more), ("less", less)):
        found = [encoded(encode_raw(live.service.deck.tokenizer, text)) for text in texts]
        sides[side] = [f[flags] for flags, f in found]
    means = {s: torch.stack([f.mean(0) for f in own]).mean(0) for s, own in sides.items()}
    apart = means["more"] - means["less"]
    assert {x["id"] for x in told["more"]} == {i for i in range(64) if apart[i] > 0}
    assert {x["id"] for x in told["less"]} == {i for i in range(64) if apart[i] < 0}
    for x in told["more"] + told["less"]:
        for side in sides:
            share = torch.stack([(f[:, x["id"]] > 0).any() for f in sides[side]]).float().mean()
            assert x[f"share_{side}"] == pytest.approx(share.item())
            assert x[f"mean_{side}"] == pytest.approx(means[side][x["id"]].item(), abs=1e-4)
    cards = {3: 2.5, 5: 1.5}
    gaps = [abs(apart[x["id"]].item()) / cards.get(x["id"], 1.0) for x in told["more"]]
    assert gaps == sorted(gaps, reverse=True)


def test_however_many_texts_are_compared_the_encoder_is_read_once(live, monkeypatch) -> None:
    reads, real = [], Weights.encoder
    monkeypatch.setattr(Weights, "encoder", lambda *asked: reads.append(asked[1]) or real(*asked))
    post(
        live,
        CONTRAST,
        more=["the red bridge", "fog", "a cat sat"],
        less=["bread and salt", "a cat sat here"],
    )
    assert reads == [0]


def test_a_wish_gives_edits_that_can_be_sent_as_they_are(live) -> None:
    """Only card 3 of the three has a recommended strength."""
    told = post(live, SUGGEST, wish="more of the golden gates please")
    [one] = told["data"]
    assert one["edit"] == {"feature": "tiny/3", "op": "clamp", "strength": 1.0}
    assert one["matched"]
    live.chat(steering={"edits": [one["edit"]]})
    fires = post(live, ACTIVATIONS, messages=[{"role": "user", "content": HELLO}], limit=200)
    [expected] = [f["activation"] for f in fires["features"] if f["id"] == 3]
    [other] = post(live, SUGGEST, wish=HELLO)["data"]  # no word of a card, but it fires on it
    assert not other["matched"]
    assert other["activation"] == pytest.approx(expected, abs=1e-4)


def test_words_that_are_no_subject_find_nothing() -> None:
    assert subjects("Talk like a PIRATE, please: of fog, and go on about it!") == ["PIRATE", "fog"]


def test_whoever_hangs_up_leaves_no_trace(narrow, gate, caplog) -> None:
    before = metric(narrow, HUNG_UP)
    gate.allow(0)
    with pytest.raises(httpx2.ReadTimeout):
        narrow.http.post(ACTIVATIONS, json={"text": HELLO * 15}, timeout=0.5)  # two chunks
    until(lambda: metric(narrow, HUNG_UP) > before)
    gate.allow(None)
    until(lambda: idle(narrow))
    assert post(narrow, ACTIVATIONS, text=HELLO)["features"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "said"),
    [
        (ACTIVATIONS, {}, 400, "text", "send one of them"),
        (ACTIVATIONS, {"text": "a b", "messages": USER}, 400, "text", "send one of them"),
        (ACTIVATIONS, {"text": ""}, 400, "text", "no token that a dictionary reads"),
        (ACTIVATIONS, {"text": "a b", "tops": 3}, 400, "tops", "top"),
        (ACTIVATIONS, {"text": "a b", "dictionary": "no"}, 404, "dictionary", "tiny"),
        (ACTIVATIONS, {"text": "a b", "model": "tiny@loud"}, 400, "model", "preset"),
        (ACTIVATIONS, {"text": "a b", "model": "other"}, 404, "model", "tiny"),
        (ACTIVATIONS, {"text": "a" * 600}, 413, "text", "512"),
        (SUGGEST, {"wish": ""}, 400, "wish", "1"),
        (SUGGEST, {"wish": "a" * 501}, 400, "wish", "500"),
        (CONTRAST, {"more": ["a b"]}, 400, "less", "less"),
        (CONTRAST, {"more": ["a b"], "less": []}, 400, "less", "1"),
        (CONTRAST, {"more": ["a b"], "less": ["a b"] * 7}, 400, "n", "rows"),
    ],
)
def test_what_cannot_be_read_is_refused(live, path, body, status, param, said) -> None:
    error = post(live, path, status, **body)["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_more_than_can_be_encoded_is_refused_before_it_is_run(live, monkeypatch) -> None:
    monkeypatch.setattr("server.reading.WORK", 5 * 32 * 64)
    error = post(live, ACTIVATIONS, 413, text="one two three")["error"]
    assert "5 can be read at once" in error["message"]
    assert post(live, ACTIVATIONS, text="four")["tokens"]
