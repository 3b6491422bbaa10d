"""Help that helps: every command and option explains itself, and nothing heavy is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cli_runner
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from server.cli import app

_clean = cli_runner._clean  # fixture

REPO = Path(__file__).resolve().parents[1]

COMMANDS = ["serve", "chat", "features", "presets", "dictionaries", "ui", "version"]
PARTS = {
    "features": ["search", "show", "import"],
    "presets": ["list", "show", "import", "export", "delete"],
    "dictionaries": ["inspect", "encode", "pack"],
}


def test_help_names_every_command():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(f" {command} " in shown.output for command in COMMANDS)


@pytest.mark.parametrize(
    "command", [[c] for c in COMMANDS] + [[c, p] for c, parts in PARTS.items() for p in parts]
)
def test_every_command_explains_itself_and_its_options(command):
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    for line in shown.output.splitlines():
        if "--" in line and "│" in line:
            words = line.replace("│", " ").split()
            assert any(word[0].isupper() or word.endswith(".") for word in words), line
    if command[0] in ("serve", "chat", "ui") or command[-1] in ("search", "import", "export"):
        assert "Example" in shown.output
        assert f"steerdeck {' '.join(command)}" in shown.output


def commands(command):
    yield command
    for part in getattr(command, "commands", {}).values():
        yield from commands(part)


@pytest.mark.parametrize("command", [*commands(get_command(app))], ids=lambda one: one.name)
def test_no_brackets_of_a_help_are_lost_as_markup(command):
    for text in (command.help, *(getattr(one, "help", None) for one in command.params)):
        assert not re.findall(r"(?<!\\)\[(?!/?bold\])[a-z#/@]\S*", text or "")


def test_the_help_of_encode_says_the_shapes():
    shown = CliRunner().invoke(app, ["dictionaries", "encode", "--help"]).output
    told = " ".join(shown.replace("│", " ").split())
    for words in ("a tensor x [n, d_in].", "recon [n, d_out], float32", "take [n, layers, d_in]."):
        assert words in told


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['steerdeck', 'serve', '--help']\n"
        "from server.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'fastapi', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
