"""The journals that keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.store.memory import MemoryStore
from holdfast.store.protocol import Store
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import Opens


@pytest.fixture(params=["sqlite", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Opens:
    @asynccontextmanager
    async def opens() -> AsyncIterator[Store]:
        store: Store = MemoryStore()
        if request.param == "sqlite":
            store = await SqliteStore.open(tmp_path / "j.db")
        yield store
        await store.close()

    return opens
