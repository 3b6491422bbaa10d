"""Observing a prompt: what a dictionary is given to read at its tokens, whatever else runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from prefix_engines import SPACE
from runner_passes import PROMPT, runner
from torch import Tensor

from server.engine.batch import Batch, Span
from server.engine.sites import attach, decoder_layers

TEXT = "The bridge is red, and the fog comes in over the bay."


def by_hand(model: Any, dictionary: Any, ids: tuple[int, ...]) -> Tensor:
    """[tokens, d_in] at the dictionary's site, in one plain pass of the whole model."""
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    site = dictionary.info.site
    attach(decoder_layers(model)[site.layer], site.hook, look)
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    return seen[0][0]


@pytest.mark.parametrize(
    ("family", "hook"), [("llama", "resid_post"), ("gpt2", "resid_pre"), ("gemma2", "mlp_out")]
)
async def test_it_is_what_a_plain_pass_has_at_the_site(
    family, hook, make_engine, make_model, make_dictionary, ask, hear, steer
) -> None:
    """In chunks, beside steered replies, and before the edits of its own request."""
    dictionary = make_dictionary("seen", hook=hook)
    engine = make_engine(family, dictionaries=(dictionary,), chunk=7)
    steering = steer((3, "clamp", 40.0, "all", "seen"), (9, "add", -20.0, "all", "seen"))
    request = ask(TEXT, max_tokens=2, steering=steering)
    others = [ask("a" * (3 + i), steering=steering, max_tokens=30) for i in range(3)]
    asked = [replace(request, observe="seen"), replace(request, id="again", steering=steer())]
    one, two, *_ = await hear(engine, *asked, *others)
    expected = by_hand(make_model(family), dictionary, request.prompt)
    torch.testing.assert_close(one.end.observed, expected, atol=1e-4, rtol=1e-4)
    assert two.end.observed is None


async def test_what_is_known_of_a_prompt_is_computed_again(
    make_engine, make_model, dictionary, ask, hear
) -> None:
    """By an earlier request, or by the first of several with one prompt."""
    engine = make_engine(prefix_cache=SPACE, chunk=16)
    request = ask(TEXT, max_tokens=1)
    await hear(engine, request)
    longer = replace(request, sampling=replace(request.sampling, max_tokens=6))
    observing = [replace(longer, id=f"seen-{i}", observe="tiny") for i in range(2)]
    generations = engine.submit_all(observing)
    expected = by_hand(make_model(), dictionary, request.prompt)
    for generation in generations:
        end = [event async for event in generation][-1]
        assert end.cached_tokens == 0
        torch.testing.assert_close(end.observed, expected, atol=1e-4, rtol=1e-4)


async def test_a_reply_is_the_same_observed_or_not(make_engine, ask, hear, steer) -> None:
    engine = make_engine(chunk=16)
    request = ask(TEXT, steering=steer((3, "clamp", 4.0)), max_tokens=12)
    plain, observed = await hear(engine, request, replace(request, id="seen", observe="tiny"))
    assert observed.ids == plain.ids
    assert replace(observed.end, observed=None) == plain.end


def test_what_a_failed_pass_has_seen_is_not_the_next_ones(make_model, dictionary) -> None:
    made = runner(make_model(), dictionary)
    span = Span(0, 0, PROMPT, (True,) * len(PROMPT), True)
    made.forward(Batch(0, [], [], [], (replace(span, observed="tiny"),)))
    assert made.steerer.observed()[0].shape[0] == len(PROMPT)
    made.forward(Batch(0, [], [], [], (replace(span, observed="tiny"),)))  # nobody took it
    made.forward(Batch(0, [], [], [], (replace(span, row=1),)))
    assert made.steerer.observed() == {}


async def test_a_prompt_that_starts_over_is_observed_once(
    make_engine, make_model, dictionary, ask, read, steer
) -> None:
    """As it is when it is steered while it is computed."""
    model, passes = make_model(), []
    engine = make_engine(model=model, chunk=16)
    request = replace(ask(TEXT, max_tokens=1), observe="tiny")

    def steered_in_the_second(*_: object) -> None:
        passes.append(None)
        if len(passes) == 2:
            engine.steer(request.id, steer((3, "clamp", 4.0)))

    model.get_input_embeddings().register_forward_pre_hook(steered_in_the_second)
    end = (await read(engine.submit(request))).end
    assert len(passes) > 5  # 53 tokens are four chunks
    expected = by_hand(make_model(), dictionary, request.prompt)
    torch.testing.assert_close(end.observed, expected, atol=1e-4, rtol=1e-4)
