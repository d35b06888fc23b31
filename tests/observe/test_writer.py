"""The status file follows every change and survives a disk that does not."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest

from holdfast.observe import status
from holdfast.observe.writer import PERIOD, StatusWriter
from tests.observe.test_status import document


class Subject:
    """Composes documents with a running number in ``version``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.composed = 0
        self.writer = StatusWriter(path, self.compose)

    def compose(self) -> status.Status:
        self.composed += 1
        return document(version=str(self.composed))

    def version(self) -> int:
        return int(status.read(self.path).version)

    async def written(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.writer.writes < count:  # noqa: ASYNC110  nobody but us waits for writes
                await asyncio.sleep(0.01)


async def test_writes_at_start_and_then_periodically(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "state.json")
    subject.writer.start()
    await subject.written(1)
    began = asyncio.get_running_loop().time()
    await subject.written(4)
    assert asyncio.get_running_loop().time() - began == pytest.approx(3 * PERIOD, abs=0.1)
    await subject.writer.stop()


async def test_a_change_is_written_at_once_and_many_are_one(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "state.json")
    subject.writer.start()
    await subject.written(1)
    began = asyncio.get_running_loop().time()
    for _ in range(50):
        subject.writer.changed()
    await subject.written(2)
    assert asyncio.get_running_loop().time() - began < 0.1
    await asyncio.sleep(PERIOD / 2)
    assert subject.writer.writes == 2
    await subject.writer.stop()


async def test_stop_writes_the_last_state(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "state.json")
    subject.writer.start()
    await subject.written(1)
    await subject.writer.stop()
    assert subject.version() == subject.composed
    assert subject.writer.writes == 2
    await asyncio.sleep(10 * PERIOD)
    assert subject.writer.writes == 2


async def test_stop_before_start_writes_once(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "state.json")
    await subject.writer.stop()
    assert subject.version() == 1


async def test_a_failing_disk_is_counted_told_once_and_recovered_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "state"
    subject = Subject(directory / "state.json")
    subject.writer.start()
    with caplog.at_level(logging.WARNING, "holdfast.status"):
        await asyncio.sleep(5 * PERIOD)
    assert subject.writer.failures >= 4
    assert len(caplog.records) == 1
    directory.mkdir()
    await subject.written(1)
    assert subject.version() > 4
    await subject.writer.stop()


async def test_a_document_that_can_not_be_composed_does_not_end_the_writing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = Subject(tmp_path / "state.json")

    def defective() -> status.Status:
        if subject.composed < 2:
            subject.composed += 1
            raise ZeroDivisionError("a defect")
        return subject.compose()

    writer = subject.writer = StatusWriter(subject.path, defective)
    writer.start()
    await subject.written(1)
    assert (writer.failures, subject.version()) == (2, 3)
    assert "ZeroDivisionError" in caplog.text
    await writer.stop()


class HangingDisk:
    """Writes hang until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = 0
        self._write = status.write
        monkeypatch.setattr("holdfast.observe.writer.WRITE_LIMIT", 0.02)
        monkeypatch.setattr(status, "write", self.write)

    def write(self, path: Path, document: status.Status) -> None:
        """In place of `status.write`."""
        self.begun += 1
        self.go.wait(20)
        self._write(path, document)


async def failed(subject: Subject, count: int) -> None:
    """Wait for failed writes."""
    async with asyncio.timeout(20):
        while subject.writer.failures < count:  # noqa: ASYNC110  nobody but us waits for them
            await asyncio.sleep(0.001)


@pytest.mark.real_time
async def test_a_disk_that_hangs_has_one_write_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = HangingDisk(monkeypatch)
    subject = Subject(tmp_path / "state.json")
    subject.writer.period = 0.01
    subject.writer.start()
    await failed(subject, 5)
    assert disk.begun == 1
    assert caplog.text.count("status file not written") == 1
    assert "no answer within" in caplog.text
    disk.go.set()
    await subject.written(1)
    assert disk.begun > 1
    assert subject.version() > 1
    await subject.writer.stop()


@pytest.mark.real_time
async def test_a_disk_that_comes_back_in_a_stop_takes_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HangingDisk(monkeypatch)
    subject = Subject(tmp_path / "state.json")
    subject.writer.start()
    await failed(subject, 1)
    monkeypatch.setattr("holdfast.observe.writer.WRITE_LIMIT", 20.0)
    monkeypatch.setattr("holdfast.observe.writer.LAST_LIMIT", 20.0)
    stop = asyncio.create_task(subject.writer.stop())
    await asyncio.sleep(0)
    disk.go.set()
    await stop
    assert disk.begun == 2
    assert subject.version() == subject.composed == 2


@pytest.mark.real_time
@pytest.mark.parametrize("running", [True, False], ids=["running", "last"])
async def test_a_disk_that_hangs_holds_up_a_stop_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    go = threading.Event()
    hanging: list[Path] = []

    def hang(path: Path, document: status.Status) -> None:
        hanging.append(path)
        go.wait(20)

    monkeypatch.setattr("holdfast.observe.writer.LAST_LIMIT", 0.05)
    monkeypatch.setattr("holdfast.observe.writer.WRITE_LIMIT", 2.0)
    subject = Subject(tmp_path / "state.json")
    if not running:
        subject.writer.start()
        await subject.written(1)
    monkeypatch.setattr(status, "write", hang)
    if running:
        subject.writer.start()
        await asyncio.sleep(0.01)
        assert len(hanging) == 1
    loop = asyncio.get_running_loop()
    began = loop.time()
    before = asyncio.all_tasks()
    await subject.writer.stop()
    assert loop.time() - began < 1
    assert len(hanging) == 1
    assert asyncio.all_tasks() <= before - {subject.writer._task}
    go.set()
