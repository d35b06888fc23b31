"""The ways by which an alert leaves: a signed web hook, a command, a message of an account.

Each either returns, and then the alert was taken, or raises `Undelivered` in bounded time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from typing import IO
from urllib.parse import urlsplit

from holdfast.adapter import HttpFailed
from holdfast.config import AccountWay, CommandWay, HookWay, Way
from holdfast.errors import HoldfastError, StoreError
from holdfast.gateway.net import HttpClient
from holdfast.store.protocol import Box, OutboxState, Owed, Store
from holdfast.threads import DAEMONS

HOOK_LIMIT = 10.0
"""Seconds for one try at a web hook."""

PAUSES = (1.0, 5.0, 20.0)
"""Seconds before the second, third and fourth try at a web hook."""

LONGEST_PAUSE = 60.0
"""Seconds of a Retry-After that are waited for."""

TRY_AGAIN = frozenset({408, 425, 429})
"""Refusals that are none for good; so is every 5xx."""

COMMAND_LIMIT = 30.0
"""Seconds after which a command is killed, with all it has started."""

SENT_LIMIT = 30.0
"""Seconds after which a message that a connected account has not sent counts as untold."""

LOOK_EVERY = 0.5
"""Seconds between two looks whether a message was sent."""

LAST_WORDS = 200
"""Characters of a failed command's standard error that are repeated."""

LAST_BYTES = 16_384
"""Bytes of it that are read for them: enough that what was cut in half does not come among them,
whatever is hidden in between."""


class Undelivered(HoldfastError):
    """The alert was not taken; the message says why, without any secret."""


def name_of(way: Way) -> str:
    """A way for people. Of a web hook only the host: the path of many is a secret."""
    match way:
        case AccountWay():
            return f"account {way.account}, chat {way.chat}"
        case HookWay():
            return f"web hook at {urlsplit(way.url.reveal()).hostname}"
        case CommandWay():
            return f"command {way.command[0]}"


# -- web hooks ------------------------------------------------------------------------------------


def signature(secret: str, id: str, at: int, body: bytes) -> str:
    """The ``webhook-signature`` of the Standard Webhooks specification, version 1.0.0.

    A secret that begins with ``whsec_`` is base64, as the specification has it; any other is taken
    as it is written.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        with contextlib.suppress(binascii.Error):
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    digest = hmac.new(key, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


async def call_hook(client: HttpClient, way: HookWay, id: str, at: float, body: bytes) -> None:
    """Post a document, four times at most. Raises Undelivered; cancelling is safe."""
    headers = {
        "Content-Type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(int(at)),
    }
    if way.secret is not None:
        headers["webhook-signature"] = signature(way.secret.reveal(), id, int(at), body)
    for pause in (*PAUSES, None):
        problem, wait = await _one_try(client, way.url.reveal(), headers, body)
        if not problem:
            return
        if wait is None or pause is None:
            raise Undelivered(problem)
        await asyncio.sleep(max(pause, min(wait, LONGEST_PAUSE)))


async def _one_try(
    client: HttpClient, url: str, headers: dict[str, str], body: bytes
) -> tuple[str, float | None]:
    """What went wrong, and the seconds the server wants us to wait; None ends the tries."""
    try:
        reply = await client.request("POST", url, body=body, headers=headers, timeout=HOOK_LIMIT)
    except HttpFailed as failed:
        return failed.cause.message or failed.cause.code, 0.0
    if 200 <= reply.status < 300:
        return "", None
    again = reply.status >= 500 or reply.status in TRY_AGAIN
    return f"answered with HTTP {reply.status}", (reply.retry_after or 0.0) if again else None


# -- commands -------------------------------------------------------------------------------------


async def run_command(
    way: CommandWay,
    body: bytes,
    limit: float = COMMAND_LIMIT,
    redacted: Callable[[str], str] = str,
) -> None:
    """Run a program with a document on its standard input. Raises Undelivered.

    Past ``limit`` seconds, or when cancelled, its whole process group is killed. ``redacted`` takes
    the secrets out of what a failing program says, which has our environment.
    """
    with _file(body) as given, _file(b"") as said:
        try:
            # Files, not pipes: what the program leaves behind can not hold them open against us.
            process = await asyncio.create_subprocess_exec(
                *way.command,
                stdin=given,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Undelivered(f"can not be started: {reason}") from None
        try:
            async with asyncio.timeout(limit):
                code = await process.wait()
        except TimeoutError:
            raise Undelivered(f"did not end within {limit:g} s and was killed") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code != 0:
            loop = asyncio.get_running_loop()
            words = await loop.run_in_executor(DAEMONS, _last_words, said, redacted)
            raise Undelivered(f"ended with {_code(code)}{words}")


def _file(content: bytes) -> IO[bytes]:
    """A file that nobody else can open. Raises Undelivered: a disk may be what the alert is of."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(content)
            file.seek(0)
            stack.pop_all()
    except OSError as error:
        raise Undelivered(f"no temporary file can be written: {error.strerror}") from None
    return file


def _code(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"


def _last_words(said: IO[bytes], redacted: Callable[[str], str]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - LAST_BYTES))
    # Before it is cut: half a secret is not known as one.
    text = " ".join(redacted(said.read().decode("utf-8", "replace")).split())
    return f": {text[-LAST_WORDS:]}" if text else ""


# -- accounts -------------------------------------------------------------------------------------


async def send(
    post: Callable[[], Awaitable[Sequence[Owed]]],
    store: Store,
    limit: float = SENT_LIMIT,
    *,
    keep: bool = True,
) -> None:
    """Owe messages and wait until the platform has accepted them.

    Raises Undelivered; what was not sent by then stays in the outbox, but what was refused only if
    it is to be kept. Cancelling is safe.
    """
    waiting: list[int] = []
    try:
        async with asyncio.timeout(limit):
            waiting = [message.row for message in await post()]
            while waiting:
                waiting = [row for row in waiting if not await _is_sent(store, row)]
                await asyncio.sleep(LOOK_EVERY if waiting else 0)
    except TimeoutError:
        raise Undelivered(f"was not sent within {limit:g} s; it stays in the outbox") from None
    except StoreError as error:
        raise Undelivered(f"the journal is in trouble: {error.problem}") from None
    except Undelivered:
        for row in () if keep else waiting:
            with contextlib.suppress(StoreError):  # one that still waits
                await store.drop(Box.OUTBOX, row)
        raise


async def _is_sent(store: Store, row: int) -> bool:
    entry = await store.entry(Box.OUTBOX, row)
    if entry is None or entry.state == OutboxState.SENT:
        return True
    if entry.state in (OutboxState.OWED, OutboxState.SENDING):
        return False
    reason = f": {entry.reason}" if entry.reason else ""
    raise Undelivered(f"was not taken by the platform, out-{row} is {entry.state}{reason}")
