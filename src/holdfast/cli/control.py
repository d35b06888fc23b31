"""Asks the running gateway over its control socket; no answer takes longer than a few seconds."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from holdfast.cli.exits import CommandFailed, Exit
from holdfast.web import control

T = TypeVar("T")

Query = Sequence[tuple[str, str]]
"""Parameters of a question; one may come several times."""

PATIENCE = 2.0
"""Seconds a healthy gateway may take to answer; it takes milliseconds."""

SLOW = 15.0
"""Seconds for what stops connections, which may take 5 s each time."""


class NotRunning(CommandFailed):
    """Nobody listens on the control socket."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"no gateway is running on {directory}",
            "start one with `holdfast run`",
            Exit.UNANSWERED,
        )


class Unreachable(CommandFailed):
    """A process has the directory, but no control socket there."""

    def __init__(self, directory: Path, pid: int) -> None:
        super().__init__(
            f"process {pid} runs on {directory}, and has no control socket there",
            "if it is not just starting or stopping, restart it: its files are gone, or it is a "
            "program of its own that opens none",
            Exit.UNANSWERED,
        )


class NotAnswering(CommandFailed):
    """Somebody listens on the control socket but does not answer."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(
            f"the gateway on {directory} does not answer: {problem}",
            "it hangs or is frozen; look at its log, then restart it",
            Exit.UNANSWERED,
        )


class _Problem(msgspec.Struct):
    error: str = ""
    hint: str = ""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path, self._limit = path, timeout

    def connect(self) -> None:
        self.sock: socket.socket = control.connect(self._path, self._limit)


class Control:
    """The control API of the gateway whose state is in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def ask(self, resource: str, kind: type[T], query: Query = ()) -> T:
        """The answer to a question.

        Raises NotRunning, Unreachable, NotAnswering, or CommandFailed with the gateway's own words.
        """
        whole = f"{resource}?{urlencode(query)}" if query else resource
        return self._request("GET", whole, kind, PATIENCE)

    def order(
        self, resource: str, kind: type[T], body: Any = None, patience: float | None = None
    ) -> T:
        """The answer to an order, which may take `SLOW`, or ``patience`` seconds. Raises as `ask`.

        ``body`` is sent as JSON.
        """
        return self._request("POST", resource, kind, patience or SLOW, body)

    def _request(
        self, method: str, resource: str, kind: type[T], timeout: float, body: Any = None
    ) -> T:
        connection = _Connection(self.directory / control.SOCKET_NAME, timeout)
        payload = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        with contextlib.closing(connection):
            try:
                connection.request(method, f"/api/v1/{resource}", payload, headers)
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                raise self._nobody() from None
            except PermissionError:
                raise CommandFailed(
                    f"this user may not talk to the gateway on {self.directory}",
                    "run the command as the user who runs the gateway",
                    Exit.UNANSWERED,
                ) from None
            except TimeoutError:
                problem = f"nothing within {timeout:g} s"
                raise NotAnswering(self.directory, problem) from None
            except (OSError, http.client.HTTPException) as error:
                raise NotAnswering(self.directory, str(error) or type(error).__name__) from None
        return self._read(status, body, kind)

    def _nobody(self) -> CommandFailed:
        from holdfast.doctor import machine

        pid = machine.occupant(self.directory)
        return NotRunning(self.directory) if pid is None else Unreachable(self.directory, pid)

    def _read(self, status: int, body: bytes, kind: type[T]) -> T:
        wanted: type[Any] = kind if status == 200 else _Problem
        try:
            answer = msgspec.json.decode(body, type=wanted)
        except msgspec.DecodeError as error:
            raise NotAnswering(self.directory, f"it answers in a foreign way: {error}") from None
        if isinstance(answer, _Problem):
            exit = Exit.CONFIG if status == 422 else Exit.FAILED
            raise CommandFailed(answer.error or f"HTTP {status}", answer.hint, exit)
        return answer  # type: ignore[no-any-return]


def account_path(name: str, verb: str = "") -> str:
    """The resource of an account."""
    return f"accounts/{quote(name, safe='')}" + (f"/{verb}" if verb else "")
