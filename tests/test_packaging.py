"""What an install brings: tested versions, and no torch for the client or the page alone; what the
image sets, and what CI does without a browser.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from hosting import REPO
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server.settings import Settings

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
PINS = {
    canonicalize_name(pin.name): pin
    for line in (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def wanted(extra: str) -> list[Requirement]:
    """Direct dependencies of an extra, those of `steerdeck[other]` put in its place."""
    found = []
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            found += [r for other in requirement.extras for r in wanted(other)]
        else:
            found.append(requirement)
    return found


def brought(extra: str) -> set[str]:
    """Every package an install with this extra brings, by the metadata installed here."""
    todo, seen = [*wanted(""), *wanted(extra)], set()
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:
            continue  # an extra that is not installed here
        for below in map(Requirement, lines):
            extras = requirement.extras or {""}
            if below.marker is None or any(below.marker.evaluate({"extra": e}) for e in extras):
                todo.append(below)
    return {name for name, _ in seen}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_dependency_is_pinned_to_a_version_it_allows(extra):
    for requirement in wanted(extra):
        (pin,) = PINS[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement} against {pin}"


def test_the_client_and_the_page_bring_no_torch():
    assert {"torch", "transformers", "gradio", "fastapi"}.isdisjoint(brought(""))
    assert {"torch", "transformers"}.isdisjoint(brought("ui"))
    assert {"torch", "transformers", "fastapi"} <= brought("server")


def test_options_behind_the_images_name_leave_it_within_reach(monkeypatch):
    """They take the place of CMD, so what it must listen on is not there."""
    dockerfile = (REPO / "Dockerfile").read_text(encoding="utf-8")
    assert dockerfile.rstrip().endswith('CMD ["serve"]')
    for name in [name for name in os.environ if name.startswith("STEERDECK_")]:
        monkeypatch.delenv(name)
    for name, value in re.findall(r"^    (STEERDECK_\w+)=(\S+)", dockerfile, re.M):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert f"EXPOSE {settings.port}" in dockerfile


@pytest.mark.parametrize("apt", ["exit 100", None])
def test_ci_tests_without_a_browser_where_none_can_be_had(tmp_path, apt):
    for tool in ("bash", "dirname", "mktemp", "timeout", "tee", "grep", "tail", "rm"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    scripts = {"id": "echo 0", "make": "echo 3 passed in 0.1s", "apt-get": apt}
    for name, script in scripts.items():
        if script is not None:
            (tmp_path / name).write_text(f"#!{tmp_path}/bash\n{script}\n")
            (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [tmp_path / "bash", REPO / ".ci" / "run"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "browser tests will be skipped" in done.stdout
    assert done.stdout.endswith("3 passed in 0.1s\n")
