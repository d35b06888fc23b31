"""The shell around a supervisor: an attempt that can not even be started is a failed attempt."""

from __future__ import annotations

import asyncio
import errno
import logging

import pytest

from holdfast.gateway.net import HttpClient
from holdfast.gateway.shell import Attempt, Shell
from holdfast.supervision import (
    Cause,
    Ended,
    Kind,
    Open,
    Policy,
    Published,
    Ready,
    Report,
    Start,
    State,
)
from tests.gateway.parrot import Aviary, Parrot
from tests.harness import running

NO_DESCRIPTOR = OSError(errno.EMFILE, "Too many open files")
OVER = Cause(Kind.LOST, "over")


class Willing:
    """An attempt that ends when it is asked to."""

    def __init__(self, shell: Shell, generation: int) -> None:
        self.shell, self.generation = shell, generation

    def beat(self) -> None:
        """See `Attempt.beat`."""

    def probe(self) -> None:
        """See `Attempt.probe`."""

    def close(self) -> None:
        """See `Attempt.close`."""
        asyncio.get_running_loop().call_soon(self.shell.post, Ended(self.generation, OVER))

    def abort(self) -> None:
        """See `Attempt.abort`."""

    def abandon(self) -> None:
        """See `Attempt.abandon`."""


class Unclosable(Willing):
    """An attempt whose every end fails."""

    def close(self) -> None:
        """See `Attempt.close`."""
        raise PermissionError(errno.EPERM, "not permitted")

    abort = abandon = close


class Bench(Shell):
    """A shell whose first attempts can not be started."""

    def __init__(self, *failures: Exception, kind: type[Willing] = Willing) -> None:
        super().__init__("bench", Policy(label="bench"), lambda: 0.5)
        self.failures, self.kind = list(failures), kind

    def _begin(self, effect: Open) -> Attempt:
        if self.failures:
            raise self.failures.pop(0)
        ready = Ready(effect.generation, silence=3_600.0)
        asyncio.get_running_loop().call_soon(self.post, ready)
        return self.kind(self, effect.generation)

    def _told(self, report: Report) -> None:
        """Nobody listens."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NO_DESCRIPTOR, "local_emfile", "Too many open files"),
        (RuntimeError("can't start new thread"), "start_failed", "can't start new thread"),
    ],
)
async def test_a_start_that_fails_is_tried_again(error: Exception, code: str, words: str) -> None:
    bench = Bench(error, error)
    bench.post(Start())
    view = await bench.until(lambda v: v.state is State.BACKOFF and v.attempt == 1)
    assert view.cause is not None
    assert (view.cause.kind, view.cause.code) == (Kind.LOCAL, code)
    assert words in view.cause.message
    async with asyncio.timeout(60):
        view = await bench.until(lambda v: v.state is State.LIVE)
    assert view.generation == 3
    await bench.pause()


async def test_a_stop_while_no_attempt_can_be_started_is_in_time() -> None:
    bench = Bench(NO_DESCRIPTOR)
    bench.post(Start())  # the attempt has failed, and nobody knows it yet
    async with asyncio.timeout(5):
        await bench.pause()
    assert bench.view().published is Published.STOPPED


async def test_an_attempt_whose_end_fails_is_left_behind_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(kind=Unclosable)
    bench.post(Start())
    await bench.until(lambda v: v.state is State.LIVE)
    async with asyncio.timeout(5):
        with caplog.at_level(logging.CRITICAL):
            await bench.pause()
    assert bench.view().abandoned == 1


async def test_an_account_whose_connection_can_not_be_started_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        new_client = bot.account.new_http
        want = [NO_DESCRIPTOR, NO_DESCRIPTOR]

        def wanting() -> HttpClient:
            if want:
                raise want.pop()
            return new_client()

        monkeypatch.setattr(bot.account, "new_http", wanting)
        bot.account.kick(operator=True)
        await bot.published(Published.RETRYING)
        async with asyncio.timeout(120):
            await bot.connected()
        assert not want
        assert bot.account.view().generation == 4
