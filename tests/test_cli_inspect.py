"""`steerdeck dictionaries inspect`: what a dictionary is, can do and is licensed for."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_runner import dictionaries as run
from published import changed, expected, place
from safetensors.torch import load_file, save_file

from dictionaries.about import about, stated_licence
from dictionaries.formats import open_coder


def test_inspect_says_what_a_dictionary_is_and_what_it_can_do():
    found = json.loads(run("inspect", place("saelens_v6_topk"), "--json").output)
    assert found["format"] == "saelens"
    assert found["site"] == {"layer": 12, "hook": "resid_post"}
    assert (found["d_in"], found["d_out"], found["d_sae"], found["k"]) == (16, 16, 64, 6)
    assert found["steering"]["ops"] == ["add", "clamp", "scale", "ablate", "at_least", "at_most"]
    assert found["steering"]["why_not"] == ""
    only = json.loads(run("inspect", place("gemma_scope_2_transcoder"), "--json").output)
    assert only["steering"]["ops"] == ["add"]
    assert only["reads"].endswith("pre_feedforward_layernorm.output")
    none = json.loads(run("inspect", place("gemma_scope_2_crosscoder"), "--json").output)
    assert (none["steering"]["ops"], none["site"], none["layers"]) == ([], None, [7, 13, 17, 22])
    said = run("inspect", place("gemma_scope_2_crosscoder")).output
    assert "layers 7, 13, 17, 22" in said
    assert "steering       none" in said


def test_inspect_takes_a_catalog_name_and_tells_its_licence():
    found = json.loads(run("inspect", "foghorn", "--json").output)
    assert (found["site"]["layer"], found["licence"]) == (3, "Apache-2.0")


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: cc-by-4.0", "cc-by-4.0"),
        ("license: other\nlicense_name: llama3", "llama3"),
        ("tags: [sae]", None),
    ],
)
def test_a_licence_is_read_from_the_repositorys_card(front, licence, tmp_path):
    folder = tmp_path / "models--a--b" / "snapshots" / ("a" * 40) / "layer_3" / "sae"
    folder.mkdir(parents=True)
    (tmp_path / "README.md").write_text("---\nlicense: none-of-its-business\n---\n")
    assert stated_licence(folder) is None, "what lies above the repository is not asked"
    (folder.parents[1] / "README.md").write_text(f"---\n{front}\n---\n# An SAE\nlicense: mit\n")
    assert stated_licence(folder) == licence


def test_another_projects_licence_is_none_of_a_folders(tmp_path):
    """Outside the hub's cache nobody knows where a repository begins."""
    folder = tmp_path / "project" / "models" / "sae"
    folder.mkdir(parents=True)
    (tmp_path / "project" / "README.md").write_text("---\nlicense: gpl-3.0\n---\n")
    assert stated_licence(folder) is None
    (folder.parent / "README.md").write_text("---\nlicense: mit\n---\n")
    assert stated_licence(folder) == "mit"


def test_a_missing_scale_or_k_can_be_given_on_the_line(tmp_path):
    scaled = place("saelens_v5_expected_average_only_in")
    assert "norm_scaling_factor" in run("inspect", scaled).output
    assert run("inspect", scaled, "--norm-scaling-factor", "2.5").exit_code == 0
    save_file({"x": expected("goodfire_r1_tied")["x"]}, tmp_path / "x.safetensors")
    files = ("-i", tmp_path / "x.safetensors", "-o", tmp_path / "y.safetensors")
    assert "without a threshold" in run("encode", place("goodfire_r1_tied"), *files).output
    assert run("encode", place("goodfire_r1_tied"), *files, "--k", 5).exit_code == 0
    acts = load_file(tmp_path / "y.safetensors")["acts"]
    torch.testing.assert_close(acts, expected("goodfire_r1_tied")["acts"])


def test_a_dictionary_that_is_none_is_refused_in_one_sentence(tmp_path):
    shutil.copytree(place("saelens_v6_topk"), tmp_path / "sae")
    (tmp_path / "sae" / "cfg.json").write_text("{")
    for name in (tmp_path, tmp_path / "sae", tmp_path / "none", "no-such-name"):
        refused = run("inspect", name)
        assert refused.exit_code == 1
        assert refused.output.startswith("steerdeck: ")
        assert "Traceback" not in refused.output


def test_what_may_not_be_read_and_a_k_that_none_can_be_are_sentences(tmp_path, monkeypatch):
    for k in ("0", "-1"):
        refused = run("inspect", place("saelens_v6_topk"), "--k", k)
        assert refused.exit_code == 2
        assert "Invalid value for" in refused.output

    def locked(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", locked)
    refused = run("inspect", tmp_path)
    assert refused.exit_code == 1
    assert "cannot be used: Permission denied" in " ".join(refused.output.split())
    assert "Traceback" not in refused.output


def test_about_is_plain_json_for_everything_published(tmp_path):
    folder = changed("saelens_v5_standard", tmp_path, "cfg.json", hook_name="blocks.8.hook_mlp_in")
    for path in (folder, place("goodfire_r1_tied"), place("circuit_tracer_clt")):
        told = about(open_coder(path), licence="mit")
        assert json.loads(json.dumps(told)) == told
        assert told["licence"] == "mit"
        assert ("add" in told["steering"]["ops"]) == ("goodfire" in str(path))
        assert told["steering"]["why_not"]
