"""The status document, and readers who distrust it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from holdfast.observe.status import (
    TTL,
    AccountStatus,
    Status,
    account_status,
    believed,
    boot_id,
    cause_status,
    doubt,
    proof,
    read,
    write,
)
from holdfast.supervision import Cause, Kind, Start, Supervisor, preset

NOW = 1_700_000_000.0


def supervised(now: float = 50.0) -> AccountStatus:
    """The entry of an account whose supervisor just began, wall clock minus loop clock = NOW."""
    supervisor = Supervisor(preset("telegram"), lambda: 0.5)
    supervisor.handle(Start(), now)
    return account_status(
        supervisor.view(now),
        lambda moment: NOW + moment,
        NOW + now,
        platform="telegram",
        paused=False,
        inbound=proof(None, NOW),
        outbound=proof(NOW - 5, NOW),
        gap=None,
        inbox=1,
        outbox=2,
        received=3,
        sent=4,
        passed_over=0,
        skipped=5,
        dead=6,
        unknown=7,
    )


def document(**changes: object) -> Status:
    fields: dict[str, object] = {
        "pid": os.getpid(),
        "boot_id": boot_id(),
        "started_at": NOW - 60,
        "written_at": NOW,
        "version": "1",
        "accounts": {"bot": supervised()},
    }
    return Status(**(fields | changes))  # type: ignore[arg-type]


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_an_entry_tells_times_in_unix_seconds() -> None:
    entry = supervised(50.0)
    assert entry.state == "connecting"
    assert entry.since == NOW + 50
    assert entry.next_retry_at is None
    assert (entry.outbound.at, entry.outbound.age) == (NOW - 5, 5.0)
    assert (entry.inbound.at, entry.inbound.age) == (None, None)
    assert (entry.inbox, entry.outbox, entry.unknown) == (1, 2, 7)


def test_a_cause_is_published_with_its_remedy() -> None:
    told = cause_status(Cause(Kind.CREDENTIALS, "telegram_unauthorized", "401"))
    assert told is not None
    assert (told.kind, told.who_acts, told.retryable) == ("credentials", "operator", False)
    assert "holdfast reload" in told.hint
    own = cause_status(Cause(Kind.LOST, "x", hint="Pull the other cable."))
    assert own is not None
    assert (own.hint, own.retryable) == ("Pull the other cable.", True)
    assert cause_status(None) is None


def test_the_file_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway_state.json"
    write(path, document())
    assert read(path) == document()
    write(path, document(version="2"))
    assert read(path).version == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["gateway_state.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway_state.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write(path, document())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{}", '{"pid": "x"}', "[]"])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gateway_state.json"
    path.write_text(text)
    with pytest.raises(msgspec.DecodeError):
        read(path)


def test_a_fresh_document_of_a_living_writer_is_believed() -> None:
    assert doubt(document(), NOW) is None
    assert doubt(document(), NOW + TTL) is None


def test_a_document_is_doubted_when_its_writer_is_gone() -> None:
    pid = dead_pid()
    found = doubt(document(pid=pid), NOW)
    assert found is not None
    assert f"pid {pid}" in found.reason
    assert found.last_seen == NOW


def test_a_document_is_doubted_when_it_was_not_renewed() -> None:
    found = doubt(document(), NOW + TTL + 1)
    assert found is not None
    assert "has not written for 11 s" in found.reason


def test_a_document_from_the_future_is_doubted() -> None:
    """The clock was set back, and nobody has written since."""
    assert doubt(document(), NOW - TTL) is None
    found = doubt(document(), NOW - TTL - 1)
    assert found is not None
    assert "11 s in the future" in found.reason


def test_a_document_of_another_boot_is_doubted() -> None:
    found = doubt(document(boot_id="another"), NOW)
    assert found is not None
    assert "before this machine was started" in found.reason


def test_a_living_process_of_another_user_counts_as_alive() -> None:
    if os.geteuid() == 0:
        assert doubt(document(pid=1), NOW) is None
    else:
        with pytest.raises(PermissionError):
            os.kill(1, 0)
        assert doubt(document(pid=1), NOW) is None


def test_connected_is_believed_only_while_its_evidence_lasts() -> None:
    entry = msgspec.structs.replace(supervised(), state="connected", valid_until=NOW + 30)
    assert believed(entry, NOW + 29) == "connected"
    assert believed(entry, NOW + 31) == "retrying"
    assert believed(msgspec.structs.replace(entry, valid_until=None), NOW) == "retrying"
    assert believed(msgspec.structs.replace(entry, state="fatal"), NOW + 31) == "fatal"
