"""The README keeps its word: its blocks run, and what it names is there.

A block runs when the line before its fence is `<!-- test: run, expects "pattern" -->`, against a
real server on a free port, which takes the place of the README's http://127.0.0.1:8000.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from hosting import REPO, serving
from typer.testing import CliRunner

from server.cli import app

README = (REPO / "README.md").read_text(encoding="utf-8")
ROOMS = ("server", "ui", "dictionaries")
ADDRESS = "http://127.0.0.1:8000"
BLOCK = re.compile(
    r'^<!-- test: run, expects "(?P<expects>[^"]+)" -->\n'
    r"```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = [(m["language"], m["code"], m["expects"]) for m in BLOCK.finditer(README)]
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")  # it may wrap, and ends with its paragraph
PAGES = [*REPO.glob("*.md"), *(page for room in ROOMS for page in (REPO / room).rglob("*.md"))]
FOGHORN = REPO / "dictionaries" / "foghorn" / "model" / "config.json"


def pieces(page):
    """The code of a page: each line of its blocks, and what is inline."""
    lines = [line for block in FENCED.findall(page) for line in block.splitlines()]
    return [*lines, *(" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", page)))]


def command(piece):
    """The subcommand that a piece of code calls, None for none."""
    parts = "features |presets |dictionaries |make "
    found = re.search(rf"\bsteerdeck ((?:{parts})?[a-z]+)", piece)
    return found[1] if found else "serve" if "make serve" in piece else None


def options(piece):
    return re.findall(r"(?<![\w-])--[a-z][a-z-]+", piece)


def offers(told, option):
    return re.search(rf"{option}(?![\w-])", told) is not None


@pytest.fixture(scope="module")
def url():
    if not FOGHORN.exists():
        pytest.skip("foghorn is not in this checkout")
    with serving("foghorn") as server:
        yield server.url


def run(command, **settings):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=REPO,
        env={**os.environ, "PATH": path, "NO_COLOR": "1", **settings},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_has_blocks_to_run():
    assert {language for language, _, _ in BLOCKS} == {"sh", "python"}


@pytest.mark.parametrize(("language", "code", "expects"), BLOCKS)
def test_a_block_of_the_readme_runs(url, language, code, expects):
    if language == "sh" and "curl" in code and not shutil.which("curl"):
        pytest.skip("no curl here")
    code = code.replace(ADDRESS, url)
    command = ["bash", "-euo", "pipefail"] if language == "sh" else [sys.executable]
    printed = run([*command, "-c", code], STEERDECK_URL=url)
    assert re.search(expects, printed), printed


def test_the_comparison_that_is_shown_compares_something(url):
    page = (REPO / "server" / "README.md").read_text(encoding="utf-8")
    body = re.search(r"/v1/compare [^\n]* -d '(.*?)'\n```", page, re.DOTALL)[1]
    ask = urllib.request.Request(
        f"{url}/v1/compare", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(ask) as response:
        variants = json.load(response)["variants"]
    said = [one["message"]["content"] for one in variants]
    assert len({*said}) == len(said), said


def test_the_page_is_at_the_address_the_readme_names(url):
    assert ADDRESS in README
    with urllib.request.urlopen(f"{url}/") as response:
        assert response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    gone = [link for link in links if ":" not in link and not (page.parent / link).exists()]
    assert not gone


def test_every_make_target_exists():
    code = "\n".join(pieces(README))
    targets = set(re.findall(r"(?<!steerdeck )\bmake ([a-z]+)", code))
    assert {"serve", "test", "bench"} <= targets
    for target in targets:
        run(["make", "--dry-run", target])


def test_the_port_reaches_the_server():
    assert "--port 9000" in run(["make", "--dry-run", "serve", "PORT=9000"])


def test_every_subcommand_and_option_exists():
    helps = {}
    for name in {*map(command, pieces(README))} - {None}:
        result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, f"steerdeck {name}"
        helps[name] = result.output
    assert {"serve", "chat", "features", "presets"} <= {name.split()[0] for name in helps}
    for piece in pieces(README):
        own = command(piece)
        for option in options(piece):
            among = [helps[own]] if own else helps.values()
            assert any(offers(told, option) for told in among), piece


def test_code_that_wraps_is_read_whole_and_an_option_is_one_of_its_command():
    block = '```sh\nmake serve ARGS="--host `h`"\n```'
    found = pieces(f"See `steerdeck chat\n--url X`, 4` wide.\n\n{block}\n`--max`\n")
    assert found == ['make serve ARGS="--host `h`"', "steerdeck chat --url X", "--max"]
    assert [*map(command, found)] == ["serve", "chat", None]
    assert [*map(options, found)] == [["--host"], ["--url"], ["--max"]]
    assert offers("--max-rows  INTEGER", "--max-rows")
    assert not offers("--max-rows  INTEGER", "--max")
