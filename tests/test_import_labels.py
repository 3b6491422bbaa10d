"""Labels and evidence of others: Neuronpedia, Gemma Scope 2's examples, and none at all."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import FIXTURES, opened, place
from published import place as published_place
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from dictionaries.card import Card, Example
from dictionaries.cards import Cards
from dictionaries.catalog import pairing
from dictionaries.dictionary import Site
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making import label_table, neuronpedia
from dictionaries.making.gemma_examples import import_examples
from dictionaries.making.label_table import import_table
from dictionaries.making.neuronpedia import import_export
from dictionaries.making.neuronpedia_source import check_source
from server.cli import app
from server.cli.features_import import _texts
from server.engine.sites import decoder_layers
from server.lens import final_gain, logit_lens, unembedding
from server.stand_in import StandIn

EXPORT = FIXTURES / "neuronpedia_export" / "v1" / "gemma-2-2b" / "12-gemmascope-res-16k"
LABELS = json.loads((FIXTURES / "neuronpedia_export" / "meta.json").read_text())["expected_labels"]
SAE = "saelens_v6_jumprelu"  # layer 12, as the export; its decoder rows are not of length 1


def imported(tmp_path, name=SAE, export=EXPORT, **options):
    path = tmp_path / "cards.sqlite"
    import_export(export, opened(name), path, **options)
    return Cards.open(path)


def test_an_export_of_neuronpedia_becomes_cards(tmp_path):
    with imported(tmp_path) as cards:
        assert {str(i): cards.get(i).label for i in range(8)} == LABELS
        card = cards.get(2)
        assert card.labelled_by == "gpt-4o-mini"
        assert card.density == 0.003
        assert card.promoted == ((" dog", 1.2), (" cat", 1.1))
        assert card.suppressed == ((" no", -0.8),)
        assert card.histogram.counts == (3, 1)
        assert [e.tokens for e in card.examples] == [("<bos>", " my", " dog")]
        assert [c.feature for c in cards.search("legal cit")[0]] == [2]
        assert cards.meta["labels"]["source"] == "gemma-2-2b/12-gemmascope-res"


def test_its_activations_come_in_the_dictionarys_own_units(tmp_path):
    """Neuronpedia folds decoder rows to length 1, except those of TopK dictionaries."""
    for name in (SAE, "saelens_v6_topk"):
        folder = tmp_path / name
        folder.mkdir()
        length = opened(name).rows([2]).dec.norm().item() if name == SAE else 1.0
        assert name != SAE or abs(length - 1) > 0.1
        with imported(folder, name) as cards:
            card = cards.get(2)
        assert card.maximum == pytest.approx(13.0 / length, rel=1e-4)
        assert card.examples[0].activations == pytest.approx((0, 0, 9.5 / length), rel=1e-4)
        assert card.examples[0].interval == pytest.approx((8 / length, 10 / length), rel=1e-4)
        edges = (0.0, 3 / length, 7 / length)  # bars with middles 1 and 5
        assert card.histogram.edges == pytest.approx(edges, rel=1e-4)


def test_whose_explanation_is_taken_can_be_chosen(tmp_path):
    with imported(tmp_path, by="claude") as cards:
        assert cards.get(0).label == "a second label for feature 0"
        assert cards.get(1).label == "fires on dog", "what nobody explained is named by tokens"
        assert cards.get(1).labelled_by == "tokens"


def test_what_was_measured_or_written_here_stays(tmp_path):
    path = tmp_path / "cards.sqlite"
    own = Example((" own",), (1.0,))
    with Cards.create(path) as cards:
        cards.put(
            [
                Card(0, "mine", maximum=3.0, examples=(own,), labelled_by="concept", slug="mine"),
                Card(1, "says hi", maximum=2.0, labelled_by="tokens", onset=0.5, breakdown=2.0),
            ]
        )
    import_export(EXPORT, opened(SAE), path)
    with Cards.open(path) as cards:
        kept, completed = cards.get(0), cards.get(1)
    assert (kept.label, kept.labelled_by, kept.slug) == ("mine", "concept", "mine")
    assert (kept.maximum, kept.examples, kept.density) == (3.0, (own,), 0.001)
    assert (completed.label, completed.labelled_by) == (LABELS["1"], "gpt-4o-mini")
    assert (completed.maximum, completed.steerability) == (2.0, 1.5)


def test_importing_twice_changes_nothing(tmp_path):
    with imported(tmp_path) as cards:
        first = [cards.get(i) for i in range(8)]
    with imported(tmp_path) as cards:
        assert [cards.get(i) for i in range(8)] == first


def test_an_export_of_labels_alone_is_enough(tmp_path):
    export = tmp_path / "export"
    shutil.copytree(EXPORT / "explanations", export / "explanations")
    with imported(tmp_path, export=export) as cards:
        assert (len(cards), cards.get(7).label) == (8, LABELS["7"])


def test_another_dictionarys_export_is_refused(tmp_path):
    with pytest.raises(DictionaryError, match=r"12-gemmascope-res \(google.* sits at layer 8"):
        import_export(EXPORT, opened("saelens_v5_jumprelu"), tmp_path / "cards.sqlite")
    export = tmp_path / "export"
    (export / "explanations").mkdir(parents=True)
    row = json.dumps({"index": "64", "description": "too far"})
    (export / "explanations" / "batch-0.jsonl.gz").write_bytes(gzip.compress(row.encode()))
    with pytest.raises(DictionaryError, match=r"feature 64, but .* has features 0 to 63"):
        import_export(export, opened(SAE), tmp_path / "c.sqlite")


def export_of(folder, **said):
    """A copy of the export whose source says something else."""
    shutil.copytree(EXPORT, folder)
    source = folder / "source.jsonl"
    source.write_text(json.dumps(json.loads(source.read_text().splitlines()[0]) | said))
    return folder


GEMMA = "gemma_scope_1_res"  # layer_12/width_16k/average_l0_82 of the repository that is exported


CODER = "gemma_scope_1_transcoder"  # writes after the MLP, as SAEs of its output do
CODERS = "gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_87"
MLPS = "gemma-scope-2b-pt-mlp/layer_12/width_16k/average_l0_82"
NOWHERE = {"hfRepoId": None, "hfFolderId": None}


@pytest.mark.parametrize(
    ("name", "place", "said", "wrong"),
    [
        (GEMMA, "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", {}, None),
        (GEMMA, "mine/gemma-scope-2b-pt-res/layer_12", {}, None),
        (GEMMA, "gemma-scope-2b-pt-mlp/layer_12/width_16k/average_l0_82", {}, "sits at .*mlp_out"),
        (GEMMA, "gemma-scope-2b-pt-res/layer_12/width_65k/average_l0_82", {}, "lies in .*_65k"),
        (GEMMA, "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_41", {}, "lies in .*_l0_41"),
        (GEMMA, "gemma-scope-9b-pt-res/layer_12/width_16k/average_l0_82", {}, "lies in .*-9b-"),
        (SAE, "sae", {"id": "12-gemmascope-att-16k"}, "sits at layer 12 resid_post"),
        (SAE, "sae", {"id": "12-res-jb"}, None),
        (SAE, "sae", {"id": "12-gemmascope-transcoder-16k"}, "sits at layer 12 resid_post"),
        (CODER, CODERS, {"id": "5-gemmascope-transcoder", **NOWHERE}, None),
        (CODER, CODERS, {"id": "5-gemmascope-mlp", **NOWHERE}, "is a transcoder"),
        (GEMMA, MLPS, {"id": "12-gemmascope-transcoder-16k", **NOWHERE}, "is none"),
    ],
)
def test_an_export_of_another_place_width_or_repository_is_refused(
    name, place, said, wrong, tmp_path
):
    folder = shutil.copytree(published_place(name), tmp_path / "saes" / place)
    export, path = export_of(tmp_path / "export", **said), tmp_path / "cards.sqlite"
    if wrong is None:
        assert import_export(export, open_dictionary(folder), path).labelled == 8
        return
    with pytest.raises(DictionaryError, match=f"{wrong}.*: it belongs to another dictionary"):
        import_export(export, open_dictionary(folder), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("said", "d_sae", "fits"),
    [
        ("16k", 16_384, True),
        ("16k", 16_000, True),
        ("25k", 24_576, True),
        ("131k", 131_072, True),
        ("1m", 1_048_576, True),
        ("1m", 1_000_000, True),
        ("16k", 65_536, False),
        ("65k", 16_384, False),
        ("1m", 131_072, False),
    ],
)
def test_an_export_of_another_width_is_refused_before_any_of_it_fits_in(said, d_sae, fits):
    dictionary = opened(SAE)
    dictionary.info = replace(dictionary.info, d_sae=d_sae)
    wrong = pytest.raises(DictionaryError, match=f"has {d_sae:,} features: it belongs to another")
    with nullcontext() if fits else wrong:
        check_source({"id": f"12-gemmascope-res-{said}"}, dictionary)


def test_an_export_of_another_folder_of_the_hub_is_refused(tmp_path):
    commit = tmp_path / "models--org--saes" / "snapshots" / ("a" * 40)
    folder = shutil.copytree(published_place(SAE), commit / "res" / "one")
    for theirs, fits in (("res/one", True), ("res", True), ("res/on", False), ("", True)):
        said = {"hfRepoId": "org/saes", "hfFolderId": theirs}
        export = export_of(tmp_path / f"export-{theirs.replace('/', '-')}", **said)
        if fits:
            import_export(export, open_dictionary(folder), tmp_path / "cards.sqlite")
            continue
        with pytest.raises(DictionaryError, match=r"came from org/saes@a+/res/one"):
            import_export(export, open_dictionary(folder), tmp_path / "cards.sqlite")


INF = float("inf")
BARS = {"freq_hist_data_bar_values": [1, 5]}


def row(**fields) -> bytes:
    return json.dumps({"index": "1", **fields}).encode()


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("features", b"{", "line 1 of .* is no JSON object"),
        ("features", b'{"index": "x"}', "line 1 of .* is no JSON object with an index"),
        ("features", b"[1]", "is no JSON object"),
        ("features", b'{"index": 1e999}', "is no JSON object with an index"),
        ("features", row(topkCosSimIndices=[INF], topkCosSimValues=[1]), "no row of features"),
        ("features", row(**BARS, freq_hist_data_bar_heights=[INF, 1]), "no row of features"),
        ("features", row(maxActApprox=10**400), "no row of features"),
        ("features", b'{"index": "1", "maxActApprox": "loud"}', "line 1 of .* no row of features"),
        ("features", b'{"index": "1", "frac_nonzero": 7}', "density 7 is not a fraction"),
        ("features", b'{"index": "1", "pos_str": [1, 2], "pos_values": [1]}', "no row of features"),
        ("activations", b'{"index": "1", "tokens": ["a"], "values": [NaN]}', "no row of activat"),
        ("activations", b'{"index": "1", "tokens": 3}', "no row of activations"),
    ],
)
def test_a_row_that_is_none_is_named(kind, line, said, tmp_path):
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "batch-0.jsonl.gz").write_bytes(gzip.compress(line))
    with pytest.raises(DictionaryError, match=said):
        import_export(tmp_path, opened(SAE), tmp_path / "cards.sqlite")
    assert not (tmp_path / "cards.sqlite").exists(), "it would stand in the way of make describe"


def test_half_a_character_is_no_reason_to_refuse_the_rest(tmp_path):
    """JSON can name one half of what UTF-16 has in two, and SQLite takes no such text."""
    half = "\ud83d"
    for kind, line in (
        ("features", row(pos_str=[half], pos_values=[1])),
        ("activations", row(tokens=["a", half], values=[0, 1])),
        ("explanations", row(description=f"smiles {half}", explanationModelName=half)),
    ):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "batch-0.jsonl").write_bytes(line)
    with imported(tmp_path, export=tmp_path) as cards:
        card = cards.get(1)
        assert (card.label, card.labelled_by, card.promoted) == ("smiles ?", "?", (("?", 1.0),))
        assert card.examples[0].tokens == ("a", "?")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("bring", "source"), [(import_export, "export"), (import_table, "table.csv")]
)
def test_an_import_refused_at_its_end_leaves_the_cards_as_they_were(
    bring, source, before, tmp_path, monkeypatch
):
    """A feature that there is not may come after thousands that passed for this dictionary's."""
    monkeypatch.setattr(neuronpedia, "BATCH", 1)
    monkeypatch.setattr(label_table, "BATCH", 1)
    export = shutil.copytree(EXPORT, tmp_path / "export")
    (export / "explanations" / "batch-10.jsonl").write_text('{"index": "64"}')
    (tmp_path / "table.csv").write_text("feature_id,label\n3,three\n64,none\n")
    path = tmp_path / "cards.sqlite"
    if before:
        with Cards.create(path) as cards:
            cards.put([Card(1, "mine")])
    there = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(DictionaryError, match="feature 64, but"):
        bring(tmp_path / source, opened(SAE), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == there
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [export]


def test_an_import_that_was_stopped_is_done_whole_by_the_next(tmp_path, monkeypatch):
    folder = shutil.copytree(place(SAE), tmp_path / "sae")
    ask = ["features", "import", str(EXPORT), "-d", str(folder)]

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Cards, "compact", stop)
        stopped = CliRunner().invoke(app, ask)
    assert (stopped.exit_code, "nothing was imported" in stopped.output) == (130, True)
    assert not (folder / "cards.sqlite").exists()
    assert CliRunner().invoke(app, ask).exit_code == 0
    with imported(tmp_path) as at_once, Cards.open(folder / "cards.sqlite") as later:
        assert [later.get(i) for i in range(8)] == [at_once.get(i) for i in range(8)]


def test_the_cards_of_a_writer_that_was_killed_are_filled(tmp_path):
    """What it left half done is undone first, as SQLite does for whoever may write."""
    path = tmp_path / "cards.sqlite"
    with Cards.create(path) as cards:
        cards.put([Card(1, "mine", labelled_by="concept")])
    killed = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "db.execute('PRAGMA cache_size = 1'); "
        "db.execute(\"UPDATE features SET label = 'half', promoted = zeroblob(200000)\"); "
        "db.execute('INSERT INTO meta VALUES (1, zeroblob(200000))'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, path], check=False).returncode == 9
    assert path.with_name("cards.sqlite-journal").exists()
    with imported(tmp_path) as cards:
        assert (cards.get(1).label, cards.get(2).label) == ("mine", LABELS["2"])


def test_a_batch_cut_short_is_named(tmp_path):
    (tmp_path / "features").mkdir()
    whole = (EXPORT / "features" / "batch-0.jsonl.gz").read_bytes()
    for broken in (whole[:-40], whole[:40] + b"\xff" * 40 + whole[80:]):
        (tmp_path / "features" / "batch-0.jsonl.gz").write_bytes(broken)
        with pytest.raises(DictionaryError, match=r"batch-0.jsonl.gz cannot be read .*Download it"):
            import_export(tmp_path, opened(SAE), tmp_path / "cards.sqlite")


EXAMPLES = place("gemma_scope_2_resid_post") / "examples.safetensors"


def word(id: int) -> str:
    return f" t{id}"


def test_gemma_scopes_examples_become_cards(tmp_path):
    path, stored = tmp_path / "cards.sqlite", load_file(EXAMPLES)
    made = import_examples(EXAMPLES, opened("gemma_scope_2_resid_post"), path, word)
    assert made == int((stored["activations"].max(-1).values > 0).sum()) > 0
    with Cards.open(path) as cards:
        for feature in (0, 17, 63):
            card = cards.get(feature)
            strongest = int(stored["activations"][feature].argmax())
            peak = float(stored["activations"][feature, strongest])
            text, at = (int(stored[n][feature, strongest]) for n in ("seq_ids", "positions"))
            assert card.maximum == pytest.approx(peak, rel=1e-4)
            assert card.density == pytest.approx(float(stored["feature_frequencies"][feature]))
            promoted = [word(int(i)) for i in stored["top_tokens"][feature]]
            assert [token for token, _ in card.promoted] == promoted
            best = card.examples[0]
            assert max(best.activations) == pytest.approx(peak, rel=1e-4)
            shown = best.tokens[best.activations.index(max(best.activations))]
            assert shown == word(int(stored["tokens"][text, at]))
            peaks = [max(e.activations) for e in card.examples]
            assert peaks == sorted(peaks, reverse=True)
            assert card.labelled_by == "tokens"
            assert card.label


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("seq_ids"), "lacks seq_ids"),
        (lambda t: t.update(top_tokens=torch.zeros(63, 10)), r"examples of \[63, 64\] features"),
        (lambda t: t["seq_ids"].fill_(999), "point at text 999, outside of"),
        (lambda t: t["positions"].fill_(-1), "outside of the"),
        (lambda t: t.update(positions=torch.zeros(64, 3)), "contradicts itself"),
    ],
)
def test_examples_that_are_not_of_this_dictionary_are_refused(change, said, tmp_path):
    stored = load_file(EXAMPLES)
    change(stored)
    save_file(stored, tmp_path / "examples.safetensors")
    dictionary = opened("gemma_scope_2_resid_post")
    with pytest.raises(DictionaryError, match=said):
        import_examples(tmp_path / "examples.safetensors", dictionary, tmp_path / "c.sqlite", word)


R1 = "goodfire_r1_tied"
TABLE = """feature_id,label
3,"A wait, or a ""hmm""
of doubt"
5,Backtracking
9,
3,a second one
"""


def labelled(tmp_path, text, **options):
    (tmp_path / "autointerp.csv").write_text(text, **options)
    made = import_table(tmp_path / "autointerp.csv", opened(R1), tmp_path / "cards.sqlite")
    return made, Cards.open(tmp_path / "cards.sqlite")


def test_a_table_of_labels_becomes_cards(tmp_path):
    """Goodfire's of DeepSeek-R1; some programs begin a .csv with a mark of its encoding."""
    made, cards = labelled(tmp_path, TABLE, encoding="utf-8-sig")
    with cards:
        assert (made, len(cards)) == (2, 2)
        assert cards.get(3) == Card(3, 'A wait, or a "hmm" of doubt', labelled_by="autointerp")
        assert [card.feature for card in cards.search("backtrack")[0]] == [5]


def test_a_table_leaves_what_was_written_here(tmp_path, monkeypatch):
    """Also where one feature's rows come in different batches."""
    monkeypatch.setattr(label_table, "BATCH", 1)
    with Cards.create(tmp_path / "cards.sqlite") as cards:
        cards.put(
            [
                Card(3, "mine", labelled_by="concept"),
                Card(5, "says so", maximum=2.0, labelled_by="tokens"),
            ]
        )
    made, cards = labelled(tmp_path, TABLE + "5,too late\n")
    with cards:
        assert (made, cards.get(3).label) == (2, "mine")
        assert cards.get(5) == Card(5, "Backtracking", maximum=2.0, labelled_by="autointerp")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns none; a table of labels has feature_id and label"),
        ("id,label\n1,a\n", "has the columns id, label;"),
        ("feature_id,label\n0,a\nx,b\n", "line 3, is no row .*'x', not a whole number"),
        ("feature_id,label\n-1,a\n", "line 2, .*'-1', not a whole number"),
        ("feature_id,label\n64,a\n", "feature 64, but .* has features 0 to 63"),
        ('feature_id,label\n1,"' + "a" * 200_000 + '"\n', "field larger than field limit"),
        ("feature_id,label\n1,\udcff\n", "line .*codec can't decode"),
    ],
)
def test_what_is_no_table_of_labels_is_refused_and_leaves_no_cards(text, said, tmp_path):
    with pytest.raises(DictionaryError, match=said):
        labelled(tmp_path, text, encoding="utf-8", errors="surrogateescape")
    assert not (tmp_path / "cards.sqlite").exists()


def test_the_command_fills_the_cards_beside_a_dictionary(tmp_path, tokenizer):
    folder = shutil.copytree(place(SAE), tmp_path / "sae")

    def run(*arguments):
        return CliRunner().invoke(app, ["features", "import", *map(str, arguments)])

    said = run(EXPORT, "-d", folder)
    assert said.exit_code == 0, said.output
    assert "8 features have a written label" in said.output
    with Cards.open(folder / "cards.sqlite") as cards:
        assert cards.get(3).label == LABELS["3"]
    tokenizer.save_pretrained(tmp_path / "model")
    gemma = place("gemma_scope_2_resid_post")
    out = tmp_path / "gemma.sqlite"
    said = run(gemma, "-d", gemma, "-o", out, "-m", tmp_path / "model")
    assert said.exit_code == 0, said.output
    assert len(Cards.open(out)) == 64
    (tmp_path / "mine.csv").write_text("feature_id,label\n7,mine\n")
    said = run(tmp_path / "mine.csv", "-d", gemma, "-o", tmp_path / "table.sqlite")
    assert "table.sqlite: 1 features have a written label" in said.output.replace("\n", "")
    for source, words in ((tmp_path, "neither a folder of"), (tmp_path / "no", "is not there")):
        refused = run(source, "-d", folder)
        assert (refused.exit_code, words in refused.output) == (1, True)


def test_the_tokenizer_of_an_import_goes_by_the_names_of_the_catalog(monkeypatch):
    asked = []
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *name, **more: asked.append((*name, more))
    )
    for name in ("gpt2-small", "org/name@main/sub", "foghorn"):
        _texts(name, opened(SAE))
    commit = pairing("gpt2-small").model.partition("@")[2]
    assert asked[:2] == [
        ("openai-community/gpt2", {"revision": commit, "subfolder": ""}),
        ("org/name", {"revision": "main", "subfolder": "sub"}),
    ]
    if Path(pairing("foghorn").model).exists():
        assert asked[2] == (Path(pairing("foghorn").model), {})


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
