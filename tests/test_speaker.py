"""A speaker of `steerdeck make`: replies to asks, steered one by one, by an engine of its own."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from subject_inputs import SITE, ask, windows

from dictionaries.edits import Op
from dictionaries.making.subject import Edited
from server.engine.cache import SlotCache
from server.errors import BadRequest, SteerdeckError, TooLong
from server.model_subject import ModelSubject
from server.speaker import EngineSpeaker


@pytest.fixture(scope="module")
def speaker(make_model, make_dictionary, tokenizer) -> Any:
    made = EngineSpeaker(make_model(), tokenizer, make_dictionary("own"), rows=3, context=96)
    yield made
    made.close()


def test_the_same_asks_get_the_same_replies_in_order_however_many(speaker):
    asks = [ask(f"Hello {i}", seed=i % 4) for i in range(10)]
    first = speaker(asks)
    assert speaker(asks) == first
    assert [speaker([one])[0] for one in asks[:3]] == first[:3]
    assert len(set(first)) > 5


def test_an_edit_steers_its_own_reply_alone(speaker):
    loud = Edited(3, Op.ADD, 40.0)
    plain, steered, again = speaker([ask(), ask("Hello", loud), ask()])
    assert plain == again
    assert steered != plain


def test_a_vector_is_added_like_the_decoder_row_it_is(speaker, make_dictionary):
    row, other = make_dictionary("own").rows([3, 4]).dec.unbind(0)
    asks = [
        ask("Hello", Edited(3, Op.ADD, 40.0)),
        ask("Hello", Edited(0, Op.ADD, 40.0, row)),
        ask("Hello", Edited(0, Op.ADD, 40.0, other)),
    ]
    by_feature, by_vector, by_other = speaker(asks)
    assert by_feature == by_vector != by_other
    assert speaker(asks[2:]) == [by_other]  # vectors of earlier calls are forgotten


def test_what_cannot_be_asked_ends_the_call_and_the_next_one_works(speaker):
    with pytest.raises(TooLong):
        speaker([ask(), ask("x" * 600)])  # the model has 512 positions
    with pytest.raises(BadRequest, match="can only be added"):
        speaker([ask("Hello", Edited(0, Op.CLAMP, 1.0, torch.ones(32)))])
    with pytest.raises(BadRequest, match="takes 32 numbers"):
        speaker([ask("Hello", Edited(0, Op.ADD, 1.0, torch.ones(7)))])
    assert len(speaker([ask()])) == 1


def test_there_is_room_for_the_longest_ask_whatever_the_template_adds(
    make_model, make_dictionary, tokenizer, monkeypatch
):
    long = f"{'preamble ' * 20}{tokenizer.chat_template}"
    made = EngineSpeaker(make_model(), tokenizer, make_dictionary("own"), rows=2, context=64)
    old = weakref.ref(made._engine._runner)
    asks = [ask(), ask("Hello", Edited(3, Op.ADD, 40.0))]
    roomy = EngineSpeaker(make_model(), tokenizer, make_dictionary("own"), rows=2, context=256)
    first = made(asks)
    monkeypatch.setattr(tokenizer, "chat_template", long)
    plain, left = SlotCache._zeros, set()
    monkeypatch.setattr(SlotCache, "_zeros", lambda *own: (left.add(old()), plain(*own))[1])
    assert made(asks) == roomy(asks) != first
    assert left == {None}, "one engine's memory goes before the next one's is taken"
    for speaker in (made, roomy):
        speaker.close()
    with pytest.raises(Exception, match="closed"):
        made(asks)


def thoughtful(tokenizer: Any, *, stubborn: bool) -> Any:
    """Its template opens a thinking block for the reply; a stubborn one whatever it is told."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens(["<think>", "</think>"])
    asked = "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}"
    made.chat_template += "{% if add_generation_prompt %}<think>" + (
        "{% endif %}" if stubborn else f"{asked}{{% endif %}}"
    )
    return made


def test_a_model_that_can_leave_out_thinking_is_asked_to_and_another_is_refused(
    make_model, make_dictionary, tokenizer
):
    def at_home(tokenizer: Any) -> tuple[ModelSubject, EngineSpeaker]:
        model = make_model()
        model.resize_token_embeddings(len(tokenizer))
        speaker = EngineSpeaker(model, tokenizer, make_dictionary("own"), rows=1, context=96)
        return ModelSubject(model, tokenizer, SITE), speaker

    said = ask().messages
    knows = thoughtful(tokenizer, stubborn=False)
    subject, speaker = at_home(knows)
    prompt = subject.prompt(said)
    assert prompt is not None
    assert knows.decode(prompt.ids).endswith("<think></think>")
    assert len(speaker([ask()])) == 1
    speaker.close()
    subject, speaker = at_home(thoughtful(tokenizer, stubborn=True))
    for measure in (lambda: subject.prompt(said), lambda: speaker([ask()])):
        with pytest.raises(SteerdeckError, match="inside a thinking block"):
            measure()
    speaker.close()


def test_a_model_without_a_template_goes_on_with_the_text(
    make_model, make_dictionary, tokenizer, monkeypatch
):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    made = EngineSpeaker(make_model("gpt2"), tokenizer, make_dictionary(), rows=1, context=64)
    one, other = made([ask("Hello", temperature=0.0), ask("Goodbye", temperature=0.0)])
    made.close()
    assert one
    assert other


def test_model_and_speaker_share_weights_and_nothing_else(make_model, make_dictionary, tokenizer):
    model, sae = make_model(), make_dictionary()
    made = ModelSubject(model, tokenizer, SITE, sae)
    before = made.logits(windows(9, 4))
    speaker = EngineSpeaker(model, tokenizer, sae, rows=2, context=64)
    speaker([ask("Hello", Edited(1, Op.ADD, 9.0))])
    own = {p.data_ptr() for p in speaker._engine._runner.model.parameters()}
    assert own == {p.data_ptr() for p in model.parameters()}
    assert torch.equal(made.logits(windows(9, 4)), before)
    speaker.close()
