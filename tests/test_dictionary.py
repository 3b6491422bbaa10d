"""What a dictionary says of itself: its revision and the models it fits; the README of its room."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import small_sae
import torch
from small_sae import D_IN, write_sae

from dictionaries.dictionary import Info, Site
from dictionaries.edits import Norm
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.formats import revision as revisions
from dictionaries.formats.revision import revision

folder = small_sae.folder  # fixture


def test_the_revision_follows_the_content_and_not_the_place(folder, tmp_path):
    first = open_dictionary(folder).info.revision
    write_sae(tmp_path / "elsewhere")
    assert open_dictionary(tmp_path / "elsewhere").info.revision == first
    write_sae(tmp_path / "other", b_dec=torch.zeros(D_IN))
    assert open_dictionary(tmp_path / "other").info.revision != first
    config = folder / "cfg.json"
    config.write_text(config.read_text().replace("blocks.3", "blocks.4"))
    assert open_dictionary(folder).info.revision != first


def test_the_revision_tells_files_apart(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    seen = set()
    for one, other in (("xy", "z"), ("x", "yz")):
        a.write_text(one)
        b.write_text(other)
        seen |= {revision([a, b]), revision([b, a])}
    assert len(seen) == 4


def test_the_revision_of_a_big_file_is_sampled_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_HASHED_WHOLE", 64 * 1024)
    monkeypatch.setattr(revisions, "_SAMPLE", 1024)
    file, size = tmp_path / "big", 3 * 2**20
    file.touch()
    os.truncate(file, size)
    seen = {revision([file])}
    for at in (0, size // 2, size - 1):
        with file.open("r+b") as opened:
            opened.seek(at)
            opened.write(b"x" * min(64 * 1024, size - at))
        seen.add(revision([file]))
    assert len(seen) == 4
    os.truncate(file, size + 1)
    assert revision([file]) not in seen


def info(layer, hook="resid_post", d_in=64):
    return Info("x", "saelens", "standard", Site(layer, hook), d_in, 9, Norm.NONE, None, "m", "0")


@pytest.mark.parametrize("layer", [12, 99, -1])
def test_a_layer_past_the_end_does_not_fit(layer):
    with pytest.raises(DictionaryError, match=rf"layer {layer} resid_post.* layers 0 to 11"):
        info(layer).fits(12, 64)


def test_a_width_unlike_the_models_does_not_fit():
    info(11).fits(12, 64)
    with pytest.raises(DictionaryError, match=r"64 numbers.*residual stream has 128"):
        info(11).fits(12, 128)
    info(11, "hook_z").fits(12, 128)  # as wide as the heads together, not as the residual


def test_importing_the_room_stays_cheap():
    import subprocess
    import sys

    code = (
        "import sys, dictionaries.formats, dictionaries.cards, dictionaries.hub, "
        "dictionaries.catalog; print([m for m in ('transformers', 'huggingface_hub', "
        "'fastapi') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_examples_in_the_rooms_readme_run(monkeypatch, capsys, tmp_path):
    """In a folder of their own, for what they write, in which the checkout's tests are found."""
    root = Path(__file__).parents[1]
    (tmp_path / "tests").symlink_to(root / "tests")
    monkeypatch.chdir(tmp_path)
    text = (root / "dictionaries" / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        exec(block, {})
    said = capsys.readouterr().out
    assert "jumprelu at layer 12 resid_post with 64 features" in said
    assert "1 Golden Gate Bridge 41.5" in said
    assert open_dictionary(tmp_path / "my-directions").info.d_sae == 2
