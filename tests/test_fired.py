"""What fires: the largest of each vector and of each feature are those of the whole encoding."""

from __future__ import annotations

import pytest
import torch

from dictionaries.fired import fired


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_it_says_of_all_activations_what_encode_does(
    architecture, make_dictionary, monkeypatch
) -> None:
    dictionary = make_dictionary(architecture=architecture)
    monkeypatch.setattr("dictionaries.dictionary.BLOCK", 5 * 4 * dictionary.info.d_in)
    x = torch.randn(9, dictionary.info.d_in, generator=torch.Generator().manual_seed(1))
    f = dictionary.encode(x)
    found = fired(dictionary, x, 3)
    torch.testing.assert_close(found.values, f.topk(3).values)
    torch.testing.assert_close(f.gather(1, found.ids), found.values)
    torch.testing.assert_close(found.most, f.amax(0))
    torch.testing.assert_close(f[found.at, torch.arange(f.shape[1])], found.most)
    torch.testing.assert_close(found.mean, f.mean(0))
