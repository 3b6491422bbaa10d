"""An export of another dictionary is refused: by its place, its width or its repository."""

from __future__ import annotations

import gzip
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
from neuronpedia_export import EXPORT, SAE
from published import opened
from published import place as published_place

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making.neuronpedia import import_export
from dictionaries.making.neuronpedia_source import check_source


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
