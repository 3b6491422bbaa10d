"""What `steerdeck serve` refuses, says and listens on, before there is a process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from functools import partial

import cli_runner
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from server.cli import app
from server.cli.machine import bind, physical_cores, url_of
from server.cli.serve import _hint
from server.mount import NoPage, build_page, page_alone
from server.settings import Settings

_clean = cli_runner._clean  # fixture


class TestServe:
    def test_a_taken_port_is_a_sentence(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = CliRunner().invoke(app, ["serve", "--port", str(port)])
        assert said.exit_code == 1
        assert f"port {port} is taken" in said.stderr

    async def test_a_small_chunk_leaves_at_once_on_every_connection(self):
        """No 40 ms for Nagle's algorithm and the caller's delayed acknowledgement."""
        undelayed = []

        async def accept(_, writer):
            accepted = writer.get_extra_info("socket")
            undelayed.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = bind("127.0.0.1", 0)
        async with await asyncio.start_server(accept, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()
        assert undelayed == [1]

    @pytest.mark.parametrize("command", ["serve", "ui"])
    def test_a_port_that_is_none_is_refused(self, command):
        said = CliRunner().invoke(app, [command, "--port", "70000"])
        assert said.exit_code == 2
        assert "--port" in said.stderr

    def test_only_who_can_do_without_the_page_is_told_to(self, monkeypatch):
        both = (
            ("page", build_page, True),
            ("alone", partial(page_alone, settings=Settings()), False),
        )
        for name, build, served in both:
            monkeypatch.setitem(sys.modules, f"ui.{name}", None)
            with pytest.raises(NoPage) as told:
                build("http://127.0.0.1:1")
            assert ("--no-ui" in str(told.value)) is served

    @pytest.mark.parametrize("keys", ["", "secret"])
    def test_what_to_try_first_brings_the_key_that_is_wanted(self, keys):
        hint = _hint(Settings(api_keys=keys), "http://x")
        curl, chat = hint.splitlines()[1:]
        assert ("Bearer YOUR_KEY" in curl) is ("STEERDECK_API_KEY=YOUR_KEY " in chat) is bool(keys)

    def test_an_open_address_without_a_key_is_refused(self):
        said = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "0"])
        assert said.exit_code == 1
        assert "STEERDECK_API_KEYS" in said.stderr

    def test_every_option_is_a_setting(self):
        options = {option.name for option in get_command(app).commands["serve"].params}
        assert options <= {*Settings.model_fields}

    def test_wrong_options_are_named(self):
        said = CliRunner().invoke(app, ["serve", "--dtype", "int3", "--max-rows", "0"])
        assert said.exit_code == 2
        assert "--dtype" in said.stderr
        assert "--max-rows" in said.stderr

    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("127.0.0.1", "http://127.0.0.1:80"),
            ("0.0.0.0", "http://127.0.0.1:80"),
            ("::", "http://[::1]:80"),
            ("::1", "http://[::1]:80"),
            ("fd00::1", "http://[fd00::1]:80"),
            ("deck.example", "http://deck.example:80"),
        ],
    )
    def test_the_printed_address_is_one_a_browser_can_open(self, host, url):
        assert url_of(host, 80) == url

    def test_cores_are_counted(self):
        assert 1 <= physical_cores() <= (os.cpu_count() or 1)
