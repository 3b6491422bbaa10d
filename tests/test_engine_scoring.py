"""Scoring a prompt: the log probabilities of its own tokens, whatever else runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conditions_by_hand import ByHand, above, edit
from prefix_engines import SPACE
from runner_passes import prefill, runner
from torch import Tensor

from server.engine.batch import Batch, Span
from server.engine.types import Failure, FinishReason, Request, Steering, Token

TEXT = "The bridge is red, and the fog comes in over the bay."


def scoring(request: Request, likely: int = 0, **sampling: Any) -> Request:
    """The same text under another name, scored."""
    options = {"logprobs": likely, "max_tokens": 0, **sampling}
    sampled = replace(request.sampling, **options)
    return replace(request, id=f"scored-{request.id}", sampling=sampled, echo=True)


def plain(model: Any, request: Request, *dictionaries: Any) -> Tensor:
    """[tokens, vocab] log probabilities: one forward pass of the whole text, edited by hand."""
    if dictionaries:
        ByHand(model, request, *dictionaries)
    with torch.no_grad():
        return model(torch.tensor([request.prompt])).logits[0].log_softmax(-1)


def agree(told: tuple[Token, ...], request: Request, logprobs: Tensor, likely: int = 0) -> None:
    assert [token.id for token in told] == list(request.prompt)
    assert (told[0].logprob, told[0].top) == (None, ())
    for token, expected in zip(told[1:], logprobs, strict=False):
        assert token.logprob == pytest.approx(expected[token.id].item(), abs=1e-3)
        best = expected.topk(likely).values.tolist() if likely else []
        assert [one.logprob for one in token.top] == pytest.approx(best, abs=1e-3)
        named = [expected[one.id].item() for one in token.top]
        assert named == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
async def test_the_scores_are_those_of_a_plain_pass_over_the_whole_text(
    family, make_engine, make_model, ask, hear, steer
) -> None:
    """In chunks, beside steered replies, a cap on the logits included (Gemma 2)."""
    engine = make_engine(family, chunk=7)
    request, short = ask(TEXT), ask("a")
    others = [ask("b" * (3 + i), steering=steer((3, "clamp", 40.0))) for i in range(3)]
    one, two, *_ = await hear(engine, scoring(request, 3), scoring(short), *others)
    agree(one.end.prompt, request, plain(make_model(family), request), 3)
    assert [token.logprob for token in two.end.prompt] == [None]
    assert (one.tokens, one.end.reason) == ([], FinishReason.LENGTH)


@pytest.mark.parametrize("chunk", [7, 256])
async def test_edits_act_on_a_scored_text_as_on_any_prompt(
    chunk, make_engine, make_model, dictionary, ask, hear, steer
) -> None:
    """Those of the generated tokens do not, conditional ones where they hold."""
    plainly = steer((3, "clamp", 12.0), (9, "add", 6.0, "prompt"), (5, "add", 30.0, "generated"))
    timed = Steering((edit(3, "clamp", 12.0, when=above(5, 0.5)), edit(7, "add", 5.0)))
    requests = [ask(TEXT, steering=one) for one in (plainly, timed)]
    heard = await hear(make_engine(chunk=chunk), *(scoring(one, 2) for one in requests))
    unsteered = plain(make_model(), requests[0])
    for reply, request in zip(heard, requests, strict=True):
        expected = plain(make_model(), request, dictionary)
        agree(reply.end.prompt, request, expected, 2)
        assert (expected - unsteered).abs().max() > 0.5


async def test_what_is_known_of_a_prompt_is_computed_again(
    make_engine, make_model, ask, hear
) -> None:
    """By an earlier request, or by the first of several with one prompt."""
    engine = make_engine(prefix_cache=SPACE, chunk=16)
    request = ask(TEXT)
    await hear(engine, request)
    again = [replace(scoring(request, max_tokens=3), id=f"scored-{i}") for i in range(2)]
    expected = plain(make_model(), request)
    for generation in engine.submit_all(again):
        end = [event async for event in generation][-1]
        assert end.cached_tokens == 0
        agree(end.prompt, request, expected)
    [after] = await hear(engine, replace(request, id="after"))
    assert after.end.cached_tokens > 0  # of a scored prompt as much is kept as of any


def test_who_is_not_scored_pays_nothing(make_model) -> None:
    """Neither a bit of its logits nor a pass through the layers, whatever is scored beside it."""
    prompt = tuple(TEXT.encode())
    logits, passes = [], []
    for following in ((), prompt[1:]):
        model, count = make_model(), []
        made = runner(model)
        model.get_input_embeddings().register_forward_hook(
            lambda *_, count=count: count.append(None)
        )
        prefill(made, 0, prompt[:9])
        span = Span(1, 0, prompt, (True,) * len(prompt), last=True, following=following)
        logits.append(made.forward(Batch(0, [prompt[9]], [9], [True], (span,))))
        assert [*map(len, made.scorer.scores.values())] == ([len(following)] if following else [])
        passes.append(len(count))
    assert torch.equal(*logits)
    assert passes == [2, 2]


async def test_the_vocabulary_is_gone_through_in_pieces(
    make_engine, make_model, ask, hear, monkeypatch
) -> None:
    """Of five positions, however long the chunk."""
    monkeypatch.setattr("server.engine.scoring._NUMBERS", 259 * 5)
    model, made = make_model(), []
    engine = make_engine(model=model)
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _module, _args, logits: made.append(logits.shape[1]))
    request = ask(TEXT)
    [reply] = await hear(engine, scoring(request, 2))
    assert (max(made), sum(made)) == (5, len(request.prompt))
    agree(reply.end.prompt, request, plain(make_model(), request), 2)


async def test_a_prompt_that_starts_over_is_scored_once_as_it_is_steered(
    make_engine, make_model, dictionary, ask, read, steer
) -> None:
    model, passes = make_model(), []
    engine = make_engine(model=model, chunk=16)
    request, steering = ask(TEXT), steer((3, "clamp", 12.0))

    def steered_in_the_second(*_: object) -> None:
        passes.append(None)
        if len(passes) == 2:
            engine.steer(f"scored-{request.id}", steering)

    model.get_input_embeddings().register_forward_pre_hook(steered_in_the_second)
    end = (await read(engine.submit(scoring(request)))).end
    steered = replace(request, steering=steering)
    agree(end.prompt, request, plain(make_model(), steered, dictionary))


async def test_what_was_not_scored_has_no_number(make_engine, ask, hear, steer) -> None:
    """Where the reply was stopped before, or none were asked for."""
    holds = Steering(aborts=(above(5, -1e6),))  # on the first token that may be edited
    request = ask(TEXT, steering=holds)
    stopped, unscored = await hear(make_engine(chunk=7), scoring(request), scoring(ask(TEXT), None))
    assert stopped.end.reason is FinishReason.ABORT
    for end, known in ((stopped.end, 7), (unscored.end, 0)):
        told = [token.logprob for token in end.prompt]
        assert [token.id for token in end.prompt] == list(request.prompt)
        assert None not in told[1 : known + 1]
        assert not any(told[known + 1 :])


async def test_a_token_that_ends_the_reply_is_told(make_engine, make_model, ask, hear) -> None:
    """Readers take the last one of prompt and reply for generated; it adds no text."""
    model = make_model()
    end = model.config.eos_token_id = model.generation_config.eos_token_id = 258
    head = model.get_output_embeddings()
    head.register_forward_hook(
        lambda _module, _args, logits: logits.index_fill(-1, torch.tensor([end]), 1e3)
    )
    request = ask("A cat.", ignore_eos=False, max_tokens=1, logprobs=0)
    echoed, usual = await hear(
        make_engine(model=model), replace(request, id="echoed", echo=True), request
    )
    assert (echoed.ids, echoed.text, echoed.end.completion_tokens) == ([end], "", 1)
    assert usual.ids == []
    assert echoed.end.reason is usual.end.reason is FinishReason.STOP


async def test_scores_that_are_no_numbers_fail_the_reply(
    make_engine, make_model, ask, hear
) -> None:
    """Even if its last position is fine, from which a token is sampled."""
    model = make_model()
    engine = make_engine(model=model)
    spoiled = []

    def spoil(_module: Any, _args: Any, logits: Tensor) -> Tensor | None:
        spoiled.append(logits.shape[1])
        return logits * torch.nan if logits.shape[1] == 5 else None  # six tokens, five scored

    model.get_output_embeddings().register_forward_hook(spoil)
    [reply] = await hear(engine, scoring(ask("A cat.")))
    assert spoiled == [1, 5]
    assert isinstance(reply.end, Failure)
    assert "not finite" in reply.end.message


async def test_a_model_without_a_decoder_of_its_own_scores_nothing(
    make_engine, make_model, ask, hear
) -> None:
    """Rather than something else; whoever is not scored goes on."""
    model = make_model()
    model.base_model_prefix = "lost"
    engine = make_engine(model=model)
    refused, other = await hear(engine, scoring(ask("A cat.")), ask("A cat.", max_tokens=3))
    assert isinstance(refused.end, Failure)
    assert "no decoder" in refused.end.message
    assert len(other.ids) == 3
