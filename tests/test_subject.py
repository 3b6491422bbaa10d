"""A model as `steerdeck make` sees it: its residual, changes of it, the lens, and its names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from subject_inputs import SITE, ask, change, windows
from torch import Tensor

from dictionaries.dictionary import HOOKS, Site
from dictionaries.edits import EditTable, Op, edited
from dictionaries.making.subject import Subject, Windows
from server.engine.sites import decoder_layers
from server.errors import BadRequest
from server.model_subject import ModelSubject
from server.subject import subject

FAMILIES = ("llama", "gpt2", "gemma2", "gemma3", "qwen3", "gpt_neox")
NORMS = {
    "llama": "model.norm",
    "gpt2": "transformer.ln_f",
    "gemma2": "model.norm",
    "gpt_neox": "gpt_neox.final_layer_norm",
}


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
