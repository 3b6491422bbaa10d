"""Conditions that end a reply: where they hold, and when they come or go live."""

from __future__ import annotations

from dataclasses import replace

import conditions_by_hand
import gated_engine
import torch
from conditions_by_hand import OPEN, RARE, START, TEXT, ByHand, above, below, edit
from gated_engine import LONG

from server.engine.conditions import Condition, Crossing, Met
from server.engine.types import Change, FinishReason, Steering

three = conditions_by_hand.three  # fixture
gated = gated_engine.gated  # fixture


async def test_abort_ends_the_reply_where_the_condition_holds(
    make_engine, make_model, three, ask, hear
) -> None:
    high = above(5, 4.5, "low")
    request = ask(TEXT, steering=Steering(aborts=(high,)), max_tokens=30)
    hand = ByHand(make_model(), request, *three)
    ids, inside = hand.reply(30), hand.met[high][0]
    assert inside > 0
    engine = make_engine(dictionaries=three, chunk=5)
    [heard] = await hear(engine, request)
    assert heard.end.reason is FinishReason.ABORT
    assert heard.ids == ids[: inside + 1], "up to the token that met it"
    assert heard.end.conditions == (Met(high, inside),)
    assert heard.end.tokens_edited == 0
    in_prompt = Steering(aborts=(below(9, 0.1),))
    early, late = await hear(
        engine, replace(request, id="early", steering=in_prompt), ask(TEXT, max_tokens=4)
    )
    assert (early.ids, early.end.reason) == ([], FinishReason.ABORT)
    assert early.end.conditions[0].at == -OPEN, "not at the first token, which nothing reads"
    assert late.ids == ids[:4]
    assert engine.stats().running == 0


async def test_what_lies_behind_an_abort_in_the_prompt_does_not_count(
    make_engine, three, ask, hear
) -> None:
    """However far the chunk went on: the same receipt at any pace."""
    later = above(13, 1.5, "low")  # from prompt token 6 on
    edits = edit(3, "add", 1.0), edit(9, "add", 1.0, when=later)
    request = ask(TEXT, steering=Steering(edits, aborts=(RARE, above(9, 1.5, "low"))))
    for chunk in (3, 5, 64):
        [heard] = await hear(make_engine(dictionaries=three, chunk=chunk), request)
        assert heard.end.reason is FinishReason.ABORT
        assert heard.end.tokens_edited == 2
        assert [met.at for met in heard.end.conditions] == [None, 2 - START, None]


def test_what_is_left_of_a_steering_watches_the_features_it_names(make_engine) -> None:
    """Also where an abort was an edit's condition, and comes elsewhere in line without it."""
    preparer = make_engine()._runner.steerer
    first, second = above(5, 1.0), above(9, 1.0)
    aborts = (second, first)
    before = preparer.prepare(Steering((edit(3, "add", 1.0, when=first),), aborts=aborts))
    left = preparer.lowered(before, Steering(aborts=aborts))
    whole = preparer.prepare(Steering(aborts=aborts))
    assert left.steering.conditions == whole.steering.conditions == (second, first)
    assert torch.equal(left.watched["tiny"].enc, whole.watched["tiny"].enc)


async def test_an_abort_that_comes_live_looks_from_then_on(make_engine, three, ask, hear) -> None:
    """A condition that held before as a `when` ends nothing in hindsight."""
    engine = make_engine(dictionaries=three)
    steering = Steering((edit(3, "add", 0.0, when=RARE),))
    change = Change(4, Steering(aborts=(RARE,)))
    [heard] = await hear(engine, ask(TEXT, steering=steering, changes=(change,), max_tokens=30))
    assert heard.end.reason is FinishReason.ABORT
    assert len(heard.ids) == 9
    assert heard.end.conditions == (Met(RARE, 2 - START),)


async def test_a_change_of_the_whole_prompt_outlives_an_abort_that_it_took_away(
    gated, ask, hear
) -> None:
    engine, gate = gated(chunk=16)
    always = Condition("tiny", 9, Crossing.BELOW, 1e9)
    stream = engine.submit(ask(LONG, id="mine", steering=Steering(aborts=(always,)), max_tokens=4))
    await gate.reached()  # in the first chunk of four
    assert engine.steer("mine", Steering()) == 0
    gate.open()
    end = [event async for event in stream][-1]
    assert end.reason is FinishReason.LENGTH
    assert end.timeline == (Change(0, Steering()),)
