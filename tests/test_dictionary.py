"""Laws of an opened dictionary: read on demand, the same everywhere, refused when damaged."""

import json
import mmap
import os
import random
import re
import struct
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from published import FIXTURES, copied, place
from safetensors.torch import save_file

from dictionaries import memory, tensors, torch_files
from dictionaries.containers import open_tensors
from dictionaries.dictionary import Info, Site
from dictionaries.edits import Norm
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_coder, open_dictionary, tensor_file
from dictionaries.formats import revision as revisions
from dictionaries.formats.revision import revision
from dictionaries.per_feature import OnDisk

D_IN, D_SAE = 24, 300


def write_sae(folder, **changes):
    """A small JumpReLU SAE in SAELens' format; returns its tensors."""
    g = torch.Generator().manual_seed(5)
    stored = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=g),
        "W_dec": torch.randn(D_SAE, D_IN, generator=g),
        "b_enc": torch.randn(D_SAE, generator=g),
        "b_dec": torch.randn(D_IN, generator=g),
        "threshold": torch.rand(D_SAE, generator=g),
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "hook_name": "blocks.3.hook_resid_post", "k": 7}
    (folder / "cfg.json").write_text(json.dumps(config))
    return stored


@pytest.fixture
def folder(tmp_path):
    write_sae(tmp_path / "sae")
    return tmp_path / "sae"


@pytest.fixture
def counted(monkeypatch):
    """Bytes that `dictionaries` reads from files, by place: [(offset, length)]."""
    reads = []
    real = os.preadv

    def preadv(fd, buffers, offset):
        reads.append((offset, sum(map(len, buffers))))
        return real(fd, buffers, offset)

    monkeypatch.setattr(tensors.os, "preadv", preadv)
    return reads


# --- reading parts of tensors


KINDS = ["safetensors", "npz", "fortran npz", "pt", "transposed pt"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(k, d) for k in KINDS for d in DTYPES if not ("npz" in k and d is torch.bfloat16)],
)
def test_rows_columns_and_blocks_are_those_of_the_whole(kind, dtype, tmp_path):
    whole = torch.randn(37, 53).to(dtype)
    path = tmp_path / f"file.{kind.split()[-1]}"
    if kind == "safetensors":
        save_file({"other": torch.zeros(3), "m": whole}, path)
    elif kind.endswith("pt"):
        torch.save({"m": whole.T.contiguous().T if "transposed" in kind else whole}, path)
    else:
        array = np.asfortranarray(whole.numpy()) if "fortran" in kind else whole.numpy()
        np.savez(path, first=np.zeros(5), m=array)
    stored, wanted = open_tensors(path)["m"], whole.float()
    assert stored.shape == (37, 53)
    assert torch.equal(stored.load(), wanted)
    for axis, oriented in ((0, wanted), (1, wanted.T)):
        for ids in ([], [0], [5, 5, 2], list(range(30, 10, -3))):
            picked = stored.gather(axis, ids)
            assert torch.equal(picked, oriented[ids])
            assert picked.dtype is torch.float32
        assert torch.equal(stored.block(axis, 4, 31), oriented[4:31])


def test_a_torch_file_is_read_like_any_other_and_not_through_its_map(tmp_path, counted):
    whole = torch.randn(40, 30)
    saved = {f"v{i}": torch.randn(30) for i in range(40)}  # many of one size: which is which?
    saved |= {"m": whole, "part": whole[7:19], "every other": whole[:, ::2], "empty": whole[:0]}
    torch.save(saved, tmp_path / "m.pt")
    stored = open_tensors(tmp_path / "m.pt")
    for name, tensor in saved.items():
        assert torch.equal(stored[name].load(), tensor), name
    mapped = {name for name, one in stored.items() if not isinstance(one, tensors.FileTensor)}
    assert mapped == {"every other", "empty"}
    counted.clear()
    stored["part"].block(0, 2, 3)
    assert [length for _, length in counted] == [4 * 30]


def test_a_torch_file_whose_places_cannot_be_told_is_read_through_its_map(tmp_path, monkeypatch):
    torch.save({"m": torch.randn(40, 30)}, tmp_path / "m.pt")
    (place,) = torch_files._data(tensors.File(tmp_path / "m.pt"))[4800]
    either = {4800: {place, place + mmap.PAGESIZE}}
    monkeypatch.setattr(torch_files, "_data", lambda file: either)
    stored = open_tensors(tmp_path / "m.pt")["m"]
    assert isinstance(stored, tensors.MappedTensor)


@pytest.mark.parametrize("buffer", [64, 4096, 2**20])
@pytest.mark.parametrize("gap", [1, 40, 4096])
def test_columns_are_gathered_whatever_the_buffer_and_gap(buffer, gap, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "BUFFER", buffer)
    monkeypatch.setattr(tensors, "GAP", gap)
    whole = torch.randn(19, 400)
    save_file({"m": whole}, tmp_path / "m.safetensors")
    stored = open_tensors(tmp_path / "m.safetensors")["m"]
    rng = random.Random(0)
    for _ in range(20):
        ids = [rng.randrange(400) for _ in range(rng.randint(1, 30))]
        assert torch.equal(stored.gather(1, ids), whole.T[ids])


def test_a_column_is_read_element_by_element_and_many_in_one_pass(tmp_path, counted):
    save_file({"m": torch.randn(50, 100_000)}, tmp_path / "m.safetensors")
    stored = open_tensors(tmp_path / "m.safetensors")["m"]
    counted.clear()
    stored.gather(1, [7])
    assert [length for _, length in counted] == [4] * 50
    counted.clear()
    stored.gather(1, [90_000, 7])
    assert [length for _, length in counted] == [4] * 100, "nothing between them is read"
    counted.clear()
    stored.gather(1, list(range(0, 100_000, 100)))
    assert len(counted) == 50, "neighbours less than GAP apart are read in one go"
    assert sum(length for _, length in counted) <= 50 * 100_000 * 4


# --- damaged files


def header_of(content):
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, data):
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


DAMAGES = {
    "cut in the data": (lambda c: c[:-10], "was cut short: tensor"),
    "cut in the header": (lambda c: c[:40], "no whole safetensors file"),
    "cut to nothing": (lambda c: b"", "no whole safetensors file"),
    "a header too long": (lambda c: struct.pack("<Q", 2**60) + c[8:], "should be 1152921504606"),
    "a header of noise": (lambda c: c[:8] + b"\xff" * (len(c) - 8), "not safetensors JSON"),
    "a header that is a list": (lambda c: with_header([1], b""), "not safetensors JSON"),
    "nested without end": (lambda c: struct.pack("<Q", 90_000) + b"[" * 90_000, "not safetensors"),
    "a web page": (lambda c: b"<!doctype html><html>" * 40, "no whole safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_safetensors_file_is_refused(damage, folder):
    file = folder / "sae_weights.safetensors"
    change, said = DAMAGES[damage]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(folder)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"data_offsets": [0, 10**15]}, "was cut short"),
        ({"data_offsets": [-8, 40]}, "not safetensors JSON"),
        ({"data_offsets": [40, 8]}, "was cut short"),
        ({"data_offsets": [0, 4]}, "contradicts itself"),
        ({"data_offsets": "ab"}, "not safetensors JSON"),
        ({"data_offsets": [0.0, 8.0]}, "not safetensors JSON"),
        ({"dtype": "F4"}, "type 'F4'; known are F64"),
        ({"dtype": "F64"}, "contradicts itself"),
        ({"shape": [-1, -300]}, "not safetensors JSON"),
        ({"shape": 300}, "not safetensors JSON"),
        ({"shape": [2**40, 2**40]}, "contradicts itself"),
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(entry, said, folder):
    file = folder / "sae_weights.safetensors"
    header, data = header_of(file.read_bytes())
    header["b_enc"] = {**header["b_enc"], **entry}
    file.write_bytes(with_header(header, data))
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(folder)


def test_a_file_that_shrinks_while_in_use_ends_in_a_sentence(folder):
    dictionary = open_dictionary(folder)
    os.truncate(folder / "sae_weights.safetensors", 2000)
    with pytest.raises(DictionaryError, match="cut short, or changed while in use"):
        dictionary.rows([299])


@pytest.mark.parametrize("cut", [10, 1000, 20_000])
def test_a_damaged_npz_is_refused(cut, tmp_path):
    np.savez(tmp_path / "a.npz", m=np.zeros((60, 60)))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:cut])
    with pytest.raises(DictionaryError, match=r"no whole \.npz"):
        open_tensors(tmp_path / "a.npz")


def test_an_npz_of_objects_is_refused_without_unpickling(tmp_path):
    np.savez(tmp_path / "a.npz", m=np.array([{}], dtype=object))
    with pytest.raises(DictionaryError, match=r"type '\|O'"):
        open_tensors(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("saelens_v6_jumprelu", "sae_weights.safetensors"),
        ("gemma_scope_1_res", "params.npz"),
        ("qwen_scope", "layer5.sae.pt"),
    ],
)
def test_of_a_damaged_file_comes_a_dictionary_or_a_sentence(name, file, tmp_path):
    """A few bytes changed, most of them where the file says what lies where."""
    path = copied(name, tmp_path / place(name).relative_to(FIXTURES))
    damaged = path if path.is_file() else path / file
    whole, rng = damaged.read_bytes(), random.Random(1)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 3, 8])):
            at = rng.choice([rng.randrange(300), rng.randrange(1200), -1 - rng.randrange(900)])
            content[at] = rng.randrange(256)
        damaged.write_bytes(content)
        with suppress(DictionaryError):
            open_coder(path).coded(torch.zeros(1, 16))


PICKLES = {
    "junk": b"\x80\x02}q\x00(X",
    "nothing to pop": b"0.",
    "no memo": b"\x80\x02h\x05.",
    "an item of None": b"\x80\x02Ns.",
    "a call of None": b"\x80\x02NNR.",
    "a state of None": b"\x80\x02NNb.",
    "a storage called None": b"\x80\x02NQ.",
    "a tensor of None": b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.",
    "code": b"cos\nsystem\n.",
    "a number": b"\x80\x02K\x05.",
}


@pytest.mark.parametrize("pickled", PICKLES.values(), ids=PICKLES)
def test_a_pickle_that_is_none_is_a_sentence(pickled, tmp_path, folder):
    """And it does not keep its neighbours from being found."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(DictionaryError, match=r"a\.pt "):
        open_tensors(tmp_path / "a.pt")
    with pytest.raises(DictionaryError, match=f"holds 1: name one, such as {folder.name}"):
        open_dictionary(tmp_path)
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    torch.save(dict.fromkeys(names, torch.zeros(2, 2)), tmp_path / "layer3.sae.pt")
    with pytest.raises(DictionaryError, match=r"holds 2: name one, such as a\.pt, layer3"):
        open_dictionary(tmp_path)


def test_other_kinds_of_file_hold_no_tensors(tmp_path):
    with pytest.raises(DictionaryError, match=r"not one of \.safetensors, \.npz"):
        open_tensors(tmp_path / "weights.bin")
    with pytest.raises(DictionaryError, match="cannot be opened: No such file"):
        open_tensors(tmp_path / "missing.safetensors")


# --- on demand


def test_steering_one_feature_of_a_huge_dictionary_reads_a_sliver_of_it(tmp_path, counted):
    """16 GB of weights (a sparse file): opening and reading one feature takes kilobytes of W."""
    d_in, d_sae = 2048, 1_100_000
    sizes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    header, end = {}, 0
    for name, shape in sizes.items():
        stop = end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, stop]}
        end = stop
    file = tmp_path / "sae_weights.safetensors"
    file.write_bytes(with_header(header, b""))
    os.truncate(file, file.stat().st_size + end)
    (tmp_path / "cfg.json").write_text('{"hook_name": "blocks.3.hook_resid_post"}')

    dictionary = open_dictionary(tmp_path)
    assert sum(length for _, length in counted) < 2 * 4 * d_in, "the header and b_dec"
    counted.clear()
    dictionary.rows([777_777])
    assert sum(length for _, length in counted) == 2 * 4 * d_in + 4, "its rows and its bias"
    counted.clear()
    dictionary.rows([777_777, 777_777])
    assert counted == [], "rows are kept"


def test_kept_rows_are_few_and_the_oldest_go(folder, counted):
    dictionary = open_dictionary(folder)
    dictionary._room = 3
    dictionary.rows([1, 2, 3])
    dictionary.rows([1])
    dictionary.rows([4])  # 2 is the oldest now
    counted.clear()
    dictionary.rows([1, 3, 4])
    assert counted == []
    dictionary.rows([2])
    assert counted != []


def test_rows_come_in_the_order_asked_for_and_may_repeat(folder):
    dictionary = open_dictionary(folder)
    rows = dictionary.rows([250, 0, 250])
    for at, i in enumerate([250, 0, 250]):
        alone = dictionary.rows([i])
        for name in ("enc", "gain", "offset", "gate", "threshold", "dec"):
            assert torch.equal(getattr(rows, name)[at : at + 1], getattr(alone, name))
    none = dictionary.rows([])
    assert (none.enc.shape, none.gate.shape) == ((0, D_IN), (0,))


@pytest.mark.parametrize("ids", [[300], [-1], [0, 10**30]])
def test_an_id_that_is_not_there_is_refused(ids, folder):
    with pytest.raises(DictionaryError, match=f"has features 0 to 299, not {ids[-1]}"):
        open_dictionary(folder).rows(ids)
    with pytest.raises(DictionaryError, match="has features 0 to 299"):
        open_dictionary(folder).neighbours(ids[-1])


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


def test_long_vectors_are_read_number_by_number_to_the_same_rows(folder, monkeypatch):
    wanted, x = open_dictionary(folder), torch.randn(5, D_IN)
    monkeypatch.setattr(tensor_file, "HELD", 10)
    lazy = open_dictionary(folder)
    assert isinstance(lazy._weights.gate, OnDisk)
    for ids in ([7], [299, 0, 7, 7], list(range(40, 60)), []):
        for name in ("enc", "gain", "offset", "gate", "threshold", "dec"):
            assert torch.equal(getattr(lazy.rows(ids), name), getattr(wanted.rows(ids), name))
    assert torch.equal(lazy.encode(x), wanted.encode(x))
    ids = torch.tensor([40, 90, 42])
    assert torch.equal(lazy.weights.gate[ids], wanted.weights.gate[ids])
    damaged = torch.zeros(D_SAE)
    damaged[41] = float("nan")
    write_sae(folder, threshold=damaged)
    lazy = open_dictionary(folder)
    lazy.rows([40])
    with pytest.raises(DictionaryError, match=r"'threshold'.*NaN or infinity at feature 41"):
        lazy.rows([40, 41])


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


def test_many_threads_read_the_same_rows(folder):
    dictionary, wrong = open_dictionary(folder), []
    wanted = open_dictionary(folder).rows(list(range(D_SAE)))
    dictionary._room = 20

    def read(seed):
        rng = random.Random(seed)
        for _ in range(30):
            ids = [rng.randrange(D_SAE) for _ in range(6)]
            if not torch.equal(dictionary.rows(ids).dec, wanted.dec[ids]):
                wrong.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what a dictionary says of itself


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


def test_the_examples_in_the_rooms_readme_run(monkeypatch, capsys):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    text = (root / "dictionaries" / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        exec(block, {})
    said = capsys.readouterr().out
    assert "jumprelu at layer 12 resid_post with 64 features" in said
    assert "1 Golden Gate Bridge 41.5" in said
