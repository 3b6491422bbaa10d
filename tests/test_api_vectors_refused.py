"""What is no vector, or cannot be added, and the sentence it is refused with."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import torch
from safetensors.torch import save
from sent_vectors import CALM, SITE, adding, sent
from tiny import D_MODEL

from server.schemas.steering import PresetBody


def raw(file: bytes, site: Any = SITE) -> dict[str, Any]:
    return {"data": base64.b64encode(file).decode(), "site": site}


def headed(header: Any, numbers: bytes = b"") -> dict[str, Any]:
    told = json.dumps(header).encode()
    return raw(len(told).to_bytes(8, "little") + told + numbers)


SPOILT = CALM.clone()
SPOILT[3] = torch.nan
READING = {"feature": "vector:calm", "value": 1}
HUGE = {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}
WRONG = [
    ({"data": "", "site": SITE}, "data", "the 0 bytes that came are no safetensors file"),
    ({"data": "not base64", "site": SITE}, "data", "is no base64"),
    ({"data": "héé=", "site": SITE}, "data", "is no base64"),
    ({**sent(CALM), "data": sent(CALM)["data"][:40] + "\n"}, "data", "without line breaks"),
    (raw(b"\x80\x04pickle, perhaps"), "data", "are no safetensors file"),
    (raw(b"\xff" * 64), "data", "are no safetensors file"),
    (raw(save({"v": CALM})[:-1]), "data", "are no safetensors file"),
    (headed({"a": 1}), "data", "are no safetensors file"),
    (headed({"a": {"dtype": 3000 * "é"}}), "data", "are the most"),
    (headed({"a": {"dtype": 900 * "x"}}), "data", "unknown variant…): base64.b64encode"),
    (headed(HUGE), "data", "are no safetensors file"),
    (headed({}), "data", "0 tensors: send one a vector"),
    (raw(save({"v": CALM, "w": CALM.clone()})), "data", "2 tensors: send one a vector"),
    (
        raw(save({"v": CALM[:8].clone()})),
        "data",
        "F32 of shape [8]; the vectors of this model are of shape [32]",
    ),
    (raw(save({"v": CALM[None]})), "data", "F32 of shape [1, 32]"),
    (raw(save({"v": CALM.double()})), "data", "F64 of shape [32]"),
    (raw(save({"v": CALM.int()})), "data", "I32 of shape [32]"),
    (raw(save({"v": CALM}, {"note": "x" * 5000})), "data", "5632 are the most"),
    (raw(save({"v": SPOILT})), "data", "holds NaN or infinity"),
    (raw(save({"v": CALM / 0})), "data", "holds NaN or infinity"),
    (raw(save({"v": CALM * 0})), "data", "is all zeros, which steers nothing"),
    (raw(save({"v": CALM * 1e9})), "data", "1e+06 is the most: send it shorter"),
    (sent(CALM, layer=3), "site.layer", "layer 3 came; this model has layers 0 to 2"),
    (sent(CALM, layer=-1), "site.layer", "greater than or equal to 0"),
    (sent(CALM, hook="attn_out"), "site.hook", "load the server with a folder of directions"),
    (sent(CALM, hook="resid"), "site.hook", "'resid_pre' or 'resid_post'"),
    ({"data": sent(CALM)["data"]}, "site", "missing"),
    ({**sent(CALM), "dtype": "float32"}, "dtype", "no field 'dtype'"),
    ({"data": CALM.tolist(), "site": SITE}, "data", "valid string"),
    ([0.0] * D_MODEL, "", "object"),
]


def refusal(live, steering, path="/v1/chat/completions", **more) -> dict[str, Any]:
    response = live.http.post(path, json=live.body(steering=steering, **more))
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(("wrong", "field", "sentence"), WRONG)
def test_what_is_no_vector_is_refused_by_name(live, wrong, field, sentence):
    error = refusal(live, {"vectors": {"calm": wrong}, "edits": [adding()]})
    assert sentence in error["message"], error
    assert error["param"] == f"steering.vectors.calm{field and '.'}{field}"


@pytest.mark.parametrize(
    ("edits", "param", "sentence"),
    [
        ([adding(op="clamp")], "edits[0].op", 'Send "op": "add", "unit": "raw"'),
        ([{"feature": "vector:calm", "strength": 2.0}], "edits[0].op", "the op clamp came"),
        ([{**adding(), "op": "ablate"}], "edits[0].op", "it has no activation"),
        ([adding(unit="max")], "edits[0].unit", 'send "unit": "raw"'),
        ([{"feature": "vector:calm", "op": "add", "strength": 1}], "edits[0].unit", "no maximum"),
        ([adding("storm")], "edits[0].feature", "which names calm"),
        ([adding(), adding()], "edits[1].feature", "vector:calm is edited twice"),
        ([], "vectors.calm", "no edit adds it"),
        ([{"feature": 3, "op": "ablate"}], "vectors.calm", '"feature": "vector:calm", "op": "add"'),
        (
            [adding(), {"feature": 3, "op": "ablate", "when": READING}],
            "edits[1].when.feature",
            "no activation that a condition could read",
        ),
        ([adding(thinking="only")], "edits[0].thinking", "marks no thinking blocks"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_with_a_vector_is_refused(live, edits, param, sentence):
    error = refusal(live, {"vectors": {"calm": sent(CALM)}, "edits": edits})
    assert sentence in error["message"], error
    assert error["param"] == f"steering.{param}"


def test_an_edit_waits_for_no_feature_that_comes_later(live):
    early = {"vectors": {"calm": sent(CALM, 0)}}
    when = {"when": {"feature": 3, "value": 0.1, "unit": "raw"}}
    error = refusal(live, {**early, "edits": [adding(**when)]})
    assert "The edit of vector:calm at layer 0 resid_post waits for feature 3" in error["message"]


def test_a_name_without_a_vector_is_refused_and_a_name_has_letters(live):
    error = refusal(live, {"edits": [adding()]})
    assert "no vector 'calm' came with this request" in error["message"]
    error = refusal(live, {"vectors": {"ca/lm": sent(CALM)}, "edits": [adding("ca/lm")]})
    assert error["param"] == "steering.vectors.ca/lm"


@pytest.mark.parametrize("name", ["int", "str", "function-a", "list"])
def test_a_name_is_told_whatever_it_is(live, name):
    """Also where a complaint of pydantic's has it for a type."""
    wrong = {"data": 1, "site": SITE}
    error = refusal(live, {"vectors": {name: wrong}, "edits": [adding(name)]})
    assert error["param"] == f"steering.vectors.{name}.data"


def test_sixteen_vectors_may_come(live):
    names = [f"v{i}" for i in range(17)]
    sixteen = {"vectors": {name: sent(CALM) for name in names[:16]}}
    assert live.chat(steering={**sixteen, "edits": [adding(name, 0.1) for name in names[:16]]})
    for wrong in (sent(CALM), 1):  # nor is any looked at then, which of thousands took seconds
        error = refusal(live, {"vectors": dict.fromkeys(names, wrong), "edits": [adding("v0")]})
        assert error["param"] == "steering.vectors"
        assert error["message"].endswith(": 17 vectors came, and 16 are the most: send fewer")
    variant = {"edits": [adding("v16")], "vectors": {"v16": sent(CALM)}}
    error = refusal(live, sixteen, "/v1/compare", variants=[variant])
    assert error["param"] == "variants[0].vectors"
    assert "the reply has had 17, and 16 are the most" in error["message"]


def test_variants_name_all_that_is_common_and_hide_none_of_it(live):
    common = {"vectors": {"calm": sent(CALM)}}
    error = refusal(live, common, "/v1/compare", variants=[{"edits": []}])
    assert (error["param"], "no edit adds it" in error["message"]) == (
        "steering.vectors.calm",
        True,
    )
    hiding = {"edits": [adding()], "vectors": {"calm": sent(-CALM)}}
    error = refusal(live, common, "/v1/compare", variants=[{"edits": [adding()]}, hiding])
    assert error["param"] == "variants[1].vectors.calm"
    assert "another vector of that name" in error["message"]
    edits = {**common, "edits": [adding()]}
    assert refusal(live, edits, "/v1/compare", variants=[{}])["param"] == "steering.edits"


def test_a_preset_holds_no_vector(live):
    body = {"edits": [{"feature": 3, "op": "ablate"}, adding()]}
    response = live.http.put("/v1/presets/mine", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "edits[1].feature")
    assert "a preset holds no vectors" in error["message"]
    response = live.http.put("/v1/presets/mine", json={**body, "vectors": {"calm": sent(CALM)}})
    assert "no field 'vectors'" in response.json()["error"]["message"]


def test_a_presets_edit_is_not_given_the_requests_vector(live):
    """As one could be that was written into the file."""
    deck = live.service.deck
    deck.presets.put("written", PresetBody.model_validate({"edits": [adding()]}))
    brought = {"vectors": {"calm": sent(CALM)}, "preset": "written"}
    error = refusal(live, brought)
    deck.presets.delete("written")
    assert error["param"] == "steering.preset"
    assert "a preset holds no vectors" in error["message"]


def test_a_model_without_such_a_stream_takes_none(live, monkeypatch):
    from dataclasses import replace

    engine = live.service.deck.engine
    why = "its residual stream is none that a dictionary can be read from."
    monkeypatch.setattr(engine, "_capabilities", replace(engine.capabilities, no_vectors=why))
    error = refusal(live, {"vectors": {"calm": sent(CALM)}, "edits": [adding()]})
    assert error["message"].endswith(why)
    assert live.http.get("/v1/capabilities").json()["limits"]["vectors"] == 0
