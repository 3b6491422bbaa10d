"""The packed layout: the same dictionary bit for bit, whatever it was and however it got there."""

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import FIXTURES, opened, place
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dictionaries import catalog, tensors
from dictionaries import pack as packing
from dictionaries.about import stated_licence
from dictionaries.beside import presets_beside
from dictionaries.edits import FeatureRows
from dictionaries.errors import DictionaryError
from dictionaries.fit import expected_l0
from dictionaries.formats import open_dictionary, packed, tensor_file
from dictionaries.pack import pack
from server.cli import app
from server.presets import read_builtin

REPO = Path(__file__).resolve().parents[1]
D_IN, D_SAE = 24, 300
IDS = [[7], [299, 0, 7, 7], list(range(40, 60)), []]


def openable():
    """Every fixture that opens to be steered with, but transcoders, which the layout has not."""
    for fixture in sorted(p.name for p in FIXTURES.iterdir()):
        try:
            dictionary = opened(fixture)
        except (DictionaryError, KeyError):  # no dictionary at all has no repository
            continue
        if not dictionary.info.reads:
            yield pytest.param(dictionary, id=fixture)


def test_a_transcoder_is_not_packed_into_less_than_it_is(tmp_path):
    for fixture in ("saelens_v6_skip_transcoder", "gemma_scope_2_transcoder"):
        with pytest.raises(DictionaryError, match=r"cannot be packed: its (d_out|reads) is"):
            pack(open_dictionary(place(fixture)), tmp_path / fixture)


def same(one: FeatureRows, other: FeatureRows) -> bool:
    names = ("enc", "gain", "offset", "gate", "threshold", "dec")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def write_sae(folder, dtype=torch.float32, **changes):
    g = torch.Generator().manual_seed(5)
    stored = {
        "W_enc": torch.randn(D_IN, D_SAE, generator=g).to(dtype),
        "W_dec": torch.randn(D_SAE, D_IN, generator=g).to(dtype),
        "b_enc": torch.randn(D_SAE, generator=g),
        "b_dec": torch.randn(D_IN, generator=g),
        "threshold": torch.rand(D_SAE, generator=g),
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "hook_name": "blocks.3.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(config))
    return open_dictionary(folder)


@pytest.fixture
def source(tmp_path):
    return write_sae(tmp_path / "sae")


@pytest.mark.parametrize("dictionary", list(openable()))
def test_every_format_packs_to_the_same_dictionary(dictionary, tmp_path):
    pack(dictionary, tmp_path / "packed")
    again = open_dictionary(tmp_path / "packed")
    told = {"format": "packed", "packed_from": dictionary.info.revision}
    assert again.info == replace(dictionary.info, revision=again.info.revision, **told)
    ids = [i % dictionary.info.d_sae for i in (3, 17, 0, 41, 40, 17)]
    assert same(again.rows(ids), dictionary.rows(ids))
    for (_, one), (_, other) in zip(again.directions(), dictionary.directions(), strict=True):
        assert torch.equal(one, other)
    x = 3 * torch.randn(5, dictionary.info.d_in)
    f = torch.rand(5, dictionary.info.d_sae)
    assert torch.equal(again.decode(f, x), dictionary.decode(f, x))
    if dictionary.info.reads_exactly:
        assert torch.equal(again.encode(x), dictionary.encode(x))


@pytest.mark.parametrize("held", [10, 10**6], ids=["long vectors", "short vectors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_rows_of_every_type_stay_what_they_are_in_tiles_of_any_size(
    dtype, held, tmp_path, monkeypatch
):
    monkeypatch.setattr(tensor_file, "HELD", held)
    monkeypatch.setattr(packing, "TILE", 700)
    monkeypatch.setattr(packing, "FLUSHED", 900)
    dictionary = write_sae(tmp_path / "sae", dtype)
    assert pack(dictionary, tmp_path / "packed")
    again = open_dictionary(tmp_path / "packed")
    for ids in IDS:
        assert same(again.rows(ids), dictionary.rows(ids))
    size = 4 if dtype is torch.float64 else 2
    records = load_file(tmp_path / "packed" / "packed.safetensors")
    assert records["encoder"].shape == (D_SAE, D_IN * size + 2 * 4)
    assert records["decoder"].shape == (D_SAE, D_IN * size)


def test_a_feature_is_two_contiguous_reads(source, tmp_path, monkeypatch):
    pack(source, tmp_path / "packed")
    dictionary, reads, real = open_dictionary(tmp_path / "packed"), [], os.preadv

    def preadv(fd, buffers, offset):
        reads.append(sum(map(len, buffers)))
        return real(fd, buffers, offset)

    monkeypatch.setattr(tensors.os, "preadv", preadv)
    dictionary.rows([123])
    assert sorted(reads) == [4 * D_IN, 4 * D_IN + 8]
    reads.clear()
    dictionary.rows([5, 250, 7])
    assert len(reads) == 6


def test_a_machine_without_fdatasync_packs_too(source, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fdatasync")  # macOS
    pack(source, tmp_path / "packed")
    assert same(open_dictionary(tmp_path / "packed").rows([3]), source.rows([3]))


def test_many_threads_read_their_own_features(source, tmp_path):
    pack(source, tmp_path / "packed")
    dictionary, wanted, wrong = open_dictionary(tmp_path / "packed"), source.rows(range(300)), []

    def read(at):
        for i in range(at, D_SAE, 6):
            if not torch.equal(dictionary.weights.rows([i]).threshold, wanted.threshold[i : i + 1]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- Killed, and gone on

KILLED = """
import os, signal, sys
from pathlib import Path
from dictionaries import pack
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
pack.TILE, pack.FLUSHED = 2000, 6000

for share in 0.3, 0.6, 0.9:
    pid = os.fork()
    if not pid:
        def told(done, total):
            if done > share * total:
                os.kill(os.getpid(), signal.SIGKILL)
        pack.pack(open_dictionary({source!r}), Path({out!r}), told)
        os._exit(3)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    try:
        open_dictionary({out!r})
    except DictionaryError as error:
        assert "not packed to its end" in str(error), error
    else:
        raise AssertionError(share)
"""


def test_a_packing_killed_again_and_again_goes_on_and_ends_the_same(source, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(source, whole)
    code = KILLED.format(source=str(source.path), out=str(out))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = []
    assert pack(source, out, lambda done, total: told.append((done, total)))
    assert 0.5 < told[0][0] / told[0][1] < 0.95, "what was on disk is not written again"
    for name in ("packed.json", "packed.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(p.name for p in out.iterdir()) == ["packed.json", "packed.safetensors"]
    assert pack(source, out) is False, "it is there"


def test_a_file_cut_behind_the_journals_back_is_written_again(source, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(source, whole)
    pack(source, out)
    said = json.loads((out / "packed.json").read_text())
    size = (out / "packed.safetensors").stat().st_size
    (out / "packing.json").write_text(json.dumps({"manifest": said, "written": size}))
    os.truncate(out / "packed.safetensors", 5000)
    assert pack(source, out)
    assert (out / "packed.safetensors").read_bytes() == (whole / "packed.safetensors").read_bytes()


@pytest.mark.parametrize("left", [None, 5000], ids=["gone", "cut"])
def test_rows_that_are_gone_or_cut_are_packed_again(left, source, tmp_path):
    out = tmp_path / "out"
    pack(source, out)
    rows = out / "packed.safetensors"
    whole = rows.read_bytes()
    rows.unlink() if left is None else os.truncate(rows, left)
    assert pack(source, out), "it is not there"
    assert rows.read_bytes() == whole
    assert pack(source, out) is False


def test_what_another_process_has_just_packed_is_not_packed_again(source, tmp_path, monkeypatch):
    real, late = packing._opened, []

    def opened(folder):
        if not late:
            late.append(folder)
            pack(source, folder)
        return real(folder)

    monkeypatch.setattr(packing, "_opened", opened)
    assert pack(source, tmp_path / "out") is False


def test_a_file_system_without_locks_is_packed_on(source, tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(packing.fcntl, "flock", flock)
    assert pack(source, tmp_path / "out")
    assert same(open_dictionary(tmp_path / "out").rows([7]), source.rows([7]))


def test_another_dictionarys_folder_is_left_alone(source, tmp_path, monkeypatch):
    other = write_sae(tmp_path / "other", b_dec=torch.zeros(D_IN))
    pack(source, tmp_path / "out")
    before = (tmp_path / "out" / "packed.safetensors").read_bytes()
    with pytest.raises(DictionaryError, match="holds another packed dictionary"):
        pack(other, tmp_path / "out")
    assert (tmp_path / "out" / "packed.safetensors").read_bytes() == before


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DictionaryError, match=r"the disk has 0\.0 GB left"):
        pack(source, tmp_path / "out")
    assert (tmp_path / "out" / "packed.safetensors").stat().st_size == 0


def test_two_packers_do_not_write_one_file(source, tmp_path):
    def second(done, total):
        with pytest.raises(DictionaryError, match="packed by another process"):
            pack(source, tmp_path / "out")

    assert pack(source, tmp_path / "out", second)
    assert same(open_dictionary(tmp_path / "out").rows([7]), source.rows([7]))


# --- Damaged


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(packed=2), "version 2 of the packed layout; this one reads 1"),
        (lambda c: c.update(d_in="24"), "'d_in' should be a whole number"),
        (lambda c: c.update(d_sae=301), "wanted 301 records"),
        (lambda c: c.update(site={"layer": 3, "hook": "moon"}), "hook 'moon'; hooks are"),
        (lambda c: c.update(norm="loud"), "'loud' is not one of none"),
        (lambda c: c["records"]["encoder"].update(dtype="int3"), "'int3', not one of float32"),
        (lambda c: c["records"]["encoder"].update(dtype="float16"), "contradicts itself"),
        (lambda c: c["records"]["encoder"].update(numbers=["luck"]), "numbers are .'luck'."),
        (lambda c: c["records"]["encoder"].update(numbers=["gain", "threshold"]), "no 'gate'"),
        (lambda c: c["folding"].update(enc_scale=None), "'enc_scale' should be a number"),
        (lambda c: c["folding"].update(enc_scale=float("nan")), "'enc_scale' should be a number"),
        (lambda c: c["folding"].update(decoder_norm=7), "7 is not one of ignored"),
        (lambda c: c.pop("records"), "type is None, not one of"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change, said, source, tmp_path):
    pack(source, tmp_path / "out")
    path = tmp_path / "out" / packed.MANIFEST
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(DictionaryError, match=said):
        open_dictionary(tmp_path / "out")


def test_a_damaged_number_is_named_when_it_is_read(tmp_path):
    pack(write_sae(tmp_path / "sae"), tmp_path / "out")
    file = tmp_path / "out" / "packed.safetensors"
    content = bytearray(file.read_bytes())
    record = 4 * D_IN + 8
    end = len(content) - D_SAE * 4 * D_IN - (D_SAE - 42) * record
    content[end - 4 : end] = b"\x00\x00\xc0\x7f"
    file.write_bytes(content)
    dictionary = open_dictionary(tmp_path / "out")
    dictionary.rows([40])
    with pytest.raises(DictionaryError, match=r"threshold of feature 41 .* is NaN"):
        dictionary.rows([40, 41])


def test_a_packed_copy_says_what_its_sources_name_and_neighbours_said(source, tmp_path):
    (source.path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    folder = tmp_path / "average_l0_71"
    source.path.rename(folder)
    pack(open_dictionary(folder), tmp_path / "packed")
    packed = open_dictionary(tmp_path / "packed")
    assert expected_l0(packed) == 71
    assert stated_licence(packed.path) == "cc-by-4.0"
    assert not pack(open_dictionary(folder), tmp_path / "packed"), "it is all there"


# --- The command


def test_the_command_packs_with_cards_and_presets_and_says_so(source, tmp_path):
    (source.path / "cards.sqlite").write_bytes(b"cards")
    (source.path / "presets.json").write_text("[]")
    ask = ["dictionaries", "pack", str(source.path), "--out", str(tmp_path / "out")]
    first, second = CliRunner().invoke(app, ask), CliRunner().invoke(app, ask)
    assert first.exit_code == second.exit_code == 0
    assert "300 features of 24 numbers, from saelens; with cards.sqlite and" in first.stdout
    assert "it was packed already" in second.stdout
    assert (tmp_path / "out" / "cards.sqlite").read_bytes() == b"cards"
    assert same(open_dictionary(tmp_path / "out").rows([7]), source.rows([7]))
    assert (tmp_path / "out" / "presets.json").read_text() == "[]"
    wrong = CliRunner().invoke(app, [*ask[:2], str(tmp_path / "none" / "at all"), *ask[3:]])
    assert wrong.exit_code == 1
    assert "Traceback" not in wrong.output


def test_a_packed_dictionary_of_the_catalog_keeps_the_catalogs_presets(
    source, tmp_path, monkeypatch
):
    """Served by its folder it is no entry of the catalog's any more."""
    entry = replace(catalog.pairing("gpt2-small-jb"), dictionary=str(source.path))
    monkeypatch.setattr(catalog, "pairing", {"gpt2-small-jb": entry}.get)
    ask = ["dictionaries", "pack", "gpt2-small-jb", "--out", str(tmp_path / "out")]
    packed = CliRunner().invoke(app, ask)
    assert packed.exit_code == 0, packed.output
    assert "with presets.json" in packed.stdout
    beside = presets_beside(tmp_path / "out")
    assert [preset.name for preset in read_builtin(beside)] == ["cats", "golden-state", "apple"]
    beside.write_text("[]")
    assert CliRunner().invoke(app, ask).exit_code == 0
    assert beside.read_text() == "[]", "one's own stay"
