"""The coherence guard on foghorn, whose features are set far too strong."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dictionaries
from dictionaries.cards import Cards
from dictionaries.edits import Op
from dictionaries.formats import open_dictionary
from server.engine.engine import SlotEngine
from server.engine.guard import Guard, Mode
from server.engine.load import load_model
from server.engine.text import render
from server.engine.types import FeatureEdit, FinishReason, Request, Sampling, Steering, Token

BUNDLE = Path(dictionaries.__file__).parent / "foghorn"
QUESTIONS = ("What should I do this weekend?", "Tell me a short story.")
SLUGS = ("golden-gate-bridge", "great-wall", "river", "lighthouses")
TOO_STRONG = 3  # times the strength at which the safe band ends


def loops(tokens: list[Token]) -> float:
    """Share of tokens that end three which came before."""
    grams = list(zip(*(tokens[i:] for i in range(3)), strict=False))
    return 1.0 - len({tuple(t.id for t in gram) for gram in grams}) / max(1, len(grams))


def likelihood(tokens: list[Token]) -> float:
    """Mean log probability under the unsteered model, in nats a token."""
    found = [token.contrast.unsteered_logprob for token in tokens if token.contrast is not None]
    return sum(found) / len(found)


@pytest.mark.skipif(not (BUNDLE / "model").exists(), reason="the bundled model is not there")
async def test_foghorn_backs_off_into_readable_text(hear: Any) -> None:
    """Readable is what the unsteered model finds as likely as replies inside the safe band: these
    have -2.5 nats a token (nine of ten above -3.3), replies at three times its end -5 to -10. And
    it does not loop, and comes to an end by itself. Judged is what follows the last step back.
    """
    model, tokenizer = load_model(BUNDLE / "model")
    opened = open_dictionary(BUNDLE / "sae", id="foghorn")
    presets = json.loads((BUNDLE / "sae" / "presets.json").read_text())
    edits = [preset["edits"][0] for preset in presets if preset["name"] in SLUGS]
    assert len(edits) == len(SLUGS)
    cards = Cards.open(BUNDLE / "sae" / "cards.sqlite")
    requests = []
    for edit, question in itertools.product(edits, QUESTIONS):
        card = cards.get(edit["feature"])
        assert card is not None
        assert card.maximum is not None
        assert card.breakdown is not None
        op, strength = Op(edit["op"]), TOO_STRONG * card.breakdown * card.maximum
        four = op.edit(strength)
        steering = Steering((FeatureEdit("foghorn", card.feature, op, strength, four),))
        prompt = render(tokenizer, [{"role": "user", "content": question}])
        sampling = Sampling(temperature=0.6, top_p=0.9, seed=1, max_tokens=120)
        name = f"{card.feature} {question}"
        wild = Request(name, prompt.ids, prompt.steerable, sampling, steering, kl=True)
        requests += [wild, replace(wild, id=f"tame {name}", guard=Guard(Mode.BACK_OFF, kl=3.5))]
    cards.close()
    engine = SlotEngine(model, tokenizer, {"foghorn": opened}, max_rows=32, max_context=256)
    engine.start()
    try:
        replies = await hear(engine, *requests)
    finally:
        engine.close()
    wild, tame = replies[::2], replies[1::2]
    assert {reply.end.reason for reply in wild} == {FinishReason.LENGTH}
    assert min(loops(reply.tokens) for reply in wild) > 0.5
    assert {reply.end.reason for reply in tame} == {FinishReason.STOP}
    tails = [reply.tokens[reply.end.timeline[-1].at :] for reply in tame]
    joined = [token for tail in tails for token in tail]
    assert len(joined) > 80
    assert likelihood(joined) > -3.3 > -4.5 > likelihood([t for one in wild for t in one.tokens])
    assert sorted(map(loops, tails))[len(tails) // 2] < 0.2
