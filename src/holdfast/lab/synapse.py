"""A real Matrix homeserver (Synapse) on loopback, for end-to-end tests and the documented example.

Synapse lives in a virtual environment of its own, because its dependencies are none of ours:

    python -m venv .venv-synapse && .venv-synapse/bin/pip install matrix-synapse

It runs offline on SQLite in a directory of the caller, survives ``kill`` with all its data, and
keeps its port over every restart.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp

SERVER_NAME: Final = "localhost"

START_TIMEOUT: Final = 60.0
"""Seconds until /health must answer. An idle machine needs about 3; a busy one many times that."""

STOP_TIMEOUT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""

TOOL_TIMEOUT: Final = 60.0
"""Seconds for Synapse's own one-shot commands (making the configuration, adding a user)."""

CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=20)
"""For the administrator's calls; none of them waits for an event."""

ADMIN: Final = "holdfast-admin"

# Synapse's default limits (0.2 messages a second, 0.003 logins a second, 0.016 new rooms a second)
# are for the public internet. Listeners and limits are listed in its configuration manual.
OVERRIDES: Final = """\
listeners:
  - port: {port}
    type: http
    tls: false
    x_forwarded: false
    bind_addresses: ["127.0.0.1"]
    resources:
      - names: [client]
        compress: false
trusted_key_servers: []
suppress_key_server_warning: true
federation_domain_whitelist: []
presence: {{enabled: false}}
url_preview_enabled: false
rc_message: {{per_second: 1000, burst_count: 1000}}
rc_room_creation: {{per_second: 1000, burst_count: 1000}}
rc_login:
  address: {{per_second: 1000, burst_count: 1000}}
  account: {{per_second: 1000, burst_count: 1000}}
  failed_attempts: {{per_second: 1000, burst_count: 1000}}
rc_joins:
  local: {{per_second: 1000, burst_count: 1000}}
rc_invites:
  per_room: {{per_second: 1000, burst_count: 1000}}
  per_user: {{per_second: 1000, burst_count: 1000}}
"""


class SynapseError(RuntimeError):
    """Synapse did not do what it was told; the message ends with the last lines it wrote."""


def find_synapse() -> Path | None:
    """The Python of an environment that has Synapse, or None when there is none.

    ``HOLDFAST_SYNAPSE_PYTHON`` names it, and is believed: a wrong path fails loudly instead of
    skipping tests. Without it, ``.venv-synapse`` in the repository is looked at.
    """
    named = os.environ.get("HOLDFAST_SYNAPSE_PYTHON")
    if named:
        return Path(named)
    python = Path(__file__).parents[3] / ".venv-synapse" / "bin" / "python"
    return python if python.exists() else None


class Synapse:
    """One Synapse process. Use as ``async with Synapse(directory, python) as server``.

    ``directory`` receives configuration, database and logs; ``extra_config`` is YAML whose
    top-level keys win over ours (``rc_message: {per_second: 0.5, burst_count: 3}`` gives real 429
    answers, ``session_lifetime: 6s`` real soft log-outs). Nothing is printed.
    """

    def __init__(self, directory: Path, python: Path, *, extra_config: str = "") -> None:
        self._directory = directory
        self._python = python
        self._extra = extra_config
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._admin_token: str | None = None

    @property
    def url(self) -> str:
        """Base address, for example ``http://127.0.0.1:40123``; known after the first start."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id. Raises SynapseError when the server is down."""
        return self._running().pid

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start, again after ``kill`` or ``stop`` too, and return when /health answers.

        Raises SynapseError when the process ends first or 60 seconds pass.
        """
        if self._process is not None:
            raise SynapseError("Synapse is already running")
        if self._port == 0:
            await self._configure()
        with self._output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                self._python,
                *("-m", "synapse.app.homeserver"),
                *(word for name in self._configs for word in ("-c", name)),
                cwd=self._directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        await self._healthy(self._process)

    async def stop(self) -> None:
        """End politely, then with SIGKILL after 10 seconds; does nothing when already down."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            # A stopped process keeps SIGTERM pending until it is allowed to run.
            process.send_signal(signal.SIGCONT)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()
        self._process = None

    async def kill(self) -> None:
        """Crash the server: SIGKILL, and wait until the process is gone."""
        process = self._running()
        process.kill()
        await process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stop every thread (SIGSTOP): the port stays open, the kernel accepts, nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server run on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    # -- users --------------------------------------------------------------------------------

    async def register(self, name: str, password: str, *, admin: bool = False) -> str:
        """Add a user and return the full id. Raises SynapseError when the name is taken."""
        await self._tool(
            self._python.parent / "register_new_matrix_user",
            *("-c", "homeserver.yaml", "-u", name, "-p", password),
            "--admin" if admin else "--no-admin",
            self.url,
        )
        return f"@{name}:{SERVER_NAME}"

    async def login(self, name: str, password: str, *, device_id: str | None = None) -> str:
        """A new access token; without ``device_id`` on a new device."""
        body: dict[str, Any] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": password,
        }
        if device_id is not None:
            body["device_id"] = device_id
        answer = await self._call("POST", "/_matrix/client/v3/login", body)
        return str(answer["access_token"])

    async def revoke(self, user_id: str) -> None:
        """Log all of a user's devices out: every access token of theirs is invalid from now on."""
        token = await self._administrator()
        base = f"/_synapse/admin/v2/users/{quote(user_id, safe='')}"
        found = await self._call("GET", f"{base}/devices", token=token)
        devices = [device["device_id"] for device in found["devices"]]
        await self._call("POST", f"{base}/delete_devices", {"devices": devices}, token=token)

    async def _administrator(self) -> str:
        if self._admin_token is None:
            password = os.urandom(16).hex()
            await self.register(ADMIN, password, admin=True)
            self._admin_token = await self.login(ADMIN, password)
        return self._admin_token

    # -- inside -------------------------------------------------------------------------------

    _configs = ("homeserver.yaml", "overrides.yaml", "extra.yaml")

    @property
    def _output(self) -> Path:
        return self._directory / "synapse.out"

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            raise SynapseError(f"Synapse is not running\n{self._tail()}")
        return self._process

    async def _configure(self) -> None:
        """Let Synapse write its secrets and paths; our files are read after that and win."""
        self._directory.mkdir(parents=True, exist_ok=True)
        await self._tool(
            self._python,
            *("-m", "synapse.app.homeserver", "--generate-config", "--report-stats=no"),
            *("--server-name", SERVER_NAME, "--config-path", "homeserver.yaml"),
            *("--data-directory", str(self._directory)),
        )
        self._port = _free_port()
        files = (OVERRIDES.format(port=self._port), self._extra or "{}\n")
        for name, text in zip(self._configs[1:], files, strict=True):
            (self._directory / name).write_text(text, encoding="utf-8")

    async def _tool(self, *command: str | Path) -> None:
        with self._output.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            async with asyncio.timeout(TOOL_TIMEOUT):
                code = await process.wait()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if code != 0:
            raise SynapseError(f"{Path(command[0]).name} ended with {code}\n{self._tail()}")

    async def _healthy(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while loop.time() < deadline:
                if process.returncode is not None:
                    self._process = None
                    raise SynapseError(
                        f"Synapse ended with {process.returncode} at start\n{self._tail()}"
                    )
                try:
                    async with http.get(f"{self.url}/health") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.1)
        raise SynapseError(f"/health did not answer within {START_TIMEOUT:g} s\n{self._tail()}")

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(timeout=CALL_TIMEOUT, headers=headers) as http,
            http.request(method, self.url + path, json=body) as answer,
        ):
            parsed: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise SynapseError(f"{method} {path} -> {answer.status} {parsed}")
            return parsed

    def _tail(self) -> str:
        if not self._output.exists():
            return "(no output)"
        return self._output.read_text(encoding="utf-8", errors="replace")[-2000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
