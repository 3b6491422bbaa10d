"""What reads whole matrices, block by block: encode, decode, top and neighbours."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import small_sae
import torch
from small_sae import D_IN, D_SAE, write_sae

from dictionaries import memory
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary

folder = small_sae.folder  # fixture
counted = small_sae.counted  # fixture


def test_blocks_do_not_change_what_is_encoded_or_decoded(folder, monkeypatch):
    from dictionaries import dictionary as module

    x = torch.randn(2, 5, D_IN)
    f = open_dictionary(folder).encode(x)
    recon = open_dictionary(folder).decode(f, x)
    monkeypatch.setattr(module, "BLOCK", 4 * D_IN * 7)
    monkeypatch.setattr(module, "STRIDED", 4 * D_IN * 11)
    torch.testing.assert_close(open_dictionary(folder).encode(x), f)
    again = open_dictionary(folder).decode(f, x)
    torch.testing.assert_close(again, recon, atol=1e-4, rtol=1e-4)  # other order of summing
    assert f.shape == (2, 5, D_SAE)
    assert recon.shape == x.shape


def test_a_half_precision_residual_is_read_in_full_precision(folder):
    dictionary, x = open_dictionary(folder), torch.randn(4, D_IN).bfloat16()
    assert torch.equal(dictionary.encode(x), dictionary.encode(x.float()))


def test_topk_has_a_cutoff_and_loads_its_encoder_once(folder, counted):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "architecture": "topk"}))
    dictionary, x = open_dictionary(folder), torch.randn(3, 4, D_IN)
    cutoff = dictionary.cutoff(x)
    assert cutoff.shape == (3, 4, 1)
    counted.clear()
    f = dictionary.encode(x)
    assert counted == []
    z = open_dictionary(folder).rows(range(D_SAE))
    pre = x @ z.enc.T + z.gate
    assert ((pre > cutoff).sum(-1) == 7).all()
    assert torch.equal(f > 0, (pre > cutoff) & (pre > 0))
    assert open_dictionary(folder).info.k == 7


def test_a_topk_too_large_to_hold_is_streamed_to_the_same_activations(folder, monkeypatch):
    from dictionaries import dictionary as module

    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "architecture": "topk"}))
    x = torch.randn(3, 4, D_IN)
    wanted = open_dictionary(folder).encode(x)
    monkeypatch.setattr(module, "room", lambda device: 4 * D_IN * D_SAE - 1)
    monkeypatch.setattr(module, "STRIDED", 4 * D_IN * 13)
    large = open_dictionary(folder)
    torch.testing.assert_close(large.encode(x), wanted)
    with pytest.raises(DictionaryError, match=r"takes its whole encoder, 0\.0 GB.*'add'"):
        large.keep_encoder(x.device)


def test_the_memory_of_a_container_is_what_it_may_take(tmp_path, monkeypatch):
    """It sees all that its host has, and is killed for taking it."""
    limits, cpu = [tmp_path / "memory.max", tmp_path / "limit_in_bytes"], torch.device("cpu")
    monkeypatch.setattr(memory, "_LIMITS", limits)
    whole = memory.room(cpu)
    limits[0].write_text("max\n")
    limits[1].write_text(f"{2**63 - 4096}\n")
    assert memory.room(cpu) == whole
    for limit in limits:
        limit.write_text("4000000\n")
        assert memory.room(cpu) == 2_000_000
        limit.unlink()


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_the_top_features_are_those_of_the_whole_encode(architecture, folder, monkeypatch):
    from dictionaries import dictionary as module

    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "architecture": architecture}))
    monkeypatch.setattr(module, "STRIDED", 4 * D_IN * 7)
    dictionary, x = open_dictionary(folder), torch.randn(2, 5, D_IN)
    f = dictionary.encode(x)
    values, ids = dictionary.top(x, 6)
    torch.testing.assert_close(values, f.topk(6).values)
    torch.testing.assert_close(f.gather(-1, ids), values)
    assert dictionary.top(x, 10 * D_SAE)[0].shape == (2, 5, D_SAE)


def test_other_architectures_have_no_cutoff(folder):
    assert open_dictionary(folder).cutoff(torch.zeros(1, D_IN)) is None


def test_neighbours_are_the_nearest_decoder_directions(tmp_path, monkeypatch):
    from dictionaries import dictionary as module

    g = torch.Generator().manual_seed(2)
    W_dec = torch.randn(D_SAE, D_IN, generator=g)
    W_dec[123] = 5 * W_dec[7] + 0.01
    W_dec[200] = 0
    write_sae(tmp_path, W_dec=W_dec)
    unit = torch.nn.functional.normalize(W_dec, dim=-1)
    wanted = (unit @ unit[7]).sort(descending=True)
    for block in (4 * D_IN * 11, 2**20):
        monkeypatch.setattr(module, "BLOCK", block)
        found = open_dictionary(tmp_path).neighbours(7, 5)
        assert [i for i, _ in found] == wanted.indices[1:6].tolist()
        assert found[0][0] == 123
        torch.testing.assert_close(
            torch.tensor([c for _, c in found]), wanted.values[1:6], atol=1e-6, rtol=0
        )
    assert open_dictionary(tmp_path).neighbours(7, 0) == []
    assert len(open_dictionary(tmp_path).neighbours(7, 10_000)) == D_SAE - 1


def test_neighbours_are_looked_for_once_at_a_time_and_remembered(folder, monkeypatch):
    dictionary, scans, going = open_dictionary(folder), [], threading.Semaphore(1)
    wanted = open_dictionary(folder).neighbours(7, 5)
    real = dictionary.directions

    def directions():
        assert going.acquire(blocking=False), "two scans at once"
        scans.append(1)
        time.sleep(0.05)
        yield from real()
        going.release()

    monkeypatch.setattr(dictionary, "directions", directions)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: dictionary.neighbours(i, 5), [7, 8, 7, 7]))
    assert found[0] == found[2] == found[3] == wanted != found[1]
    assert len(scans) == 2
    found[0].clear()
    assert dictionary.neighbours(7, 5) == wanted
