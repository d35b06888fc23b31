"""What is shipped to run it: systemd's unit, container, compose, Kubernetes; and their page."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.cli import parser
from holdfast.cli.exits import Exit
from holdfast.config import build
from holdfast.service.unit import STATE, Scope, Unit

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "holdfast.service"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def kubernetes() -> dict[str, Any]:
    """The objects by kind."""
    found = list(yaml.safe_load_all(text(DEPLOY / "kubernetes.yaml")))
    return {found_one["kind"]: found_one for found_one in found}


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(text(DEPLOY / "compose.yaml")))


# -- systemd --------------------------------------------------------------------------------------


def test_the_unit_is_what_install_would_write() -> None:
    unit = Unit(
        scope=Scope.SYSTEM,
        program=("/usr/local/bin/holdfast",),
        config=Path("/etc/holdfast/holdfast.toml"),
        state_dir=STATE,
        run_as="holdfast",
    )
    assert text(UNIT) == unit.text()


def test_the_unit_never_gives_up_but_on_a_bad_configuration() -> None:
    lines = text(UNIT).splitlines()
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "Restart=always",
        "RestartSec=1s",
        "StartLimitIntervalSec=0",
        f"RestartPreventExitStatus={Exit.CONFIG.value}",
    ):
        assert line in lines


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # The program and the account of another machine are not here.
    shown = text(UNIT).replace("/usr/local/bin/holdfast", "/bin/true").replace("User=holdfast", "")
    path = tmp_path / "holdfast.service"

    def complaints(content: str) -> list[str]:
        path.write_text(content, encoding="utf-8")
        verify = ["systemd-analyze", "--man=no", "verify", str(path)]
        done = subprocess.run(verify, capture_output=True, text=True, check=False)
        return [line for line in done.stderr.splitlines() if "holdfast.service" in line]

    assert complaints(shown) == []
    assert complaints(shown.replace("WatchdogSec=30", "WatchdogSec=often"))


# -- container ------------------------------------------------------------------------------------


def test_the_image_runs_commands_that_exist() -> None:
    lines = text(DEPLOY / "Containerfile")
    entry = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", lines, re.MULTILINE)
    words = [word for part in entry for word in yaml.safe_load(part)]
    assert words[0] == "holdfast"
    args = parser.build().parse_args(words[1:])
    assert (args.command, args.log_format) == ("run", "json")


def test_the_image_installs_extras_that_exist_and_is_not_root() -> None:
    lines = text(DEPLOY / "Containerfile")
    extras = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    (wanted,) = re.findall(r"/src\[([\w,]+)\]", lines)
    assert set(wanted.split(",")) <= extras.keys()
    assert re.search(r"^USER [1-9]\d*:", lines, re.MULTILINE)
    assert f"VOLUME {STATE}" in lines


def test_temporary_files_have_a_place_under_a_read_only_root() -> None:
    """SQLite fails to rebuild a large journal without one, and so does an alert by a command."""
    (place,) = re.findall(r"TMPDIR=(\S+)", text(DEPLOY / "Containerfile"))
    assert compose()["services"]["holdfast"]["read_only"]
    assert f"state:{place}" in compose()["services"]["holdfast"]["volumes"]
    (container,) = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == place]
    assert not mount.get("readOnly", False)


def test_compose_uses_the_image_and_asks_for_life_not_for_platforms() -> None:
    service = compose()["services"]["holdfast"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert service["restart"] == "always"
    probe = service["healthcheck"]["test"][-1]
    assert "http://127.0.0.1:8787/livez" in probe
    compile(probe, "healthcheck", "exec")
    assert {f"state:{STATE}"} <= set(service["volumes"])
    assert set(service["secrets"]) == compose()["secrets"].keys()


# -- Kubernetes -----------------------------------------------------------------------------------


def test_the_probes_ask_for_what_the_gateway_serves() -> None:
    pod = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    paths = {}
    for name in ("livenessProbe", "startupProbe", "readinessProbe"):
        probe = container[name]["httpGet"]
        paths[name] = probe["path"]
        assert ports[probe["port"]] == 8787
    assert paths == {
        "livenessProbe": "/livez",
        "startupProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    served = "".join(text(path) for path in (ROOT / "src" / "holdfast" / "web").glob("*.py"))
    assert all(f'"{path}"' in served for path in paths.values())


def test_one_pod_with_a_disk_and_no_rights() -> None:
    objects = kubernetes()
    spec = objects["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["state"] == str(STATE)
    (claim,) = spec["volumeClaimTemplates"]
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"]}
    assert volumes == mounts.keys()
    assert objects["Service"]["spec"]["publishNotReadyAddresses"]
    assert parser.build().parse_args(container["args"]).command == "run"


def test_the_configuration_of_the_pod_is_usable(tmp_path: Path) -> None:
    objects = kubernetes()
    document = text_of_the_pods_configuration(tmp_path, objects)
    config = build(tomllib.loads(document), tmp_path / "holdfast.toml")
    assert config.state_dir == STATE
    assert config.warnings == ()


def text_of_the_pods_configuration(tmp_path: Path, objects: dict[str, Any]) -> str:
    """The configuration with its secrets where this test can put them."""
    pod = objects["StatefulSet"]["spec"]["template"]["spec"]
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    for name, secret in objects["Secret"]["stringData"].items():
        (tmp_path / name).write_text(secret)
    found = str(objects["ConfigMap"]["data"]["holdfast.toml"])
    named = re.findall(rf"{mounts['secrets']}/([\w-]+)", found)
    assert set(named) == objects["Secret"]["stringData"].keys()
    return found.replace(mounts["secrets"], str(tmp_path))


# -- the page -------------------------------------------------------------------------------------


def test_the_pages_commands_are_those_of_the_files() -> None:
    page = text(ROOT / "docs" / "service.md")
    for path in (DEPLOY / "Containerfile", DEPLOY / "compose.yaml", DEPLOY / "kubernetes.yaml"):
        commands = re.findall(r"^#   ((?:docker|kubectl) .*)$", text(path), re.MULTILINE)
        assert commands, path.name
        for command in commands:
            assert command in page, f"{path.name}: {command}"
    for words in re.findall(r"^(?:sudo )?holdfast (.*)$", page, re.MULTILINE):
        parser.build().parse_args(words.split())
