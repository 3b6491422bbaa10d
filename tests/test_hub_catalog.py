"""Every name of the catalog, from a hub on 127.0.0.1 that has its repositories' own layouts.

The files are the fixtures', moved to where the published ones lie, among neighbours like theirs.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_stub import point_at, running

from dictionaries.about import stated_licence
from dictionaries.asked import Asked
from dictionaries.catalog import Pairing, names, pairing
from dictionaries.dictionary import Site
from dictionaries.formats import open_dictionary
from dictionaries.hub import bare, find_files, origin
from server.loading import load, wanted
from server.settings import Settings

FIXTURES = Path(__file__).parent / "fixtures"
COMMIT = "c" * 40  # what a branch is on this hub
# Whose file to find at a published place: by what its name has in it.
LAYOUTS = {
    "gemma-scope-2-": "gemma_scope_2_resid_post",
    "gemma-scope-": "gemma_scope_1_res",
    "GPT2-Small-OAI": "saelens_v5_topk_layer_norm",
    "GPT2-Small-SAEs-Reformatted": "saelens_v2_legacy",
    "sae-pythia": "sparsify_sae_legacy",
    "Llama3_1-8B-Base-LXR": "llama_scope",
    "andyrdt/": "dl_batchtopk",
    "Goodfire/": "goodfire_llama_8b",
    "Qwen/SAE": "qwen_scope",
}
FILES = ("qwen_scope", "goodfire_llama_8b")  # a dictionary is one file
ON_HUB = [name for name in names() if name != "foghorn"]


def published(found: Pairing) -> tuple[str, str, str, str]:
    """(repository, commit, place in it, fixture) of an entry's dictionary."""
    name = bare(found.dictionary)
    org, repo, *place = name.split("/")
    pin = re.search(r"@([0-9a-f]{40})", found.dictionary)
    fixture = next(fixture for part, fixture in LAYOUTS.items() if part in name)
    return f"{org}/{repo}", pin[1] if pin else COMMIT, "/".join(place), fixture


def weights_of(fixture: str) -> Path:
    """The folder of a fixture that holds the weights themselves."""
    found = next(
        path
        for pattern in ("*.npz", "*.pt", "*.pth", "*.safetensors")
        for path in sorted((FIXTURES / fixture).rglob(pattern))
        if path.name != "expected.safetensors" and path.is_file()
    )
    return found.parent.parent if found.parent.name == "checkpoints" else found.parent


def lay(folder: Path, fixture: str, place: str, layer: int) -> None:
    """A fixture at the published place of a repository, its configs naming that layer."""
    source, at = weights_of(fixture), folder / place
    if fixture in FILES:
        at.parent.mkdir(parents=True, exist_ok=True)
        (weights,) = (path for path in source.iterdir() if path.suffix in (".pt", ".pth"))
        shutil.copy(weights, at)
        for config in source.glob("*.json"):
            shutil.copy(config, at.parent)
        return
    shutil.copytree(source, at)
    for config in at.glob("*.json"):
        named = re.sub(r"((?:layers?|blocks)[._])\d+", rf"\g<1>{layer}", config.read_text())
        told = json.loads(re.sub(r'("(?:hook_)?layer": )\d+', rf"\g<1>{layer}", named))
        config.write_text(json.dumps(told))


def neighbours(place: str, fixture: str) -> list[str]:
    """What lies beside a dictionary in its repository."""
    other = re.sub(r"\d+(?=\D*$)", "99", place)
    if fixture in FILES:
        return [other] if "layer" in place else []
    return [f"{other}/{path.name}" for path in weights_of(fixture).iterdir() if path.is_file()]


def inside(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ON_HUB)
def test_a_name_of_the_catalog_brings_one_dictionary_out_of_its_repository(
    name, tmp_path, monkeypatch
) -> None:
    found = pairing(name)
    repo, commit, place, fixture = published(found)
    folder = tmp_path / "repo"
    lay(folder, fixture, place, found.layer)
    wanted_files = inside(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for other in (*neighbours(place, fixture), f"{place}/examples.safetensors"):
        if not (folder / other).parent.is_file():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(b"gigabytes")
    commits = {"main": commit}
    with running({repo: folder}, commits=commits) as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        path = find_files(found.dictionary, kind="dictionary", progress=False)
    assert origin(path) == f"{repo}@{commit}/{place}"
    snapshot = next((tmp_path / "cache").glob("models--*/snapshots/*"))
    unread = {name for name in wanted_files if name.endswith("examples.safetensors")}
    fetched = (wanted_files - unread) | {"README.md"}
    assert inside(snapshot) == fetched, "evidence is never fetched with the weights"
    assert stated_licence(path) == "mit"
    info = open_dictionary(path, id=name).info
    assert info.site == Site(found.layer, found.hook)
    if info.model and "/" in info.model and not fixture.startswith(("dl_", "qwen")):
        assert info.model.partition("/")[0].lower() in found.model.lower()


def test_what_is_served_by_name_knows_its_commits_and_its_name(
    tmp_path, monkeypatch, make_model, tokenizer, make_dictionary
) -> None:
    """`serve --model org/tiny@v1 --dictionary org/saes/res` writes down the commits it got."""
    model, saes = tmp_path / "tiny", tmp_path / "saes"
    make_model().save_pretrained(model)
    tokenizer.save_pretrained(model)
    shutil.copytree(make_dictionary("hubbed").path, saes / "res")
    monkeypatch.setattr("dictionaries.hub_resume.LARGE", 10_000)
    told: list[tuple[str, float]] = []
    with running(
        {"org/tiny": model, "org/saes": saes}, commits={"v1": COMMIT, "main": COMMIT}
    ) as hub:
        point_at(hub, tmp_path / "cache", monkeypatch)
        options: dict[str, Any] = {"model": "org/tiny@v1", "dictionary": "org/saes/res"}
        deck = load(Settings(data_dir=tmp_path, **options), lambda *now: told.append(now))
    try:
        assert deck.model == "tiny"
        (id,) = deck.dictionaries
        assert deck.sources == {"model": f"org/tiny@{COMMIT}", id: f"org/saes@{COMMIT}/res"}
        assert any(stage.startswith("downloading org/tiny: ") for stage, _ in told)
        assert [progress for _, progress in told] == sorted(progress for _, progress in told)
    finally:
        deck.engine.close()


def test_a_name_of_the_catalog_names_a_dictionary_too() -> None:
    found = pairing("gemma-2-2b-it")
    want = wanted(Settings(model="/my/gemma", dictionary="gemma-2-2b-it"))
    assert want.dictionaries == (Asked(found.dictionary, id="gemma-2-2b-it"),)
    assert want.presets == (), "they were published for its own model"
    presets = wanted(Settings(model="gemma-2-2b-it")).presets
    beside = Settings(model="gemma-2-2b-it", dictionary="gemma-2-2b-it,/my/sae")
    assert wanted(beside).presets == presets
    before = Settings(model="gemma-2-2b-it", dictionary="/my/sae,gemma-2-2b-it")
    assert wanted(before).presets == ()
    assert [p["name"] for p in presets][:2] == ["san-francisco", "dogs"]
    assert wanted(Settings(model=f"org/tiny@{COMMIT}")).name == "tiny"
