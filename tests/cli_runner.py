"""The command line as tests run it: without this machine's settings, and against a live server."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from server.cli import app


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith("STEERDECK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(live, monkeypatch):
    """A client command against the live server."""
    monkeypatch.setenv("STEERDECK_URL", live.url)

    def run(*arguments, **options):
        return CliRunner().invoke(app, list(arguments), **options)

    return run


def dictionaries(*arguments):
    """A command of `steerdeck dictionaries`."""
    return CliRunner().invoke(app, ["dictionaries", *map(str, arguments)])
