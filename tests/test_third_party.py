"""A platform in a package of its own: found, loaded when named, run, and refused when broken.

The package is ``examples/zulip-platform``. It is laid into a directory as an installer would do it,
so that no test needs a network or a build tool.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tools import check_adapters

from holdfast.adapters import BUILT_IN
from holdfast.cli.exits import Exit
from holdfast.config import build
from holdfast.errors import ConfigError
from holdfast.lab.simulator import Simulator
from holdfast.platforms import ENTRY_POINTS, find
from tests.cli.gateway import LIMIT, Place

PACKAGE = Path(__file__).parents[1] / "examples/zulip-platform"

TELEGRAM = {"platform": "telegram", "token": "1:x"}
ZULIP = {"platform": "zulip", "url": "http://127.0.0.1:1", "email": "a@b.test", "api_key": "k"}


def install(target: Path, name: str, version: str, points: dict[str, str]) -> None:
    """Write what an installer leaves behind: metadata and entry points."""
    info = target / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    header = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(header, encoding="utf-8")
    lines = [f"[{ENTRY_POINTS}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def unimport(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module be new, and forgotten again after the test."""
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.delitem(sys.modules, module)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for packages, on the path of this process and of its children."""
    target = tmp_path / "site-packages"
    target.mkdir()
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setenv("PYTHONPATH", str(target))
    return target


@pytest.fixture
def zulip(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, installed there by what its own pyproject.toml says."""
    document = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
    (folder,) = document["tool"]["setuptools"]["packages"]["find"]["where"]
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE / folder, place, ignore=ignored, dirs_exist_ok=True)
    project = document["project"]
    points = project["entry-points"][ENTRY_POINTS]
    install(place, project["name"], project["version"], points)
    for module in ("holdfast_zulip", "holdfast_zulip.wire"):
        unimport(module, monkeypatch)
    return place


def document(**accounts: Any) -> dict[str, Any]:
    return {"accounts": accounts}


# -- a good one -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("zulip")
def test_it_is_imported_when_a_configuration_names_it_and_not_before(tmp_path: Path) -> None:
    assert "zulip" not in BUILT_IN
    assert "zulip" in metadata.entry_points(group=ENTRY_POINTS).names
    build(document(bot=TELEGRAM), tmp_path / "holdfast.toml")
    disabled = document(bot=TELEGRAM, tea={**ZULIP, "enabled": False})
    build(disabled, tmp_path / "holdfast.toml")
    assert "holdfast_zulip" not in sys.modules
    config = build(document(bot=TELEGRAM, tea=ZULIP), tmp_path / "holdfast.toml")
    assert config.accounts["tea"].adapter is sys.modules["holdfast_zulip"].Zulip


@pytest.mark.usefixtures("zulip")
def test_a_mistake_in_its_settings_is_told_like_any_other(tmp_path: Path) -> None:
    for key, value in (("url", "no address"), ("email", 7), ("emial", "a@b.test")):
        with pytest.raises(ConfigError, match=f"accounts.tea.*{key}"):
            build(document(tea={**ZULIP, key: value}), tmp_path / "holdfast.toml")


def test_a_platform_that_is_not_installed_is_unknown() -> None:
    with pytest.raises(ConfigError, match="unknown platform 'zulip'"):
        find("zulip", "here")


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.usefixtures("zulip")
async def test_it_is_checked_connects_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE / "tests"))
    unimport("zulip_server", monkeypatch)
    kind = importlib.import_module("zulip_server").ZulipServer
    desk = Place(tmp_path)
    server: Simulator
    async with kind() as server:
        desk.write(tea=server.account())
        assert await desk.command("check") == Exit.OK
        shown = capsys.readouterr().out
        assert "zulip" in shown
        assert "bot@example.test" in shown
        async with desk.gateway():
            await server.until(server.listening, LIMIT)
            server.say("hello")
            await server.until(lambda: bool(server.heard), LIMIT)
            assert server.heard[0].text == "echo: hello"
        desk.write(tea={**server.account(), "api_key": "another"})
        assert await desk.command("check") == Exit.FAILED
        assert "zulip_invalid_api_key" in capsys.readouterr().out


def test_it_keeps_the_rules_of_an_adapter() -> None:
    files = list((PACKAGE / "src/holdfast_zulip").glob("*.py"))
    assert [problem for file in files for problem in check_adapters.problems(file)] == []
    adapter = (PACKAGE / "src/holdfast_zulip/__init__.py").read_text(encoding="utf-8")
    assert len(adapter.splitlines()) < 200


@pytest.mark.slow
@pytest.mark.usefixtures("zulip")
def test_its_own_tests_pass_the_conformance_kit_included(tmp_path: Path) -> None:
    copy = shutil.copytree(PACKAGE, tmp_path / "package")
    shutil.rmtree(copy / "src")  # what is installed is tested
    table = tmp_path / "table.md"
    options = ["-q", "-p", "no:cacheprovider", "-p", "holdfast.conformance"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--conformance-table", str(table)],
        cwd=copy,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = table.read_text(encoding="utf-8")
    assert "| C01 | connect, receive, send | pass |" in written
    assert "| C19 | out of order | n/a" in written


def test_the_bench_of_the_contributors_page_is_that_of_the_package() -> None:
    page = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^ +ZULIP = Bench.*?^ +\)$", page, re.DOTALL | re.MULTILINE)
    bench = (PACKAGE / "tests/zulip_bench.py").read_text(encoding="utf-8").splitlines()
    there = iter(line.strip() for line in bench)
    quoted = [line.strip() for line in shown.splitlines() if line.strip() != "..."]
    assert len(quoted) > 10
    assert [line for line in quoted if line not in there] == []


# -- broken ones ----------------------------------------------------------------------------------

ADAPTER = """
from holdfast.adapter import Adapter, Health, Liveness, Settings, Traits


class Mute(Adapter):
    platform = "mute"
    Settings = Settings
    traits = Traits(liveness=Liveness("hope", 0.0), max_text=10)

    async def run(self, link): ...
    async def send(self, message): ...
    async def check(self): return Health()
    identity = "mute"


class Bare(Adapter): ...


def function(settings, tools): ...
"""


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ("holdfast_mute:Mute", "the adapter of 'mute' declares no proof of life"),
        ("holdfast_mute:function", "the entry point of 'mute' is not an Adapter"),
        ("holdfast_mute:Bare", "the adapter of 'mute' has no traits, Settings, check, identity"),
        ("holdfast_mute:Nobody", "the package of 'mute' can not be loaded: AttributeError"),
        ("holdfast_leaver:Mute", "the package of 'mute' can not be loaded: SystemExit: 78"),
        ("holdfast_nowhere:Mute", "the package of 'mute' can not be loaded: ModuleNotFoundError"),
    ],
)
async def test_a_broken_package_is_a_mistake_with_a_place(
    point: str,
    problem: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unimport("holdfast_mute", monkeypatch)
    (place / "holdfast_mute.py").write_text(ADAPTER, encoding="utf-8")
    (place / "holdfast_leaver.py").write_text("raise SystemExit(78)\n", encoding="utf-8")
    install(place, "holdfast-mute", "1.0", {"mute": point})
    desk = Place(tmp_path)
    desk.write(dumb={"platform": "mute"})
    assert await desk.command("check") == Exit.CONFIG
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{desk.config}: [accounts.dumb] platform" in error
    assert problem in error
