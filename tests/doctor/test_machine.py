"""Clock, descriptors, disk, permissions and locks, each from what the system would say."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from pathlib import Path

import pytest

from holdfast.doctor import clock, machine
from holdfast.doctor.finding import Check, Finding, Verdict, in_thread, run_all, worst

AT = 1_772_616_600.0
DATE = "Wed, 04 Mar 2026 09:30:00 GMT"


# -- the runner -----------------------------------------------------------------------------------


async def test_checks_run_side_by_side_and_none_takes_longer_than_its_limit() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.sleep(1e6)
        return []

    async def defect() -> list[Finding]:
        raise ZeroDivisionError("a defect")

    async def well() -> list[Finding]:
        return [Finding("well", "x", Verdict.OK, "fine")]

    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await run_all(
        [
            Check("a", "x", hangs),
            Check("b", "x", hangs),
            Check("c", "x", defect),
            Check("d", "", well),
        ]
    )
    assert loop.time() - began == pytest.approx(5.0)
    assert [f.verdict for f in found] == [Verdict.WARN] * 3 + [Verdict.OK]
    assert [f.what for f in found[1:3]] == [
        "no result within 5 s",
        "could not be examined: ZeroDivisionError: a defect",
    ]
    assert worst(found) is Verdict.WARN
    assert worst([]) is Verdict.OK


@pytest.mark.real_time
async def test_a_disk_that_hangs_holds_nobody_up() -> None:
    release = threading.Event()

    def look() -> list[Finding]:
        release.wait(60)
        return []

    found = await run_all([in_thread("disk", "/net", look)], limit=0.05)
    release.set()
    assert [(f.check, f.subject, f.verdict) for f in found] == [("disk", "/net", Verdict.WARN)]


# -- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "age", "sent", "received", "ahead"),
    [
        (DATE, "", AT + 0.2, AT + 0.4, 0.0),
        (DATE, "", AT - 3, AT + 4, 0.0),  # a slow answer leaves it open
        (DATE, "", AT + 61, AT + 62, 60.0),
        (DATE, "", AT - 62, AT - 60, -60.0),
        (DATE, "60", AT + 60.5, AT + 60.6, 0.0),  # it stood in a cache
        ("", "", AT, AT, None),
        ("yesterday", "", AT, AT, None),
        (DATE, "old", AT, AT, None),
    ],
)
def test_skew(date: str, age: str, sent: float, received: float, ahead: float | None) -> None:
    assert clock.skew(date, age, sent, received) == ahead


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [(29.9, "ok"), (-30, "warn"), (299, "warn"), (-300, "fail"), (1e6, "fail")],
)
def test_how_much_is_too_much(ahead: float, verdict: str) -> None:
    assert clock.against_server("x", ahead).verdict == verdict


def test_a_step_while_we_look() -> None:
    assert list(clock.steps((AT, AT + 5), (100, 105.5))) == []
    (found,) = clock.steps((AT, AT - 3_595), (100, 105))
    assert found.what == "the wall clock was moved by -3600 s during this examination"


@pytest.mark.parametrize(("moved", "verdict"), [(0, "ok"), (-45, "warn"), (7_200, "fail")])
def test_a_step_since_the_gateway_was_started(moved: float, verdict: str) -> None:
    # Started 1000 s ago by the clock that nobody can set.
    found = clock.since_start((AT - 1_000 - moved, 4_000.0), (AT, 5_000.0))
    assert found.verdict == verdict


# -- descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accounts", "soft", "used", "verdict", "word"),
    [
        (2, 1024, None, "ok", "1024"),
        (100, 1024, 40, "warn", "may need 2528"),
        (2, 1024, 1000, "fail", "1000 of 1024"),
    ],
)
def test_descriptors(accounts: int, soft: int, used: int | None, verdict: str, word: str) -> None:
    found = machine.files(accounts, soft, used, "gateway")
    assert found.verdict == verdict
    assert word in found.what
    assert ("LimitNOFILE=" in found.remedy) == (verdict != "ok")


def test_this_process_is_read() -> None:
    me = machine.process(os.getpid())
    assert me.limit
    assert me.used
    assert machine.process(2**22 + 1) == machine.Process(2**22 + 1, None, None)


# -- disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "inodes", "verdict"),
    [
        (2**40, None, "ok"),
        (2**28, 10**6, "warn"),
        (2**20, 10**6, "fail"),
        (2**40, 5, "fail"),
    ],
)
def test_room_on_the_disk(free: int, inodes: int | None, verdict: str) -> None:
    assert machine.disk(Path("/x"), free, inodes).verdict == verdict


def test_the_room_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    (found,) = machine.space(tmp_path / "not" / "yet")
    assert found.subject.endswith("not/yet")


def test_what_is_no_disk_has_no_room_to_make() -> None:
    assert list(machine.space(Path("/proc/x"))) == []
    (found,) = machine.state_permissions(Path("/proc/x"))
    assert found.verdict is Verdict.FAIL
    assert found.what.startswith("/proc/x can not be made: ")


@pytest.mark.parametrize(
    ("directory", "kind"),
    [("/srv/nfs/state", "nfs4"), ("/srv/state", None), ("/mnt/a b/state", "cifs")],
)
def test_the_state_on_a_network_file_system(directory: str, kind: str | None) -> None:
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\nserver:/x /srv/nfs nfs4 rw 0 0\n//s/x /mnt/a\\040b cifs rw 0 0\n"
    )
    found = machine.file_system(Path(directory), mounts)
    assert (found is None) == (kind is None)
    if found is not None:
        assert kind is not None
        assert kind in found.what
        assert found.verdict is Verdict.FAIL


# -- permissions ----------------------------------------------------------------------------------


def test_permissions_of_the_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (fresh,) = machine.state_permissions(state)
    assert fresh.what == "is not there yet; the gateway makes it"
    state.mkdir(mode=0o700)
    (alone,) = machine.state_permissions(state)
    assert alone.verdict is Verdict.OK
    state.chmod(0o755)
    (shared,) = machine.state_permissions(state)
    assert (shared.verdict, shared.remedy) == (Verdict.WARN, f"run: chmod 700 {state}")
    (state / "file").touch()
    (no_directory,) = machine.state_permissions(state / "file")
    assert no_directory.verdict is Verdict.FAIL


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_directory_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (found,) = machine.state_permissions(tmp_path)
    tmp_path.chmod(0o700)
    assert found.verdict is Verdict.FAIL
    assert "chmod u+rwx" in found.remedy


def test_a_state_directory_of_ours_that_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    (found,) = machine.state_permissions(tmp_path)
    assert (found.verdict, found.remedy) == (Verdict.FAIL, f"run: chmod u+rwx {tmp_path}")


@pytest.mark.parametrize(("mode", "verdict"), [(0o600, "ok"), (0o640, "warn")])
def test_a_file_with_a_secret(tmp_path: Path, mode: int, verdict: str) -> None:
    path = tmp_path / "token"
    path.touch()
    path.chmod(mode)
    (found,) = machine.private(path, "it holds a secret")
    assert found.verdict == verdict


# -- the lock -------------------------------------------------------------------------------------


def test_who_holds_the_journal(tmp_path: Path) -> None:
    lock = tmp_path / "journal.db.lock"
    locks = Path("/proc/locks")
    assert machine.holder(lock, "") is None
    with lock.open("w") as file:
        assert machine.holder(lock, machine.text_of(locks)) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert machine.holder(lock, machine.text_of(locks)) == os.getpid()
    assert machine.holder(lock, machine.text_of(locks)) is None
