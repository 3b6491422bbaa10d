"""Control vectors of repeng and llama.cpp: which layer's output a direction moves, and what a file
of many layers is.
"""

from __future__ import annotations

import json
import shutil

import gguf_file
import hub_saes
import pytest
import torch
from api_talk import get
from gguf_file import VECTOR
from hub_saes import names
from published import copied
from runner_passes import PROMPT, prefill, runner
from tiny import D_MODEL
from typer.testing import CliRunner

from dictionaries.asked import asked
from dictionaries.beside import cards_beside, cards_of, open_cards
from dictionaries.errors import DictionaryError
from dictionaries.formats import control_vector, open_coder, open_dictionary
from dictionaries.hub import find_files
from server.cli import app
from server.loading import load
from server.settings import Settings

hub = hub_saes.hub  # fixture

ROWS = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(1))


def written(path, layers=(0, 1, 2), rows=ROWS, **words):
    named = {f"direction.{layer}": row for layer, row in zip(layers, rows, strict=True)}
    return gguf_file.write(path, named, VECTOR | words)


def run(*words):
    return CliRunner().invoke(app, ["dictionaries", *map(str, words)])


@pytest.mark.parametrize("layer", [0, 1])
def test_a_direction_moves_the_output_of_the_layer_that_it_is_named_by(
    layer, make_model, steer, tmp_path
):
    path = written(tmp_path / "calm.gguf")
    made = runner(make_model(), open_dictionary(path, id="own", layer=layer))
    made.steerer.write(0, made.steerer.prepare(steer((0, "add", 2.5, "all", "own"))))
    steered = prefill(made, 0, cut=7)
    model = make_model()
    moved = model.model.layers[layer]
    moved.register_forward_hook(lambda _module, _args, out: out + 2.5 * ROWS[layer])
    expected = model(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)


def test_of_many_layers_one_is_named_and_inspect_says_which_there_are(tmp_path):
    path = written(tmp_path / "calm.gguf", (10, 11, 12))
    said = r"calm\.gguf has a direction of each of the layers 10 to 12, and an edit is made at one"
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(path)
    there = run("inspect", path)
    assert there.exit_code == 0, there.output
    assert "layers 10, 11, 12 resid_post" in there.output
    assert "3 features of 32 numbers" in there.output
    assert "name it, calm.gguf?layer=10." in there.output
    one = json.loads(run("inspect", f"{path}?layer=11", "--json").output)
    assert (one["id"], one["format"], one["model"]) == ("calm-layer11", "control_vector", "llama")
    assert (one["site"], one["d_sae"]) == ({"layer": 11, "hook": "resid_post"}, 1)
    assert one["steering"]["ops"] == ["add"]
    with pytest.raises(DictionaryError, match=r"10 to 12, not of layer 13\."):
        asked(f"{path}?layer=13").open(path)
    opened = [open_dictionary(path, layer=layer) for layer in (10, 11, 12)]
    assert torch.equal(torch.cat([one.rows([0]).dec for one in opened]), ROWS)
    assert len({one.info.revision for one in opened} | {open_coder(path).info.revision}) == 4


def test_what_a_file_says_is_no_command_to_the_terminal(tmp_path):
    said = {"controlvector.model_hint": "ll\x1b]0;a\x07ma"}
    told = run("inspect", f"{written(tmp_path / 'calm.gguf', **said)}?layer=1").output
    assert "ll]0;ama" in told
    assert "\x1b" not in told


def test_what_is_one_needs_no_layer_and_what_has_none_takes_none(tmp_path):
    path = written(tmp_path / "one.gguf", (8,), ROWS[:1])
    assert open_dictionary(path).info == open_dictionary(path, layer=8).info
    with pytest.raises(DictionaryError, match=r"has the direction of layer 8, not of layer 0\."):
        open_dictionary(path, layer=0)
    sae = copied("saelens_v6_standard", tmp_path / "sae")
    with pytest.raises(DictionaryError, match=r"layer 8 was given, but .* leave it out"):
        open_dictionary(sae, layer=8)


def test_zeros_are_the_layers_that_were_left_out(tmp_path):
    path = written(tmp_path / "calm.gguf", (1, 2, 9), torch.stack([ROWS[0], 0 * ROWS[0], ROWS[2]]))
    assert open_coder(path).info.layers == (1, 9)
    with pytest.raises(DictionaryError, match=r"directions of the layers 1, 9, not of layer 2\."):
        open_dictionary(path, layer=2)


def test_a_folder_of_one_is_that_one_and_of_several_asks_which(tmp_path):
    path = written(tmp_path / "own" / "calm.gguf")
    assert open_dictionary(tmp_path / "own", layer=1).info == open_dictionary(path, layer=1).info
    written(tmp_path / "own" / "bold.gguf")
    with pytest.raises(DictionaryError, match=r"holds 2: name one, such as bold\.gguf, calm\.gguf"):
        open_dictionary(tmp_path / "own", layer=1)
    sae = copied("saelens_v6_standard", tmp_path / "sae")
    beside = shutil.copy(path, sae / "calm.gguf")
    assert open_dictionary(beside, layer=1).info.format == "control_vector"
    assert open_dictionary(sae).info.format == "saelens"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"direction.1": ROWS[0], "direction.2": ROWS[0, :5]}, r"shapes \[5\], \[32\]"),
        ({"direction.1": ROWS}, r"shapes \[3, 32\]"),
        ({"direction.1": ROWS[0, :0]}, "wanted a vector"),
        ({"direction.1": ROWS[0] / 0}, "holds NaN or infinity"),
        ({"direction.1": ROWS[0] * 1e38}, "longer than float32 can say"),
        ({"direction.1": 0 * ROWS[0]}, "no direction that is not all zeros"),
        ({"direction.1": ROWS[0].int()}, "ggml's type 26"),
        ({}, "no direction that is not all zeros"),
        ({"direction.one": ROWS[0]}, r"tensor 'direction\.one', which is no direction\.<layer>"),
        ({"direction.01": ROWS[0]}, "which is no direction"),
        ({"direction.-1": ROWS[0]}, "which is no direction"),
        ({"direction.1": ROWS[0], "token_embd.weight": ROWS[0]}, "tensor 'token_embd.weight'"),
    ],
)
def test_what_is_no_control_vector_is_refused_with_a_sentence(tensors, sentence, tmp_path):
    path = gguf_file.write(tmp_path / "x.gguf", tensors)
    for opens in (open_coder, open_dictionary):
        with pytest.raises(DictionaryError, match=sentence):
            opens(path)


def test_more_than_any_model_has_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(control_vector, "_MOST", 3 * D_MODEL - 1)
    with pytest.raises(DictionaryError, match=r"more than 95 numbers"):
        open_dictionary(written(tmp_path / "x.gguf"), layer=1)


def test_layers_are_served_side_by_side_and_steered_by_their_names(
    make_model, tokenizer, serve, tmp_path
):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = written(tmp_path / "Calm & kind.gguf", (0, 1), ROWS[:2])
    named = f"{path}?layer=0,{path}?layer=1&id=deep"
    given = {"model": str(tmp_path / "model"), "dictionary": named, "data_dir": tmp_path}
    live = serve(load(Settings(**given, max_rows=2), lambda *_: None))
    (found,) = get(live, "/v1/features", q="kind", dictionary="deep")["data"]
    assert (found["ref"], found["label"]) == ("deep/0", "Calm & kind, layer 1")
    edits = [
        {"feature": name, "op": "add", "strength": 3.0, "unit": "raw"}
        for name in ("calm-kind-layer0", "deep")
    ]
    reply = live.chat(steering={"edits": edits})
    told = [edit["feature"] for edit in reply["steering"]["receipt"]["edits"]]
    assert told == ["Calm-kind-layer0/0", "deep/0"]
    assert reply["choices"] != live.chat()["choices"]


def test_a_packed_copy_has_its_name(tmp_path):
    path = written(tmp_path / "calm.gguf")
    packed = run("pack", f"{path}?layer=1", "--out", tmp_path / "packed")
    assert packed.exit_code == 0, packed.output
    opened = open_dictionary(tmp_path / "packed")
    assert torch.equal(opened.rows([0]).dec, ROWS[1:2])
    with open_cards(cards_beside(opened.path), opened.info) as cards:
        assert cards.by_slug("calm-layer1").label == "calm, layer 1"
    refused = run("pack", path, "--out", tmp_path / "all")
    assert (refused.exit_code, "calm.gguf?layer=0" in refused.output) == (1, True)


def test_each_layer_of_a_file_has_cards_of_its_own(tmp_path):
    path = written(tmp_path / "calm.gguf")
    for layer in (1, 2):
        table = tmp_path / "labels.csv"
        table.write_text(f"feature_id,label\n0,deep calm {layer}\n")
        command = ["features", "import", str(table), "-d", f"{path}?layer={layer}"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    for layer in (1, 2):
        info = open_dictionary(path, layer=layer).info
        with open_cards(cards_of(path, info), info) as cards:
            assert cards.get(0).label == f"deep calm {layer}"


def test_of_the_hub_the_one_that_is_named_comes(hub, tmp_path):
    repo = tmp_path / "vectors"
    for name in ("llama-3:8b-calm", "llama-3:8b-bold"):
        written(repo / "llama" / f"{name}.gguf")
    own = "llama-3:8b-calm.gguf.layer1.cards.sqlite"
    (repo / "llama" / own).write_bytes(b"cards")
    hub.handler.repos["org/vectors"] = repo
    with pytest.raises(DictionaryError, match=r"holds 2 dictionaries; name one of them: org/vec"):
        find_files("org/vectors/llama", kind="dictionary", progress=False)
    name = "org/vectors/llama/llama-3:8b-calm.gguf"
    found = find_files(name, kind="dictionary", progress=False)
    assert names(found.parent) == ["llama-3:8b-calm.gguf", own]
    assert open_dictionary(found, layer=1).info.id == "llama-3-8b-calm-layer1"
