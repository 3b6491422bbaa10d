"""Directions of your own: what adding one does, who knows its label, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_talk import get, put
from runner_passes import PROMPT, prefill, runner
from safetensors.torch import save_file
from tiny import D_MODEL
from typer.testing import CliRunner

from dictionaries.about import about
from dictionaries.beside import cards_of, open_cards, stated_cards
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.hub import placed
from server.cli import app
from server.errors import Unsteerable
from server.loading import load
from server.settings import Settings

ROWS = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(1))
SAID: dict[str, Any] = {
    "format": "directions",
    "version": 1,
    "model": "tiny",
    "site": {"layer": 1, "hook": "resid_post"},
    "directions": [{"label": "politeness", "slug": "polite"}, {"label": "Fog, at sea"}],
}


def written(folder: Path, rows: Any = ROWS, **said: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"directions": rows}, folder / "directions.safetensors")
    (folder / "directions.json").write_text(json.dumps({**SAID, **said}))
    return folder


@pytest.mark.parametrize("hook", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("keep_norm", [False, True])
def test_adding_a_direction_is_a_hooked_forward_that_adds_it(
    hook, keep_norm, make_model, steer, tmp_path
):
    folder = written(tmp_path / "own", site={"layer": 1, "hook": hook})
    made = runner(make_model(), open_dictionary(folder))
    edit = steer((1, "add", 2.5, "all", "own"), keep_norm=keep_norm)
    made.steerer.write(0, made.steerer.prepare(edit))
    steered = prefill(made, 0, cut=7)
    model = make_model()
    layer = model.model.layers[1]

    def moved(x: torch.Tensor) -> torch.Tensor:
        y = x + 2.5 * ROWS[1]
        return y * x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True) if keep_norm else y

    if hook == "resid_pre":
        layer.register_forward_pre_hook(lambda _module, args: (moved(args[0]), *args[1:]))
    else:
        layer.register_forward_hook(lambda _module, _args, out: moved(out))
    expected = model(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    plain = make_model()(torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(steered, expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.1


def test_it_says_what_it_is_and_reads_nothing(tmp_path):
    opened = open_dictionary(written(tmp_path / "own"))
    info, said = opened.info, about(opened)
    assert (info.id, info.format, str(info.site), info.model) == (
        "own", "directions", "layer 1 resid_post", "tiny",
    )  # fmt: skip
    assert (info.d_in, info.d_sae, said["steering"]["ops"]) == (D_MODEL, 2, ["add"])
    assert torch.equal(opened.rows([1, 0]).dec, ROWS[[1, 0]])
    assert open_dictionary(tmp_path / "own" / "directions.safetensors").info == info
    assert placed("org/repo/own/directions.safetensors", "dictionary").sub == "own"
    with pytest.raises(DictionaryError, match=r"nothing encodes.*op 'add'"):
        opened.coded(torch.randn(3, D_MODEL))
    save_file({"x": torch.randn(3, D_MODEL)}, tmp_path / "x.safetensors")
    paths = ["-i", str(tmp_path / "x.safetensors"), "-o", str(tmp_path / "y.safetensors")]
    ran = CliRunner().invoke(app, ["dictionaries", "encode", str(tmp_path / "own"), *paths])
    assert (ran.exit_code, "nothing encodes" in ran.output) == (1, True), ran.output
    ran = CliRunner().invoke(app, ["dictionaries", "inspect", str(tmp_path / "own")])
    assert "2 features of 32 numbers" in ran.output
    assert "steering       add: it is a direction of your own" in ran.output


def test_a_packed_copy_has_their_labels_and_slugs(tmp_path):
    own = open_dictionary(written(tmp_path / "own"))
    ask = ["dictionaries", "pack", str(own.path), "--out", str(tmp_path / "packed")]
    ran = CliRunner().invoke(app, ask)
    assert (ran.exit_code, "with cards.sqlite" in ran.stdout) == (0, True), ran.output
    packed = open_dictionary(tmp_path / "packed")
    path = cards_of(packed.path, packed.info)
    with open_cards(path, packed.info) as cards, stated_cards(own.path, own.info) as stated:
        assert cards.meta["dictionary_revision"] == packed.info.packed_from
        for name in ("", "at sea", "polite"):
            assert cards.search(name) == stated.search(name)
    path.write_bytes(b"one's own")
    assert CliRunner().invoke(app, ask).exit_code == 0
    assert path.read_bytes() == b"one's own", "which stay"


SPOILT = ROWS.clone()
SPOILT[1, 3] = torch.nan
NOTHING = ROWS.clone()
NOTHING[1] = 0.0


@pytest.mark.parametrize(
    ("rows", "said", "sentence"),
    [
        (SPOILT, {}, r"row 1 \('Fog, at sea'\) holds NaN or infinity"),
        (NOTHING, {}, r"row 1 \('Fog, at sea'\) is all zeros, which steers nothing"),
        (ROWS[:1], {}, "has 1 directions of 32 numbers, and .* has 2 entries"),
        (ROWS[0], {}, "wanted a matrix"),
        (ROWS[:, :0], {}, "2 directions of 0 numbers"),
        (ROWS.int(), {}, "wanted floats"),
        (ROWS, {"directions": []}, "a list with an entry a direction"),
        (ROWS, {"directions": {"polite": 0}}, "a list with an entry a direction"),
        (ROWS, {"directions": [{"label": "a"}, {"slug": "b"}]}, r"directions\[1\] has no label"),
        (ROWS, {"directions": ["a", "b"]}, r"directions\[0\] has no label"),
        (ROWS, {"directions": [{"label": " "}, {"label": "b"}]}, r"directions\[0\] has no label"),
        (ROWS, {"directions": 2 * [{"label": "a", "slug": "a"}]}, r"slug of directions\[1\], 'a'"),
        (ROWS, {"directions": 2 * [{"label": "a", "slug": 7}]}, r"slug of directions\[0\], 7"),
        (ROWS, {"directions": 2 * [{"label": "a", "slug": "A b"}]}, "slug 'A b' must be small"),
        (ROWS, {"version": 2}, "version 2; what is read is 'directions', 1"),
        (ROWS, {"format": None}, "says format None"),
        (ROWS, {"site": {"layer": 1, "hook": "resid"}}, "hook 'resid'; hooks are resid_pre"),
        (ROWS, {"site": 3}, "layer None, hook None"),
    ],
)
def test_what_is_no_direction_is_refused_with_a_sentence(rows, said, sentence, tmp_path):
    written(tmp_path / "own", rows.contiguous(), **said)
    with pytest.raises(DictionaryError, match=sentence):
        open_dictionary(tmp_path / "own")


def test_the_names_without_the_numbers_are_refused(tmp_path):
    (written(tmp_path / "own") / "directions.safetensors").unlink()
    with pytest.raises(DictionaryError, match=r"directions\.safetensors"):
        open_dictionary(tmp_path / "own")


@pytest.fixture(scope="module")
def own(tmp_path_factory, make_model, tokenizer, serve):
    """A server of the tiny model and a folder of directions, in which nothing is ever written."""
    folder = tmp_path_factory.mktemp("served")
    make_model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    given = {"model": str(folder / "model"), "dictionary": str(written(folder / "own"))}
    yield serve(load(Settings(data_dir=folder, **given, max_rows=2), lambda *_: None))
    assert {file.suffix for file in (folder / "own").iterdir()} == {".json", ".safetensors"}


def test_a_label_finds_its_direction_and_a_slug_steers_by_it(own):
    (found,) = get(own, "/v1/features", q="at sea")["data"]
    assert (found["ref"], found["label"], found["maximum"]) == ("own/1", "Fog, at sea", None)
    assert get(own, "/v1/features/polite")["reach"] > 0
    edit = {"feature": "polite", "op": "add", "strength": 3.0, "unit": "raw"}
    plain, steered = own.chat(), own.chat(steering={"edits": [edit], "norm": "keep"})
    assert plain["choices"] != steered["choices"]
    (applied,) = steered["steering"]["receipt"]["edits"]
    assert (applied["feature"], applied["strength"], applied["unit"]) == ("own/0", 3.0, "raw")
    assert steered["steering"]["applied"][0]["label"] == "politeness"
    assert put(own, "kind", {"edits": [edit], "norm": "keep"}).status_code in (200, 201)
    again = own.chat(model=f"{get(own, '/v1/models')['data'][0]['id']}@kind")
    assert again["choices"] == steered["choices"]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"op": "clamp", "strength": 3.0, "unit": "raw"}, "Use the op 'add' with the unit 'raw'"),
        ({"op": "ablate"}, "nothing encodes"),
        ({"op": "add", "strength": 3.0}, 'send "unit": "raw"'),
        ({"op": "add", "strength": 3.0, "unit": "raw", "when": {"feature": 1, "value": 1.0}}, ""),
    ],
)
def test_what_would_read_a_direction_is_refused(own, edit, sentence):
    body = own.body(steering={"edits": [{"feature": "polite", **edit}]})
    answer = own.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert sentence in answer.json()["error"]["message"]


def test_the_width_of_another_model_is_refused(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    folder = written(tmp_path / "own", torch.ones(2, 16))
    given = {"model": str(tmp_path / "model"), "dictionary": str(folder)}
    with pytest.raises(Unsteerable, match="vectors of 16 numbers, but the model's"):
        load(Settings(data_dir=tmp_path, **given), lambda *_: None)
