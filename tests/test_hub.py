"""Names -> files, from folders and from a hub that runs on 127.0.0.1 for the test."""

from __future__ import annotations

import shutil
from pathlib import Path

import hub_saes
import pytest
from hub_saes import names
from hub_stub import COMMITS
from published import place as fixture_place

from dictionaries import hub as hub_module
from dictionaries import hub_help
from dictionaries.about import stated_licence
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.hub import bare, find_files, placed

hub = hub_saes.hub  # fixture


def test_a_local_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    assert find_files(str(tmp_path), kind="model") == tmp_path
    (tmp_path / "org" / "repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_files("org/repo", kind="dictionary") == Path("org/repo")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files("~/org", kind="model") == tmp_path / "org"


@pytest.mark.parametrize(
    "name",
    ["", "foghorn2", "./no/place", "/no/such/place", "~/no/such", "~x/y/z", "a\0/b", "a" * 9000],
)
def test_what_is_neither_a_path_nor_a_hub_name_is_refused(name):
    with pytest.raises(DictionaryError, match="neither an existing path nor a name on the hub"):
        find_files(name, kind="model")


def test_one_dictionary_of_a_repository_is_fetched_alone_and_opens(hub):
    folder = find_files("org/saes/res/layer_1", kind="dictionary", progress=False)
    assert names(folder) == ["cfg.json", "sae_weights.safetensors"]
    assert open_dictionary(folder).info.architecture == "topk"
    assert names(folder.parents[1]) == [
        "config.json",
        "res/layer_1/cfg.json",
        "res/layer_1/sae_weights.safetensors",
    ]


def test_of_a_model_only_what_runs_it_is_fetched(hub):
    folder = find_files("org/saes", kind="model", progress=False)
    fetched = names(folder)
    assert "model.safetensors" in fetched
    assert "pytorch_model.bin" not in fetched


@pytest.mark.parametrize("name", ["org/saes", "org/saes/res", f"org/saes@{COMMITS['main']}/res"])
def test_a_folder_of_many_dictionaries_asks_which(name, hub):
    said = r"holds 2 dictionaries.*org/saes/res/layer_1, org/saes/res/layer_12"
    with pytest.raises(DictionaryError, match=said):
        find_files(name, kind="dictionary", progress=False)
    assert not Path(hub.handler.repos["org/saes"].parent / "cache").exists(), "nothing was fetched"


def test_of_many_one_must_be_named_even_if_they_could_not_be_listed_at_first(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "listing", lambda *_: [])
    with pytest.raises(DictionaryError, match=r"^org/saes/res/ holds 2 dictionaries"):
        find_files("org/saes/res", kind="dictionary", progress=False)
    assert not hub.handler.sent, "nothing was fetched"


def test_single_files_count_beside_folders_but_not_inside_them():
    folders = ["a/ae.pt", "a/config.json", "a/optimizer.pt"]
    hub_help.refuse_many("org/repo", "", folders)
    with pytest.raises(DictionaryError, match=r"holds 2 dictionaries.*org/repo/a, org/repo/b\.pt"):
        hub_help.refuse_many("org/repo", "", [*folders, "b.pt"])
    hub_help.refuse_many("org/repo", "", ["ae.pt", "optimizer.pt"])


def test_a_folder_that_is_not_there_is_named_with_those_that_are(hub):
    with pytest.raises(DictionaryError, match=r"no 'layer_3'; it has .*res/layer_1"):
        find_files("org/saes/layer_3", kind="dictionary", progress=False)


@pytest.mark.parametrize("name", ["org/saes@old/res/layer_1", "org/saes/res/layer_1"])
def test_a_revision_is_pinned_by_name_or_argument(name, hub):
    folder = find_files(
        name, revision=None if "@" in name else "old", kind="dictionary", progress=False
    )
    assert folder.parents[1].name == COMMITS["old"]
    with pytest.raises(DictionaryError, match=r"no revision 'newest'"):
        find_files(name, revision="newest", kind="dictionary", progress=False)


def test_a_gated_repository_says_how_to_get_in(hub, monkeypatch):
    with pytest.raises(DictionaryError, match=r"org/gated is gated: accept.*set HF_TOKEN"):
        find_files("org/gated/res/layer_1", kind="dictionary", progress=False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    with pytest.raises(DictionaryError, match=r"account of the token in use was not let in"):
        find_files("org/gated", kind="model", progress=False)


def test_a_missing_repository_says_what_to_check(hub):
    with pytest.raises(DictionaryError, match=r"org/nothing was not found.*spelling"):
        find_files("org/nothing", kind="model", progress=False)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        (f"org/repo@{'a' * 40}/sub/folder", "org/repo/sub/folder"),
        (f"org/repo@{'a' * 40}", "org/repo"),
        ("org/repo@main", "org/repo"),
        ("org/repo@refs/pr/1", "org/repo"),
        ("org/repo@refs/convert/v2/sub/folder", "org/repo/sub/folder"),
        ("org/repo@refs/sub", "org/repo/sub"),
        ("org/repo/sub", "org/repo/sub"),
        ("./a@b/c", "./a@b/c"),
    ],
)
def test_a_name_without_its_revision(name, without):
    assert bare(name) == without


def test_what_the_hub_calls_a_pull_request_is_a_revision():
    place = placed("org/repo@refs/pr/12/res/layer_1", "dictionary")
    assert (place.repo, place.revision, place.sub) == ("org/repo", "refs/pr/12", "res/layer_1")


def test_one_file_of_many_is_a_dictionary_too(hub):
    """Qwen-Scope: a file a layer, gigabytes each, and one config beside them."""
    repo = hub.handler.repos["org/saes"].parent / "scope"
    repo.mkdir()
    for layer in (1, 2, 10):
        (repo / f"layer{layer}.sae.pt").write_bytes(b"x" * layer)
    (repo / "config.json").write_text("{}")
    (repo / "README.md").write_text("about")
    hub.handler.repos["org/scope"] = repo
    with pytest.raises(DictionaryError, match=r"holds 3 dictionaries.*org/scope/layer1.sae.pt"):
        find_files("org/scope", kind="dictionary", progress=False)
    file = find_files("org/scope/layer10.sae.pt", kind="dictionary", progress=False)
    assert file.read_bytes() == b"x" * 10
    assert names(file.parent) == ["README.md", "config.json", "layer10.sae.pt"]
    with pytest.raises(DictionaryError, match=r"has no 'layer3.sae.pt'; it has .*layer10.sae.pt"):
        find_files("org/scope/layer3.sae.pt", kind="dictionary", progress=False)


@pytest.mark.parametrize(
    ("fixture", "place", "weights"),
    [
        ("saelens_v6_standard", "blocks.12.hook_resid_post/", "sae_weights.safetensors"),
        ("saelens_v6_standard", "", "sae_weights.safetensors"),
        ("sparsify_sae_legacy", "layers.10/", "sae.safetensors"),
        ("llama_scope", "L15R/", "checkpoints/final.safetensors"),
        ("llamascopium_dcp", "L10/", "sae_weights.dcp"),
        ("llamascopium_dcp", "L10/", "sae_weights.dcp/__1_0.distcp"),
        ("gemma_scope_1_res", "layer_12/width_16k/average_l0_82/", "params.npz"),
    ],
)
def test_the_weights_of_a_folder_stand_for_it(fixture, place, weights, hub, tmp_path):
    """As one copies their name from the hub's page: the configs come, too."""
    repo = "google/gemma-scope-2b-pt-res"
    shutil.copytree(fixture_place(fixture), tmp_path / "repo" / place)
    hub.handler.repos[repo] = tmp_path / "repo"
    found = find_files(f"{repo}/{place}{weights}", kind="dictionary", progress=False)
    assert open_dictionary(found).info.d_sae == 64


@pytest.mark.parametrize("fixture", ["gemma_scope_2_clt", "gemma_scope_2_crosscoder"])
def test_of_several_cross_layer_dictionaries_one_must_be_named(fixture, hub, tmp_path):
    repo = tmp_path / "scope2"
    for width in ("width_262k_l0_big", "width_262k_l0_medium"):
        shutil.copytree(fixture_place(fixture), repo / "clt" / width)
    hub.handler.repos["org/scope2"] = repo
    said = r"holds 2 dictionaries.*org/scope2/clt/width_262k_l0_big"
    with pytest.raises(DictionaryError, match=said):
        find_files("org/scope2/clt", kind="dictionary", progress=False)


def test_a_dictionary_of_the_hub_brings_the_licence_of_its_repository(hub):
    repo = hub.handler.repos["org/saes"]
    (repo / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    for name in ("res/layer_1", "res/layer_12/sae_weights.safetensors"):
        found = find_files(f"org/saes/{name}", kind="dictionary", progress=False)
        assert stated_licence(found) == "cc-by-4.0"
