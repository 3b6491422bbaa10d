"""How many features a token are to fire: what a dictionary's own files say of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from dictionaries.fit import expected_l0

D_SAE = 64


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("average_l0_71/cfg.json", {}, 71),
        ("cfg.json", {"l0": 60.5}, 60.5),
        ("config.json", {"trainer": {"k": 64}}, 64),
        ("hyperparams.json", {"top_k": 50}, 50),
        ("cfg.json", {"metadata": {"training_k": 20}}, 20),
        ("cfg.json", {"l0": "medium", "k": True}, None),
        ("cfg.json", {"l0": 10**400, "k": float("inf")}, None),
    ],
)
def test_what_is_expected_is_read_from_the_files(
    file, content, expected, make_dictionary, tmp_path
) -> None:
    dictionary = make_dictionary()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    dictionary.path = (tmp_path / file).parent
    assert expected_l0(dictionary) == expected


def test_a_config_nested_beyond_reading_tells_nothing(make_dictionary, tmp_path) -> None:
    dictionary = make_dictionary()
    dictionary.path = tmp_path
    (tmp_path / "config.json").write_text("[" * 1_000_000)
    assert expected_l0(dictionary) is None


def test_firing_frequencies_add_up_to_what_is_expected(make_dictionary) -> None:
    dictionary = make_dictionary()
    often = torch.rand(D_SAE, generator=torch.Generator().manual_seed(1))
    save_file({"sparsity": often.log10()}, dictionary.path / "sparsity.safetensors")
    assert expected_l0(dictionary) == pytest.approx(often.sum().item(), rel=1e-4)


def test_frequencies_that_cannot_be_read_tell_nothing(make_dictionary) -> None:
    dictionary = make_dictionary()
    file = dictionary.path / "sparsity.safetensors"
    save_file({"density": torch.zeros(D_SAE)}, file)
    assert expected_l0(dictionary) is None
    file.write_bytes(file.read_bytes()[:-10])
    assert expected_l0(dictionary) is None
    save_file({"sparsity": torch.full((D_SAE,), torch.nan)}, file)
    assert expected_l0(dictionary) is None
