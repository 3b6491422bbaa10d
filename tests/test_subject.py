"""A model as `steerdeck make` sees it: the residual, changes of it, the lens, and a speaker."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dictionaries.dictionary import HOOKS, Dictionary, Site
from dictionaries.edits import EditTable, FeatureRows, Op, edited
from dictionaries.making.subject import Ask, Change, Edited, Subject, Windows
from server.engine.cache import SlotCache
from server.engine.sites import decoder_layers
from server.errors import BadRequest, SteerdeckError, TooLong
from server.model_subject import ModelSubject
from server.speaker import EngineSpeaker
from server.subject import subject

FAMILIES = ("llama", "gpt2", "gemma2", "gemma3", "qwen3", "gpt_neox")
NORMS = {
    "llama": "model.norm",
    "gpt2": "transformer.ln_f",
    "gemma2": "model.norm",
    "gpt_neox": "gpt_neox.final_layer_norm",
}
SITE = Site(1, "resid_post")


def windows(*lengths: int) -> Windows:
    """Rows of bytes, padded on the right; the first token of each is the template's."""
    draw = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(0, 250, (len(lengths), max(lengths)), generator=draw)
    attended = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    content = attended.clone()
    content[:, 0] = False
    return Windows(ids, attended, content)


def change(dictionary: Dictionary, features: list[int], ops: list[tuple[Op, float]]) -> Change:
    """One feature and edit a row."""
    rows = dictionary.rows(features)
    batched = FeatureRows(
        rows.enc[:, None],
        *(getattr(rows, n)[:, None, None] for n in ("gain", "offset", "gate", "threshold")),
        rows.dec[:, None],
    )
    table = EditTable.of([op.edit(strength) for op, strength in ops])
    return Change(
        batched,
        EditTable(
            *(t[:, None, None] for t in (table.scale, table.shift, table.floor, table.ceiling))
        ),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_is_the_layers_output_and_nothing_later_runs(family, make_model, tokenizer):
    model = make_model(family)
    plain = model(input_ids=windows(9).ids, output_hidden_states=True).hidden_states[2]
    made: Subject = ModelSubject(model, tokenizer, SITE)
    ran: list[int] = []
    for i, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    x = made.residual(windows(9))
    assert torch.allclose(x, plain, atol=1e-5)
    assert not x.requires_grad
    assert 2 not in ran


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_padded_row_reads_as_it_does_alone(family, make_model, tokenizer):
    made = ModelSubject(make_model(family), tokenizer, SITE)
    both = windows(12, 5)
    alone = Windows(*(t[1:, :5] for t in both))
    assert torch.allclose(made.residual(both)[1:, :5], made.residual(alone), atol=1e-5)
    assert torch.allclose(made.logits(both)[1:, :5], made.logits(alone), atol=1e-4)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_site_has_its_width(hook, make_model, tokenizer):
    made = ModelSubject(make_model("qwen3"), tokenizer, Site(1, hook))
    assert made.residual(windows(6)).shape == (1, 6, made.d_in)
    assert made.d_in == (64 if hook == "hook_z" else 32)
    lens = made.lens(torch.eye(made.d_in)[:3])
    assert lens.shape == (3, 259)
    assert torch.allclose(lens.mean(-1), torch.zeros(3), atol=1e-4)


def test_a_model_is_left_as_it_was(make_model, tokenizer):
    model = make_model()
    before = model(input_ids=windows(8).ids).logits
    made = ModelSubject(model, tokenizer, SITE)
    made.residual(windows(8))
    assert torch.equal(made.logits(windows(8)), before)


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
@pytest.mark.parametrize("normalize", ["none", "layer_norm"])
def test_a_change_is_that_of_the_whole_autoencoder_row_by_row(
    architecture, normalize, make_model, make_dictionary, tokenizer
):
    """decode(edited f) + error, spliced in at the content tokens; the last row is left alone."""
    sae = make_dictionary(architecture=architecture, normalize=normalize)
    made = ModelSubject(make_model(), tokenizer, SITE, sae)
    batch = windows(10, 7, 9)
    ops = [(Op.CLAMP, 3.0), (Op.SCALE, 2.0), (Op.SCALE, 1.0)]
    features = [2, 5, 9]
    row_of = torch.arange(3)[:, None].expand(3, 10)[batch.content]

    def whole(x: Tensor) -> Tensor:
        f = sae.encode(x)
        after = f.clone()
        for row, (feature, (op, strength)) in enumerate(zip(features, ops, strict=True)):
            own = row_of == row
            table = EditTable.of([op.edit(strength)])
            after[own, feature] = edited(f[own][:, [feature]], table)[:, 0]
        return sae.decode(after, x) + (x - sae.decode(f, x))

    got = made.logits(batch, change(sae, features, ops))
    assert torch.allclose(got, made.spliced(batch, whole), atol=1e-4)
    plain = made.logits(batch)
    assert torch.equal(got[2], plain[2])
    assert torch.equal(got[:, 0], plain[:, 0])  # the template's token comes before every change
    assert not torch.allclose(got[0, 1:], plain[0, 1:], atol=1e-2)


@pytest.mark.parametrize("family", sorted(NORMS))
def test_the_lens_is_the_final_norm_and_the_unembedding(family, make_model, tokenizer):
    """On a residual of mean 0 and mean square 1, where the norm divides by 1."""
    model = make_model(family)
    norm = model.get_submodule(NORMS[family])
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    x = torch.randn(4, 32, generator=draw)
    x = x - x.mean(-1, keepdim=True)
    x = x / x.pow(2).mean(-1, keepdim=True).sqrt()
    head = model.get_output_embeddings()
    logits = (head(norm(x)) - head(norm(-x))) / 2
    expected = logits - logits.mean(-1, keepdim=True)
    assert torch.allclose(ModelSubject(model, tokenizer, SITE).lens(x), expected, atol=1e-3)


def test_what_does_not_fit_is_said(make_model, make_dictionary, tokenizer):
    with pytest.raises(BadRequest, match="layers 0 to 2"):
        ModelSubject(make_model(), tokenizer, Site(3, "resid_post"))
    with pytest.raises(ValueError, match="made for another model"):
        ModelSubject(make_model(), tokenizer, SITE, make_dictionary(d_in=16))


# --- The speaker ---


@pytest.fixture(scope="module")
def speaker(make_model, make_dictionary, tokenizer) -> Any:
    made = EngineSpeaker(make_model(), tokenizer, make_dictionary("own"), rows=3, context=96)
    yield made
    made.close()


def ask(text: str = "Hello", *edits: Edited, **more: Any) -> Ask:
    return Ask(({"role": "user", "content": text},), edits, **({"max_tokens": 6} | more))


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


# --- Names ---


@pytest.fixture
def folders(
    make_model: Callable[..., Any], make_dictionary: Any, tokenizer: Any, tmp_path: Path
) -> tuple[str, str]:
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model"), str(make_dictionary("disk").path)


def test_a_bench_is_opened_by_the_names_that_serve_takes(folders):
    model, sae = folders
    with subject(model, sae, device="cpu") as bench:
        assert bench.loaded.name == "model"
        assert bench.cards == Path(sae) / "cards.sqlite"
        assert bench.subject.site == bench.dictionary.info.site == SITE
        assert bench.subject.residual(windows(5)).shape == (1, 5, 32)
        speaker = bench.speaker(rows=1, context=64)
        assert len(speaker([ask()])) == 1
    with pytest.raises(Exception, match="closed"):
        speaker([ask()])


def test_the_catalog_knows_the_dictionary_of_a_model():
    with subject("foghorn", device="cpu") as bench:
        assert bench.dictionary.info.id == "foghorn"
        assert bench.cards.is_file()


def test_a_model_without_a_pairing_needs_a_dictionary(folders):
    with pytest.raises(BadRequest, match="say which dictionary"), subject(folders[0]):
        pass
