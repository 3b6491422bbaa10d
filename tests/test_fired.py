"""What fires: the largest of each vector and of each feature are those of the whole encoding."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from dictionaries.fired import fired, over_texts
from dictionaries.weights import Weights

SIDES = ((4, 1, 9), (2, 6), ())  # texts of so many tokens


def in_blocks_of_five(dictionary, monkeypatch) -> None:
    for size in ("BLOCK", "STRIDED"):
        monkeypatch.setattr(f"dictionaries.dictionary.{size}", 5 * 4 * dictionary.info.d_in)


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_it_says_of_all_activations_what_encode_does(
    architecture, make_dictionary, monkeypatch
) -> None:
    dictionary = make_dictionary(architecture=architecture)
    in_blocks_of_five(dictionary, monkeypatch)
    x = torch.randn(9, dictionary.info.d_in, generator=torch.Generator().manual_seed(1))
    f = dictionary.encode(x)
    found = fired(dictionary, x, 3)
    torch.testing.assert_close(found.values, f.topk(3).values)
    torch.testing.assert_close(f.gather(1, found.ids), found.values)
    torch.testing.assert_close(found.most, f.amax(0))
    torch.testing.assert_close(f[found.at, torch.arange(f.shape[1])], found.most)
    torch.testing.assert_close(found.mean, f.mean(0))


@pytest.mark.parametrize(
    ("architecture", "room", "passes"),
    [("jumprelu", 2**30, 1), ("topk", 2**30, 1), ("topk", 0, 2)],
    ids=["jumprelu", "topk that is kept", "topk that is streamed"],
)
def test_texts_are_compared_as_each_alone_in_one_pass_for_all(
    architecture, room, passes, make_dictionary, monkeypatch
) -> None:
    """A streamed TopK takes one pass more, for who wins."""
    monkeypatch.setattr("dictionaries.dictionary.room", lambda _: room)
    dictionary = make_dictionary(architecture=architecture)
    in_blocks_of_five(dictionary, monkeypatch)
    made = torch.Generator().manual_seed(1)
    sides = [[torch.randn(n, dictionary.info.d_in, generator=made) for n in ns] for ns in SIDES]
    read, real = Counter(), Weights.encoder

    def encoder(self, start, stop):
        read[start] += 1
        return real(self, start, stop)

    with monkeypatch.context() as counted:
        counted.setattr(Weights, "encoder", encoder)
        told = over_texts(dictionary, sides)
    assert {*read} == {*range(0, dictionary.info.d_sae, 5)}
    assert {*read.values()} == {passes}
    for side, texts in zip(told, sides, strict=True):
        mean, share = torch.zeros(2, dictionary.info.d_sae)
        for text in texts:
            alone = fired(dictionary, text, 1)
            mean += alone.mean / len(texts)
            share += (alone.most > 0) / len(texts)
        assert torch.equal(side.mean, mean)
        assert torch.equal(side.share, share)
