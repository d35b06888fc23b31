"""The configuration of a gateway that is a process of its own, between open stages."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.config import Config, build
from holdfast.lab.cable import HOST
from holdfast.lab.stage import Stage


def document(
    stages: Mapping[str, Stage], gateway: Mapping[str, Any], policy: Mapping[str, Any]
) -> dict[str, Any]:
    """A configuration with one account per stage, its addresses led through the cable."""
    accounts = {name: {**stage.account(), "policy": policy} for name, stage in stages.items()}
    settings = dict(gateway)
    for stage in stages.values():
        if stage.simulator.platform == "whatsapp":  # the one that is asked where it calls us
            settings["hook_url"] = stage.cable.hook_url
    # Two gateways at once would meet on the port of the pages.
    return {"gateway": settings, "web": {"listen": ""}, "accounts": accounts}


def write(path: Path, made: Mapping[str, Any]) -> Config:
    """Write a `document` as a file that only its owner reads, and read it."""
    path.touch(mode=0o600)
    tables = {f"accounts.{name}": table for name, table in made["accounts"].items()}
    others = {name: table for name, table in made.items() if name != "accounts"}
    path.write_text(_toml({**others, **tables}))
    return build(made, path)


def free_port() -> int:
    """A port that stays the gateway's over all its lives."""
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values as TOML, whose basic strings are those of JSON."""

    def value(given: Any) -> str:
        if isinstance(given, Mapping):
            return "{ " + ", ".join(f"{k} = {value(v)}" for k, v in given.items()) + " }"
        return json.dumps(given)

    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value(given)}\n" for key, given in table.items())
        for name, table in tables.items()
    )
