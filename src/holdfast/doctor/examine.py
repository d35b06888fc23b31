"""The whole examination. It contacts the servers of the configuration and no other."""

from __future__ import annotations

import asyncio
import os
import resource
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from holdfast.config import Config, build, load
from holdfast.doctor import accounts, clock, machine, network
from holdfast.doctor.accounts import Patient, Reading
from holdfast.doctor.finding import Check, Finding, Verdict, in_thread, run_all
from holdfast.doctor.network import Doors
from holdfast.errors import ConfigError
from holdfast.gateway.watchdog import boot_clock
from holdfast.secrets import Redaction, named

ORDER = ("configuration", "gateway", "account", "owner", "credentials", "portal", "clock", "dns",
         "connect", "ipv6", "tls", "proxy", "http", "files", "disk", "permissions")  # fmt: skip
"""The checks in the order in which they are told: what is nearest to people first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where and how to look."""

    config: Path
    state_dir: Path | None
    """None when the configuration does not say."""
    reading: Reading = field(default_factory=Reading)
    doors: Doors = field(default_factory=Doors)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    proc: Path = Path("/proc")


async def examine(room: Room) -> list[Finding]:
    """Everything that was found, without a secret in it. Takes a little more than 5 s at most."""
    config, findings = _configuration(room.config)
    proxies = {key: value for key, value in room.environ.items() if "proxy" in key.lower()}
    redaction = Redaction(config, proxies)
    patients = accounts.patients(config, room.doors.resolver, room.doors) if config else []
    before = room.doors.wall(), boot_clock()
    try:
        findings += await run_all([*_local(room, config), *_remote(room, patients)])
    finally:
        await asyncio.gather(*(patient.client.close() for patient in patients))
    findings += clock.steps((before[0], room.doors.wall()), (before[1], boot_clock()))
    findings += network.variables(room.environ)
    if config is not None:
        findings += accounts.twins(config, patients)
    if room.reading.answers and room.reading.status is not None:
        findings += accounts.states(room.reading.status, room.doors.wall())
    told = dict.fromkeys(_cleaned(finding, redaction) for finding in findings)
    return sorted(told, key=lambda finding: ORDER.index(finding.check))


def _cleaned(finding: Finding, redaction: Redaction) -> Finding:
    return msgspec.structs.replace(
        finding,
        subject=redaction.clean(finding.subject),
        what=redaction.clean(finding.what),
        remedy=redaction.clean(finding.remedy),
    )


# -- the configuration ----------------------------------------------------------------------------


def _configuration(path: Path) -> tuple[Config | None, list[Finding]]:
    """As much of the configuration as can be used, and what is wrong with the rest.

    Often it is only that this shell does not hold the gateway's secrets.
    """
    try:
        config = load(path)
    except ConfigError as error:
        usable, errors = _in_parts(path, error)
        return usable, [_mistake(error) for error in errors]
    warnings = [_warning(str(path), warning) for warning in config.warnings]
    whole = Finding("configuration", str(path), Verdict.OK, f"{len(config.accounts)} accounts")
    return config, [whole, *warnings]


def _warning(path: str, warning: str) -> Finding:
    what, _, remedy = warning.removeprefix(f"{path}: ").partition("; ")
    return Finding("configuration", path, Verdict.WARN, what, remedy or "see docs/secrets.md")


def _mistake(error: ConfigError) -> Finding:
    remedy = error.hint or "docs/configuration.md tells what can stand there"
    return Finding("configuration", error.where, Verdict.FAIL, error.problem, remedy)


def _in_parts(path: Path, whole: ConfigError) -> tuple[Config | None, list[ConfigError]]:
    """Each account by itself, as far as it can be used."""
    document = _document(path)
    tables = document.get("accounts", {})
    if not isinstance(tables, dict):
        return None, [whole]
    usable: Config | None = None
    errors = {str(whole): whole}
    for name, table in tables.items():
        if not isinstance(table, dict) or not table.get("enabled", True):
            continue
        part = {key: document[key] for key in ("gateway",) if key in document}
        try:
            found = build(part | {"accounts": {name: table}}, path)
        except ConfigError as error:
            errors[str(error)] = error
        else:
            known = usable.accounts if usable else {}
            usable = Config(path, found.gateway, known | found.accounts)
    return usable, list(errors.values())


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}


# -- what to look at ------------------------------------------------------------------------------


def _local(room: Room, config: Config | None) -> Iterator[Check]:
    """What concerns this machine. Files may hang, so they are asked in threads."""
    number = len(config.accounts) if config else 0
    yield in_thread("files", "", lambda: _descriptors(room, number))
    yield in_thread("permissions", str(room.config), lambda: _secret_files(room.config))
    if room.state_dir is not None:
        directory = room.state_dir
        yield in_thread("disk", str(directory), lambda: _disk(room, directory))
        yield in_thread("permissions", str(directory), lambda: machine.state_permissions(directory))
        yield in_thread("gateway", "", lambda: _gateway(room, directory))


def _descriptors(room: Room, number: int) -> Iterator[Finding]:
    """Of the running gateway; without one, of this shell, which may start it."""
    status = room.reading.status
    if status is None or not room.reading.answers:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield machine.files(number, soft, None, "this shell")
        return
    process = machine.process(status.pid, room.proc)
    if process.limit is not None:
        yield machine.files(len(status.accounts), process.limit, process.used, "gateway")
    if status.started_boot is not None:
        began = status.started_at, status.started_boot
        yield clock.since_start(began, (room.doors.wall(), boot_clock()))


def _disk(room: Room, directory: Path) -> Iterator[Finding]:
    yield from machine.space(directory)
    remote = machine.file_system(directory, machine.text_of(room.proc / "mounts"))
    if remote is not None:
        yield remote


def _gateway(room: Room, directory: Path) -> Iterator[Finding]:
    holder = machine.occupant(directory, room.proc)
    yield from accounts.gateway(room.reading, holder)
    yield from accounts.neighbours(machine.text_of(room.proc / "net" / "unix"), directory, holder)


def _secret_files(config: Path) -> Iterator[Finding]:
    """The files that secrets are taken from, and the configuration if it holds some itself."""
    document = _document(config)
    for name in named(document, "file"):
        path = config.parent / Path(name).expanduser()
        if path.exists():
            yield from machine.private(path, "it holds a secret")


def _remote(room: Room, patients: Iterable[Patient]) -> Iterator[Check]:
    """What concerns the servers, each once, and the accounts on them."""
    known = list(patients)
    places = [(patient.adapter.endpoint, patient.config.proxy) for patient in known]
    for server in network.servers(places):
        yield from network.checks(server, room.doors)
    for patient in known:
        yield accounts.credentials(patient)
