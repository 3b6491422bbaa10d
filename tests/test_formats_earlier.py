"""Earlier states of a dictionary_learning training: files of the trained folder's checkpoints."""

from __future__ import annotations

import shutil

import hub_saes
import pytest
import torch
from hub_saes import names
from published import copied, expected

from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.hub import find_files

hub = hub_saes.hub  # fixture


def trained(folder, steps=(5, 20)):
    """A trained folder with states of half the decoder each, which no config says anything of."""
    place = copied("dl_batchtopk", folder / "resid_post_layer_12" / "trainer_0")
    state = torch.load(place / "ae.pt", weights_only=True)
    (place / "checkpoints").mkdir()
    for step in steps:
        half = {**state, "decoder.weight": state["decoder.weight"] / 2}
        torch.save(half, place / "checkpoints" / f"ae_{step}.pt")
    return place


@pytest.mark.parametrize("relative", [False, True])
def test_an_earlier_state_opens_by_its_own_name_with_its_folders_config(
    relative, tmp_path, monkeypatch
):
    folder = trained(tmp_path)
    monkeypatch.chdir(folder / "checkpoints")
    last = open_dictionary(folder)
    early = open_dictionary("ae_5.pt" if relative else folder / "checkpoints" / "ae_5.pt")
    assert early.info.id == f"{last.info.id}-ae_5"
    assert (early.info.site, early.info.architecture) == (last.info.site, "batchtopk")
    assert early.info.revision != last.info.revision
    x = expected("dl_batchtopk")["x"]
    assert torch.equal(early.encode(x), last.encode(x))
    assert torch.equal(early.rows([3]).dec, last.rows([3]).dec / 2)


def test_of_several_one_must_be_named_and_the_folder_is_the_last(tmp_path):
    folder = trained(tmp_path)
    with pytest.raises(DictionaryError, match=r"holds 2: name one, such as ae_20\.pt, ae_5\.pt"):
        open_dictionary(folder / "checkpoints")
    assert open_dictionary(folder).path == folder
    (folder / "ae.pt").unlink()  # a training that was stopped
    with pytest.raises(DictionaryError, match=r"such as checkpoints/ae_20\.pt"):
        open_dictionary(folder)
    (folder / "config.json").unlink()
    with pytest.raises(DictionaryError, match="no SAE of a known format"):
        open_dictionary(folder / "checkpoints" / "ae_5.pt")


def test_of_the_hub_only_the_one_that_is_named_comes_and_with_no_other(hub, tmp_path):
    folder = trained(tmp_path / "made")
    shutil.copytree(folder, tmp_path / "repo" / "run" / "trainer_0")
    hub.handler.repos["org/run"] = tmp_path / "repo"
    name = "org/run/run/trainer_0/checkpoints/ae_5.pt"
    found = find_files(name, kind="dictionary", progress=False)
    assert names(found.parents[1]) == ["checkpoints/ae_5.pt", "config.json"]
    assert open_dictionary(found).info.id == "run-trainer_0-ae_5"
    find_files("org/run/run/trainer_0", kind="dictionary", progress=False)
    assert names(found.parents[1]) == ["ae.pt", "checkpoints/ae_5.pt", "config.json"]
