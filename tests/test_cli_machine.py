"""What a server takes of the machine it finds: processors, and what other machines are like."""

from __future__ import annotations

import os

import pytest
import torch
from typer.testing import CliRunner

from dictionaries.making.arithmetic import has_bfloat16_units
from server.cli import app, machine
from server.engine.cache import SlotCache
from server.settings import read_settings

MISSING = ("/none/quota", "/none/period")


@pytest.mark.parametrize(
    ("said", "cores"),
    [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 8), ("6400000 100000", 8)],
)
def test_a_containers_quota_is_kept(monkeypatch, tmp_path, said, cores) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(said)
    monkeypatch.setattr(machine, "_QUOTAS", ((str(path),), MISSING))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000, 1008)), raising=False)
    assert machine.physical_cores() == cores


def test_a_quota_is_found_in_both_versions_of_control_groups(monkeypatch, tmp_path) -> None:
    for name, said in (("quota", "200000"), ("period", "100000")):
        (tmp_path / name).write_text(said)
    old = (str(tmp_path / "quota"), str(tmp_path / "period"))
    monkeypatch.setattr(machine, "_QUOTAS", (MISSING, old))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000, 1008)), raising=False)
    assert machine.physical_cores() == 2
    (tmp_path / "quota").write_text("-1")  # none
    assert machine.physical_cores() == 8


@pytest.mark.parametrize(
    "command",
    [
        ("serve",),
        ("make", "label", "--cards", "x", "--base-url", "http://127.0.0.1:1", "--model", "y"),
        ("dictionaries", "inspect", "x"),
    ],
)
def test_what_reads_files_says_that_windows_needs_wsl(monkeypatch, command) -> None:
    monkeypatch.setattr(machine.sys, "platform", "win32")
    done = CliRunner().invoke(app, list(command))
    assert done.exit_code == 1
    assert "WSL" in done.output


def test_an_address_that_a_platform_sets_as_the_port_is_none(monkeypatch) -> None:
    monkeypatch.setenv("STEERDECK_PORT", "tcp://10.96.12.7:8000")
    assert read_settings().port == 8000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slots_take_memory_as_they_are_written(dtype) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as said:
            return int(said.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    token = torch.ones(1, 4, 1, 64, dtype=dtype)
    before = resident()
    keys, values = SlotCache(64, 4096).layer(0, token, token)
    assert keys.shape == values.shape == (64, 4, 4096, 64)
    assert keys.data_ptr() % 64 == values.data_ptr() % 64 == 0
    keys[3, :, :100] = token
    assert resident() - before < keys.nbytes // 4
    assert keys[3].sum() == 100 * token.sum()
    assert not keys[4].any()


def test_an_older_torch_that_knows_no_capabilities_has_none(monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_bfloat16_units()
