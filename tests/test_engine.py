"""The engine as a whole: whatever runs beside it, a reply is what the model alone would say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import EditTable, Op, edited, frame
from server.engine.cache import SlotCache
from server.engine.types import FinishReason, Request, Steering, Where
from server.errors import SteerdeckError

FAMILIES = ["llama", "gpt2", "gemma2", "gemma3", "qwen3", "gpt_neox"]
LONG = "A long prompt that fills more than one sliding window, and more than one chunk."


def generate(model: Any, request: Request) -> list[int]:
    """Greedy tokens of transformers' own `generate`."""
    ids = torch.tensor([request.prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=request.sampling.max_tokens,
        do_sample=False,
        repetition_penalty=request.sampling.repetition_penalty,
        pad_token_id=0,
    )
    return out[0, ids.shape[1] :].tolist()


def hook_by_hand(model: Any, dictionary: Dictionary, request: Request) -> None:
    """Steer layer 1 with the whole SAE: x + decode of what the edits changed, at each position.

    Tokens from 256 on are special: nothing is edited there.
    """
    seen, fed = 0, [0]
    dec = dictionary.rows(range(dictionary.info.d_sae)).dec

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        nonlocal seen
        x: Tensor = output[0] if isinstance(output, tuple) else output
        f = dictionary.encode(x)
        change = torch.zeros_like(f)
        for edit in request.steering.edits:
            for t in range(x.shape[1]):
                at = seen + t
                generated = at >= len(request.prompt)
                place = Where.GENERATED if generated else Where.PROMPT
                steerable = fed[t] < 256 if generated else request.steerable[at]
                if edit.where in (Where.ALL, place) and steerable:
                    own = f[0, t, edit.feature]
                    scale, shift, floor, ceiling = edit.edit
                    after = min(max(scale * own.item() + shift, floor), ceiling)
                    change[0, t, edit.feature] += after - own
        seen += x.shape[1]
        back = frame(x, dictionary.info.norm).back
        y = x + change @ dec * (1.0 if back is None else back)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    def note(_module: Any, _args: Any, kwargs: Any) -> None:
        nonlocal fed
        fed = kwargs["input_ids"][0].tolist()

    model.register_forward_pre_hook(note, with_kwargs=True)
    layers = model.transformer.h if hasattr(model, "transformer") else None
    if layers is None:
        layers = (model.gpt_neox if hasattr(model, "gpt_neox") else model.model).layers
    layers[dictionary.info.site.layer].register_forward_hook(hook)


@pytest.fixture
def edits(steer: Callable[..., Steering]) -> list[Steering]:
    """Three ways to be steered, all different."""
    return [
        steer((3, "clamp", 6.0), (9, "ablate", 0.0), (17, "scale", 3.0)),
        steer((5, "add", 4.0, "generated"), (8, "at_least", 2.0, "prompt")),
        steer((21, "at_least", 5.0), (3, "at_most", 0.1), keep_norm=True),
    ]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_reply_is_what_generate_says_beside_steered_ones_and_alone(
    family, make_engine, make_model, ask, hear, edits
):
    engine = make_engine(family, chunk=32)
    plain = [ask(LONG, max_tokens=16, repetition_penalty=1.2)]
    plain += [ask("The bridge is red.", max_tokens=20)]
    steered = [ask(LONG, steering=s, max_tokens=12) for s in edits]
    replies = await hear(engine, steered[0], plain[0], steered[1], plain[1], steered[2])
    for reply, request in zip([replies[1], replies[3]], plain, strict=True):
        expected = generate(make_model(family), request)
        assert reply.ids == expected
        assert len(set(expected)) > 3, "a reply that repeats itself proves little"
    alone = [(await hear(engine, request))[0].ids for request in steered]
    assert [replies[i].ids for i in (0, 2, 4)] == alone
    unsteered = generate(make_model(family), steered[0])
    assert all(ids != unsteered[: len(ids)] for ids in alone), "the edits must do something"


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_steered_reply_is_that_of_generate_with_a_hook_by_hand(
    family, make_engine, make_model, ask, hear, edits, dictionary
):
    requests = [ask(LONG, steering=s, max_tokens=20) for s in edits[:2]]
    replies = await hear(make_engine(family, chunk=32), *requests)
    for request, reply in zip(requests, replies, strict=True):
        model = make_model(family)
        hook_by_hand(model, dictionary, request)
        assert reply.ids == generate(model, request)


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("normalize", ["none", "layer_norm"])
async def test_every_kind_of_dictionary_steers_as_the_whole_sae_does(
    architecture, normalize, make_engine, make_model, make_dictionary, ask, hear, steer
):
    dictionary = make_dictionary(architecture=architecture, normalize=normalize)
    request = ask(LONG, steering=steer((3, "clamp", 6.0), (9, "scale", 4.0)), max_tokens=20)
    crowd = [request, ask("beside it"), ask("and", steering=steer((1, "add", 2.0)))]
    reply = (await hear(make_engine(dictionaries=(dictionary,)), *crowd))[0]
    model = make_model()
    hook_by_hand(model, dictionary, request)
    assert reply.ids == generate(model, request)


@pytest.mark.parametrize("chunk", [1, 5, 512])
async def test_how_a_prompt_is_cut_makes_no_difference(chunk, make_engine, ask, hear, edits):
    requests = [ask(LONG, steering=s, max_tokens=16) for s in edits]
    whole = await hear(make_engine("gemma2"), *requests)
    again = [ask(LONG, steering=s, max_tokens=16) for s in edits]
    cut = await hear(make_engine("gemma2", chunk=chunk), *again)
    assert [reply.ids for reply in cut] == [reply.ids for reply in whole]


async def test_more_replies_than_rows_come_and_go_and_none_is_mixed_up(
    make_engine, ask, hear, edits
):
    engine = make_engine(max_rows=3, max_waiting=20, chunk=7)
    wanted = [(f"Prompt {i} " * (i % 4 + 1), edits[i % 3], 3 + 5 * (i % 5)) for i in range(14)]
    requests = [ask(text, steering=s, max_tokens=n) for text, s, n in wanted]
    replies = await hear(engine, *requests)
    for (text, steering, n), reply in zip(wanted, replies, strict=True):
        [alone] = await hear(engine, ask(text, steering=steering, max_tokens=n))
        assert reply.ids == alone.ids
        assert reply.end.completion_tokens == n
    assert engine.stats().running == engine.stats().waiting == 0


async def test_the_same_seed_gives_the_same_reply_alone_and_in_a_crowd(make_engine, ask, hear):
    engine = make_engine()
    options = {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "seed": 5, "max_tokens": 30}
    [alone] = await hear(engine, ask(**options))
    crowd = [ask(f"other {i}", temperature=1.0, seed=i, max_tokens=25) for i in range(6)]
    among = await hear(engine, *crowd[:3], ask(**options), *crowd[3:])
    [other] = await hear(engine, ask(**(options | {"seed": 6})))
    assert among[3].ids == alone.ids != other.ids


async def test_the_texts_of_a_stream_joined_are_the_decoded_reply(
    make_engine, ask, hear, tokenizer
):
    replies = await hear(make_engine(), *(ask(f"p{i}", temperature=1.0, seed=i) for i in range(8)))
    for reply in replies:
        whole = tokenizer.decode(reply.ids, skip_special_tokens=True)
        assert reply.text == whole or whole.removeprefix(reply.text).strip("\ufffd") == ""
        assert b"".join(token.bytes for token in reply.tokens)


async def test_logprobs_are_the_models_own_whatever_the_sampling(
    make_engine, make_model, ask, hear
):
    request = ask(temperature=0.3, top_k=3, frequency_penalty=1.0, logprobs=4, max_tokens=6)
    [reply] = await hear(make_engine(), request)
    ids = [*request.prompt, *reply.ids]
    logprobs = make_model()(torch.tensor([ids])).logits[0].log_softmax(-1)
    for at, token in enumerate(reply.tokens, start=len(request.prompt)):
        expected = logprobs[at - 1]
        assert token.logprob == pytest.approx(expected[token.id].item(), abs=1e-4)
        assert [likely.id for likely in token.top] == expected.topk(4).indices.tolist()
        assert token.top[0].logprob == pytest.approx(expected.max().item(), abs=1e-4)


async def test_a_reply_ends_at_the_end_token_which_is_no_part_of_it(
    make_engine, make_model, ask, hear
):
    request = ask(max_tokens=40)
    expected = generate(make_model(), request)
    model = make_model()
    model.generation_config.eos_token_id = [1000, expected[9]]
    stop = expected.index(expected[9])
    [reply] = await hear(make_engine(model=model), ask(max_tokens=40, ignore_eos=False))
    assert reply.ids == expected[:stop]
    assert reply.end.reason is FinishReason.STOP
    assert reply.end.completion_tokens == stop


async def test_a_stop_string_ends_the_reply_and_is_not_in_it(make_engine, ask, hear, tokenizer):
    engine = make_engine()
    [whole] = await hear(engine, ask(temperature=1.0, seed=2, max_tokens=60))
    text = whole.text
    stop = text[20:24]
    [reply] = await hear(engine, ask(temperature=1.0, seed=2, max_tokens=60, stop=(stop, "€€€")))
    assert reply.text == text[: text.index(stop)]
    assert reply.end.reason is FinishReason.STOP
    assert reply.ids == whole.ids[: len(reply.ids)]


async def test_the_first_token_can_be_the_last(make_engine, ask, hear):
    replies = await hear(make_engine(max_rows=2), *(ask(max_tokens=1) for _ in range(5)))
    assert {tuple(reply.ids) for reply in replies} == {tuple(replies[0].ids)}
    assert all(reply.end.reason is FinishReason.LENGTH for reply in replies)


async def test_edited_positions_are_counted(make_engine, ask, hear, steer):
    request = ask("abcdef", steering=steer((3, "add", 1.0)), max_tokens=5)
    prompt_only = ask("abcdef", steering=steer((3, "add", 1.0, "prompt")), max_tokens=5)
    generated = ask("abcdef", steering=steer((3, "add", 1.0, "generated")), max_tokens=5)
    replies = await hear(make_engine(chunk=4), request, prompt_only, generated, ask("abcdef"))
    # Not the first of a prompt without a special token; the last of a reply is never fed back.
    assert [reply.end.tokens_edited for reply in replies] == [5 + 4, 5, 4, 0]
    assert replies[0].end.prompt_tokens == 6


# Of a GPU, of a Mac's, and of a CPU.
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_rows_that_do_not_fit_the_memory_are_told_with_what_to_turn_down(
    error, make_engine, monkeypatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error("out of memory")

    monkeypatch.setattr(SlotCache, "_zeros", full)
    with pytest.raises(SteerdeckError, match=r"^the keys .* GB more.*--max-rows.*--max-context"):
        make_engine(max_rows=3)


def test_edits_act_as_the_four_numbers_say() -> None:
    """`hook_by_hand` writes the formula out; it must be the one of dictionaries.edits."""
    for op in Op:
        table = EditTable.of([op.edit(2.0)])
        scale, shift, floor, ceiling = op.edit(2.0)
        for f in (0.0, 1.0, 5.0):
            by_hand = min(max(scale * f + shift, floor), ceiling)
            assert edited(torch.tensor([f]), table).item() == by_hand
