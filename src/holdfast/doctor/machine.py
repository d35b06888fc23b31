"""The machine: descriptors, disk, permissions, and who holds a state directory."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.config import check_state_dir
from holdfast.doctor.finding import Finding, Verdict
from holdfast.errors import ConfigError
from holdfast.web.control import SOCKET_NAME

PER_ACCOUNT = 24
"""Descriptors an account may need at once: a connection and its successor, a pool of 16 for sends,
and what connects to its web hook."""

OWN = 128
"""Descriptors of the gateway itself: journal, log, control and web clients."""

WARN_BYTES, FAIL_BYTES = 500 * 2**20, 50 * 2**20
"""Free bytes of the disk: some days of a busy journal, and what its next checkpoint may need."""

REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs"})
"""File systems on which neither SQLite's write-ahead log nor the journal's lock can be trusted
(sqlite.org/wal.html: all processes must be on the same host)."""

LOCK = "journal.db.lock"
"""The journal's lock file in the state directory."""

_BOUND = re.compile(
    rf" (?P<inode>\d+) +(?P<directory>/.*)/\.{re.escape(SOCKET_NAME)}\.(?P<pid>\d+)$", re.M
)
"""A line of /proc/net/unix, with the name under which a control socket was bound."""

_LOCK = re.compile(r"^\d+: FLOCK +ADVISORY +WRITE +(?P<pid>\d+) +\w+:\w+:(?P<inode>\d+) ", re.M)
"""A line of /proc/locks (proc(5))."""


# -- descriptors ----------------------------------------------------------------------------------


def files(accounts: int, soft: int, used: int | None, subject: str) -> Finding:
    """Whether so many accounts fit under a limit of descriptors, and how many are used already."""
    wanted = OWN + PER_ACCOUNT * accounts
    remedy = f"raise it to {max(wanted, 65_536)}: LimitNOFILE= in the unit, `ulimit -n` in a shell"
    taken = "" if used is None else f", {used} in use"
    if used is not None and used >= soft * 0.9:
        what = f"{used} of {soft} file descriptors are in use"
        return Finding("files", subject, Verdict.FAIL, what, f"{remedy}; then restart the gateway")
    if soft < wanted:
        what = (
            f"a limit of {soft} file descriptors{taken}, but {accounts} accounts may need {wanted}"
        )
        return Finding("files", subject, Verdict.WARN, what, remedy)
    what = f"a limit of {soft} file descriptors{taken}"
    return Finding("files", subject, Verdict.OK, what)


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc tells of a process."""

    pid: int
    limit: int | None
    """Its soft limit of descriptors."""
    used: int | None
    """Its descriptors; None when it is another user's."""


def process(pid: int, proc: Path = Path("/proc")) -> Process:
    """A process as /proc shows it; what can not be read is None."""
    home = proc / str(pid)
    return Process(pid, _limit(home), _descriptors(home))


def _limit(home: Path) -> int | None:
    found = re.search(r"^Max open files +(\d+)", text_of(home / "limits"), re.M)
    return int(found[1]) if found else None


def _descriptors(home: Path) -> int | None:
    try:
        return sum(1 for _ in (home / "fd").iterdir())
    except OSError:
        return None


def text_of(path: Path) -> str:
    """A file of /proc; empty when it can not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# -- disk -----------------------------------------------------------------------------------------


def disk(path: Path, free: int, inodes: int | None) -> Finding:
    """Whether there is room; ``inodes`` is None where the file system does not count them."""
    remedy = "make room: on a full disk no message is taken in (the platforms keep them)"
    if inodes is not None and inodes < 100:
        return Finding("disk", str(path), Verdict.FAIL, f"only {inodes} inodes are left", remedy)
    left = f"{free / 2**20:,.0f} MiB are free"
    if free < FAIL_BYTES:
        return Finding("disk", str(path), Verdict.FAIL, f"only {left}", remedy)
    if free < WARN_BYTES:
        return Finding("disk", str(path), Verdict.WARN, f"only {left}", remedy)
    return Finding("disk", str(path), Verdict.OK, left)


def space(directory: Path) -> Iterator[Finding]:
    """The room on a directory's disk, or its future one's. Raises OSError; may block."""
    found = os.statvfs(existing(directory))
    if not found.f_blocks:  # no disk, such as /proc; `state_permissions` tells
        return
    yield disk(
        directory, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None
    )


def file_system(directory: Path, mounts: str) -> Finding | None:
    """Whether the state is on a file system that can hold it, by the text of /proc/mounts."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = [*line.split(), "", "", ""]
        point = point.replace("\\040", " ")
        if directory.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    if kind not in REMOTE:
        return None
    what = f"the state directory is on a network file system ({kind})"
    remedy = "move it to a local disk: state_dir in [gateway]"
    return Finding("disk", str(directory), Verdict.FAIL, what, remedy)


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return path if path.exists() or path == path.parent else existing(path.parent)


# -- permissions ----------------------------------------------------------------------------------


def state_permissions(directory: Path) -> Iterator[Finding]:
    """Whether this user can use the state directory, and others can not. Raises OSError."""
    subject = str(directory)
    place = existing(directory)
    try:
        check_state_dir(directory, subject)
    except ConfigError as error:
        yield Finding("permissions", subject, Verdict.FAIL, error.problem, error.hint)
        return
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        what = f"this user ({_user(os.geteuid())}) can not write there"
        owner = place.stat().st_uid
        remedy = (
            f"run Holdfast as its owner, {_user(owner)}, or: "
            f"sudo chown -R {_user(os.geteuid())} {place}"
        )
        if owner == os.geteuid():
            remedy = f"run: chmod u+rwx {place}"
        yield Finding("permissions", subject, Verdict.FAIL, what, remedy)
        return
    yield from _foreign(directory, place)


def _foreign(directory: Path, place: Path) -> Iterator[Finding]:
    subject = str(directory)
    if place != directory:
        what = "is not there yet; the gateway makes it"
        yield Finding("permissions", subject, Verdict.OK, what)
        return
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        what = f"others can look into it (mode {mode:04o}), and it holds people's messages"
        yield Finding("permissions", subject, Verdict.WARN, what, f"run: chmod 700 {directory}")
    else:
        yield Finding("permissions", subject, Verdict.OK, "this user's alone")
    owners = {path.stat().st_uid for path in directory.iterdir()} - {os.geteuid()}
    if owners and os.geteuid() != 0:
        what = f"files in it belong to {', '.join(sorted(map(_user, owners)))}"
        remedy = "run Holdfast as one user always, then: " + (
            f"sudo chown -R {_user(os.geteuid())} {directory}"
        )
        yield Finding("permissions", subject, Verdict.FAIL, what, remedy)


def private(path: Path, holds: str) -> Iterator[Finding]:
    """Whether a file with secrets is kept from others. Raises OSError."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        what = f"{holds}, and others can read it (mode {mode:04o})"
        yield Finding("permissions", str(path), Verdict.WARN, what, f"run: chmod 600 {path}")
    else:
        yield Finding("permissions", str(path), Verdict.OK, f"{holds}; this user's alone")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# -- who holds a state directory ------------------------------------------------------------------


def occupant(directory: Path, proc: Path = Path("/proc")) -> int | None:
    """The process that has a state directory, whether or not it can be asked; None for nobody."""
    return holder(directory / LOCK, text_of(proc / "locks")) or listener(directory, proc)


def bound(sockets: str) -> Iterator[tuple[Path, int, str]]:
    """The control sockets by the text of /proc/net/unix: their directories, processes, inodes.

    A directory with too long a path for that is not told: its socket was bound through a descriptor
    (`web.control`) that only the process itself could follow.
    """
    for found in _BOUND.finditer(sockets):
        if not found["directory"].startswith("/proc/self/fd/"):
            yield Path(found["directory"]), int(found["pid"]), found["inode"]


def listener(directory: Path, proc: Path) -> int | None:
    """This user's process that listens for a directory, whether or not its socket has a name."""
    for place, pid, inode in bound(text_of(proc / "net" / "unix")):
        if place == directory and f"socket:[{inode}]" in _open(proc / str(pid) / "fd"):
            return pid
    return None


def _open(descriptors: Path) -> Iterator[str]:
    with suppress(OSError):  # gone meanwhile, or another user's
        for one in descriptors.iterdir():
            with suppress(OSError):
                yield str(one.readlink())


def holder(lock: Path, locks: str) -> int | None:
    """The process that holds a journal's lock file, by the text of /proc/locks; None for nobody.

    Looks only: taking the lock to see whether it is free could keep a gateway from starting.
    """
    try:
        inode = str(lock.stat().st_ino)
    except OSError:
        return None
    return next((int(m["pid"]) for m in _LOCK.finditer(locks) if m["inode"] == inode), None)
