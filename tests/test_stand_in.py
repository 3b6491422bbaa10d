"""Without any labels: promoted tokens stand in, as the logit lens finds them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dictionaries.dictionary import Site
from server.engine.sites import decoder_layers
from server.lens import final_gain, logit_lens, unembedding
from server.stand_in import StandIn


def test_without_any_labels_promoted_tokens_stand_in(make_deck, serve, make_model, tokenizer):
    """A dictionary with no cards is searched and shown by what its features make likelier."""
    deck, model = make_deck(), make_model()
    bare = replace(deck, cards={}, stand_in=StandIn(model, tokenizer))
    live = serve(bare)
    direction = deck.dictionaries["tiny"].rows([5]).dec
    gain = final_gain(model, decoder_layers(model), 32)
    best = (direction * gain @ unembedding(model).float().T)[0, : len(tokenizer)].topk(3)
    wanted = [tokenizer.decode([int(i)]) for i in best.indices]
    found = live.http.get("/v1/features/tiny/5").json()
    assert [p["token"] for p in found["promoted_logits"][:3]] == wanted
    assert found["suppressed"]
    assert (found["label"].split(" ")[0], found["labelled_by"]) == ("says", "tokens")
    page = live.http.get("/v1/features", params={"limit": 10}).json()
    assert all(f["promoted"] and f["label"] for f in page["data"])
    near = live.http.get("/v1/features/tiny/5/neighbors").json()
    assert all(f["label"] for f in near["data"])
    edit = {"feature": 5, "op": "add", "strength": 4, "unit": "raw"}
    assert live.chat("hi", steering={"edits": [edit]})["steering"]["receipt"]


def test_the_lens_of_hook_z_goes_through_the_output_projection(make_model, tokenizer):
    """Without calling it: the engine may have a hook there."""
    for family in ("llama", "gpt2"):
        model = make_model(family)
        layers = decoder_layers(model)
        attention = next(c for c in layers[1].children() if hasattr(c, "layer_idx"))
        out = getattr(attention, "o_proj", None) or attention.c_proj
        width = out.weight.shape[1 if family == "llama" else 0]
        z = torch.randn(3, width)
        added = out(z) - out(torch.zeros_like(z))
        wanted = logit_lens(model, layers, Site(1, "resid_post"), added)
        out.register_forward_pre_hook(lambda *_: pytest.fail("the lens called it"))
        found = logit_lens(model, layers, Site(1, "hook_z"), z)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
