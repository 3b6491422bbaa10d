"""When an edit acts: its conditions named as people know the features they are about."""

from __future__ import annotations

from typing import Any

import pytest
import ui_service
from ui_service import SHORT, Service, handlers

from ui import rack, search
from ui.errors import ApiError, RackError
from ui.session import Session
from ui.turned import difference

service = ui_service.service  # fixture
EDIT: dict[str, Any] = {"feature": "foghorn/1", "op": "clamp", "strength": 1.0}


def waiting(value: float) -> dict[str, Any]:
    """By a slug, a whole reference and a number alone: all forms the API takes."""
    when = {"feature": "golden-gate-bridge", "value": value, "latch": True}
    abort = [{"feature": "foghorn/2", "value": 1.0}, {"feature": 3, "op": "below", "value": 0.5}]
    return EDIT | {"when": when, "abort": abort}


async def test_the_features_of_conditions_are_named_by_the_server_and_said_by_label(
    service: Service,
) -> None:
    (held,) = await search.rack_of(service.api, [waiting(0.2)])
    sent = held.wire()
    assert sent["when"] == {"feature": "foghorn/0", "value": 0.2, "latch": True}
    assert [one["feature"] for one in sent["abort"]] == ["foghorn/2", "foghorn/3"]
    assert held.timed.startswith("once foghorn/0 > 0.2×")
    assert held.acts() == (
        "once Golden Gate Bridge > 0.2×, stops the reply when the sea > 1×, "
        "stops the reply when old castles < 0.5×"
    )
    assert rack.parse(rack.value([held])) == (held,)


async def test_a_change_of_a_condition_is_told_by_label(service: Service) -> None:
    before, after = [await search.rack_of(service.api, [waiting(at)]) for at in (0.2, 0.4)]
    told, _ = difference(before, after)
    assert "once Golden Gate Bridge > 0.2×" in told
    assert "→ once Golden Gate Bridge > 0.4×" in told


async def test_a_condition_on_a_feature_that_the_server_has_not_is_refused_as_it_opens(
    service: Service,
) -> None:
    unknown = EDIT | {"when": {"feature": "foghorn/77", "value": 0.2}}
    with pytest.raises(ApiError, match="There is no feature 77"):
        await search.rack_of(service.api, [unknown])


@pytest.mark.parametrize("wrong", ["soon", 3, [4], {"value": 1.0}])
async def test_conditions_of_no_known_form_are_told_in_a_sentence(
    service: Service, wrong: object
) -> None:
    for field in ({"when": wrong}, {"abort": wrong}, {"abort": [wrong]}):
        with pytest.raises(RackError, match=r"timing, (when|abort).*\.$"):
            await search.rack_of(service.api, [EDIT | field])


@pytest.mark.parametrize("thinking", [(), ("only", "after")])
async def test_the_header_knows_whether_the_model_marks_thinking_blocks(
    thinking: tuple[str, ...],
) -> None:
    async with ui_service.served(thinking=thinking) as running:
        do = handlers(running.api)
        update = await do.look_again(Session(), None, SHORT.model_dump())
        assert update[do.parts.top]["thinks"] is bool(thinking)
