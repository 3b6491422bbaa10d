"""A refusal names the field that it is about, as the caller wrote it."""

from __future__ import annotations

import pytest
from api_talk import USER, edit
from pydantic import ValidationError

from server.schemas.steering import WireEdit, WireSteering

FOGGY = {"feature": "fog", "value": 1}
MANY = {"edits": [{"feature": i, "op": "ablate"} for i in range(17)]}


def third(**fields):
    before = [{"feature": i, "op": "ablate"} for i in ("fog", 7)]
    return {"steering": {"edits": [*before, *edit(**fields)["steering"]["edits"]]}}


def test_what_steers_only_inside_of_steering_is_refused_outside_of_it(live):
    """It would be dropped, and the reply come back unsteered."""
    for name in set(WireSteering.model_fields) - {"id"}:
        for path in ("/v1/chat/completions", "/v1/completions"):
            body = {"messages": USER, "prompt": "a", name: {}}
            error = live.http.post(path, json=body).json()["error"]
            assert "inside `steering`" in error["message"], error
            assert error["param"] == name


@pytest.mark.parametrize(
    ("over", "param"),
    [
        ({"tools": [{}]}, "tools"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 3}, "temperature"),
        (edit(op="x"), "steering.edits[0].op"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"model": "x"}, "model"),
        (third(feature="nope"), "steering.edits[2].feature"),
        (third(feature="fog"), "steering.edits[2].feature"),
        (third(feature=9), "steering.edits[2].strength"),
        (third(feature=9, thinking="only", unit="raw"), "steering.edits[2].thinking"),
        (third(when={"feature": "nope", "value": 1}), "steering.edits[2].when.feature"),
        (third(when={"feature": 9, "value": 1}), "steering.edits[2].when.value"),
        (third(abort=[FOGGY, {"feature": 9, "value": 1}]), "steering.edits[2].abort[1].value"),
        ({"steering": {"abort": {"feature": "nope", "value": 1}}}, "steering.abort[0].feature"),
        ({"steering": {"preset": "nope"}}, "steering.preset"),
        (
            {"steering": {"timeline": [{"at": 2}, {"at": 3, **edit(feature=64)["steering"]}]}},
            "steering.timeline[1].edits[0].feature",
        ),
        ({"steering": {"timeline": [{"at": 2}, {"at": 3, **MANY}]}}, "steering.timeline[1].edits"),
    ],
)
def test_the_error_names_the_parameter(live, over, param):
    response = live.http.post("/v1/chat/completions", json={"messages": USER, **over})
    assert response.json()["error"]["param"] == param


def test_outside_of_a_request_for_a_reply_it_is_seen_from_that_body(live):
    response = live.http.put("/v1/presets/many", json=MANY)
    assert response.json()["error"]["param"] == "edits"


@pytest.mark.parametrize(
    ("fields", "measure"),
    [
        ({"op": "clamp"}, "in multiples of the feature's maximum"),
        ({"op": "clamp", "unit": "raw"}, "in activations"),
        ({"op": "scale"}, "a factor"),
    ],
)
def test_who_left_the_strength_out_is_told_what_it_is_measured_in(fields, measure):
    with pytest.raises(ValidationError, match=f" needs a strength, {measure} "):
        WireEdit.model_validate({"feature": 3, **fields})


def test_a_field_named_with_half_a_character_is_refused_like_any_other(live):
    body = '{"messages": [{"role": "user", "content": "a"}], "temprature\\ud800": 1}'
    sent = {"content": body, "headers": {"content-type": "application/json"}}
    response = live.http.post("/v1/chat/completions", **sent)
    assert response.status_code == 400
    assert "is temperature meant?" in response.json()["error"]["message"]
