"""Writes to a journal in trouble: repeated until they are taken, told a few times an hour."""

from __future__ import annotations

import asyncio
import logging

import pytest

from holdfast.errors import StoreError
from holdfast.gateway.stored import RETRY, stored


async def test_a_full_disk_for_an_hour_is_told_in_a_dozen_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    loop = asyncio.get_running_loop()
    began = loop.time()
    tries: list[float] = []

    async def write(value: int) -> int:
        tries.append(loop.time())
        if loop.time() - began < 3_600:
            raise StoreError("store_full", "the disk is full")
        return value

    assert await stored("bot", write, 42) == 42
    assert loop.time() - began <= 3_600 + RETRY
    assert len(tries) == 1_801
    assert 12 <= len(caplog.records) <= 20
    assert "writes again" in caplog.records[-1].getMessage()


async def test_other_errors_are_not_repeated() -> None:
    async def write() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await stored("bot", write)


@pytest.mark.parametrize("code", ["store_refused", "store_wrong_state"])
async def test_what_the_journal_will_never_take_is_not_asked_again(code: str) -> None:
    tries: list[str] = []

    async def write() -> None:
        tries.append(code)
        raise StoreError(code, "no")

    with pytest.raises(StoreError, match="no") as caught:
        await stored("bot", write)
    assert caught.value.final
    assert tries == [code]
