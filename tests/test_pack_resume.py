"""Packing goes on where it was killed, and minds other packers, full disks and odd machines."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_sae
import torch
from small_sae import D_IN, same, write_sae

from dictionaries import pack as packing
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.pack import pack
from dictionaries.packed_layout import beginning, sides

source = small_sae.source  # fixture

REPO = Path(__file__).resolve().parents[1]


def test_a_machine_without_fdatasync_packs_too(source, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fdatasync")  # macOS
    pack(source, tmp_path / "packed")
    assert same(open_dictionary(tmp_path / "packed").rows([3]), source.rows([3]))


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


@pytest.mark.parametrize("free", [-1, 0])
def test_going_on_asks_the_disk_only_for_what_is_not_there(free, source, tmp_path, monkeypatch):
    """What was written behind the journal's last entry is written again, into the same room."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(source, whole)
    rows, said = (whole / "packed.safetensors").read_bytes(), (whole / "packed.json").read_text()
    written = len(beginning(source.weights)[0]) + 3 * sides(source.weights)[0].record
    out.mkdir()
    (out / "packed.safetensors").write_bytes(rows[:5000])
    journal = {"manifest": json.loads(said), "written": written}
    (out / "packing.json").write_text(json.dumps(journal))
    usage = type("Usage", (), {"free": len(rows) - 5000 + free})
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda folder: usage)
    if free < 0:
        with pytest.raises(DictionaryError, match=r"more than are there, and the disk has"):
            pack(source, out)
        assert (out / "packed.safetensors").stat().st_size == 5000, "nothing is lost by asking"
    else:
        assert pack(source, out)
        assert (out / "packed.safetensors").read_bytes() == rows


def test_two_packers_do_not_write_one_file(source, tmp_path):
    def second(done, total):
        with pytest.raises(DictionaryError, match="packed by another process"):
            pack(source, tmp_path / "out")

    assert pack(source, tmp_path / "out", second)
    assert same(open_dictionary(tmp_path / "out").rows([7]), source.rows([7]))
