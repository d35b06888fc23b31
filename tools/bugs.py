"""Mistakes somebody could make in Holdfast, as data, and who must notice each.

A bug is an exact replacement of text. Those of the supervision core must be noticed by the core's
own tests; those with a `Cell` by the lab, in its quick set and for the reason that is named.
`tools/planted_bugs.py` plants them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path("src/holdfast")
CORE_ROOM = "supervision/"


class CanNotPlant(Exception):
    """The text to be replaced is not in the file exactly once, or what judges it can not work."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A play of the lab's quick set, and a part of what its judge must say."""

    mode: str
    variant: str
    platform: str
    words: str

    def __str__(self) -> str:
        return f"{self.mode} ({self.variant}) on {self.platform}"


@dataclass(frozen=True, slots=True)
class Bug:
    """One mistake somebody could make."""

    name: str
    file: str
    """Below the package."""
    old: str
    new: str
    cell: Cell | None = None
    """The play that must fail."""

    @property
    def in_core(self) -> bool:
        """Whether the core's own tests must notice it."""
        return self.file.startswith(CORE_ROOM)

    def plant(self, root: Path) -> None:
        """Apply it below ``root``. Raises CanNotPlant."""
        path = root / PACKAGE / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise CanNotPlant(f"{self.name}: {text.count(self.old)} places in {self.file}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


CORE = (
    Bug(
        "no generation check",
        "supervision/machine.py",
        "if isinstance(event, FromConnection) and event.generation != self._current.generation:",
        "if isinstance(event, FromConnection) and self._current.generation is None:",
        Cell("server-goodbye-ignored", "notice", "slack", "sockets grew from"),
    ),
    Bug(
        "no deadline in LIVE",
        "supervision/machine.py",
        "return min(self._proof_by(), self._stable_at())",
        "return inf",
    ),
    Bug(
        "counters reset on ready",
        "supervision/machine.py",
        "self._go(trigger, State.LIVE, now)",
        "self._tally.reset(); self._go(trigger, State.LIVE, now)",
        Cell("quick-disconnect-loop", "for five minutes", "qqbot", "15 are allowed"),
    ),
    Bug(
        "no burst limit",
        "supervision/pace.py",
        "if len(self._opens) >= self.policy.opens_limit:",
        "if False:",
    ),
    Bug(
        "double start opens twice",
        "supervision/machine.py",
        "        elif self.state is State.STOPPED:\n            if memory is not None:",
        "        else:\n            self.state = State.STOPPED\n            if memory is not None:",
    ),
    Bug(
        "retry-after clamped",
        "supervision/pace.py",
        "max(self.wait_until, now + seconds)",
        "max(self.wait_until, now + min(seconds, 10.0))",
        Cell("retry-after-ignored", "at login", "slack", "6775 s were asked for"),
    ),
    Bug(
        "a kick lifts the server's wait",
        "supervision/machine.py",
        "self._retry_at = min(self._retry_at, self._earliest(now, now))",
        "self._retry_at = now",
    ),
    Bug(
        "stop ignored in back-off",
        "supervision/machine.py",
        "        self._wanted = False\n        if self.state in _UP:",
        "        if self.state is State.BACKOFF:\n            return\n"
        "        self._wanted = False\n        if self.state in _UP:",
        Cell("sleep-blocks-shutdown", "a long wait to try again", "qqbot", "did not stop within"),
    ),
    Bug(
        "missed heartbeats not counted",
        "supervision/pulse.py",
        "        if self.awaiting:\n            self.missed += 1\n",
        "",
    ),
    Bug(
        "any byte acknowledges a heartbeat",
        "supervision/pulse.py",
        "        self.last = now\n\n    def ack",
        "        self.last = now\n        self.awaiting, self.missed = False, 0\n\n    def ack",
    ),
    Bug(
        "a late clock convicts",
        "supervision/machine.py",
        "late = self._late(self._proof_by(), now)",
        "late = False",
    ),
    Bug(
        "a clock that is always late is an excuse for ever",
        "supervision/current.py",
        "return self._excuses <= EXCUSES",
        "return True",
    ),
    Bug(
        "a refused resume waits out the ladder",
        "supervision/machine.py",
        "elif at_once and self._pace.recycle(now):",
        "elif at_once and not self._resuming and self._pace.recycle(now):",
    ),
    Bug(
        "a verdict blocks without confirmation",
        "supervision/verdict.py",
        "if verified or not self._was_well:",
        "if True:",
    ),
    Bug(
        "connected is a flag",
        "supervision/machine.py",
        "return Published.CONNECTED if now <= pulse.dead_at else Published.RETRYING",
        "return Published.CONNECTED",
    ),
    Bug(
        "quick lives not counted",
        "supervision/tally.py",
        "self.quick += quick",
        "self.quick += 0",
    ),
    Bug(
        "the outage clock is renewed by attempts",
        "supervision/machine.py",
        "if self._outage_since is None and not planned:",
        "if not planned:",
    ),
    Bug(
        "a failed kick shortens the back-off",
        "supervision/machine.py",
        "if planned is not None and planned > now:",
        "if False:",
    ),
    Bug(
        "no abort behind the close",
        "supervision/machine.py",
        "            current.aborted = True\n            current.by",
        "            current.by",
    ),
    Bug(
        "the old connection closes before its successor is ready",
        "supervision/machine.py",
        "        self._beside.dial(self.generation, now)\n",
        "        self._beside.dial(self.generation, now)\n"
        "        self._out.append(Close(self.generation - 1))\n",
    ),
    Bug(
        "a former connection is never closed",
        "supervision/overlap.py",
        "now + self.policy.drain_timeout)",
        "inf)",
    ),
    Bug(
        "stopped before the last connection has ended",
        "supervision/machine.py",
        "        if self._beside:\n            self._out += self._beside.close(now)\n",
        "        if False:\n            self._out += self._beside.close(now)\n",
    ),
    Bug(
        "logins of the storm are not budgeted",
        "supervision/pace.py",
        "        if fresh:\n            at = max(at, self._budgeted(now))\n",
        "",
    ),
)

GATEWAY = (
    Bug(
        "acknowledged before the commit",
        "gateway/connection.py",
        "        try:\n            await self._host.accept(messages, dict(self.cursor))\n",
        "        for call in then:\n            await call()\n        then = []\n"
        "        try:\n            await self._host.accept(messages, dict(self.cursor))\n",
        Cell("retry-envelope-dropped", "no room to store it", "feishu", "lost: "),
    ),
    Bug(
        "the status is a flag: no proof gets old",
        "supervision/pulse.py",
        "        return self.last + self.silence\n",
        "        return self.last + 1e9\n",
        Cell("zombie-half-open", "cut", "dingtalk", "connected was a lie for"),
    ),
    Bug(
        "probe never sent",
        "gateway/connection.py",
        '            self._help(partial(self._ask, ask), "probe")',
        "            pass",
        Cell(
            "network-path-change",
            "with the kernel's notice of another way",
            "qqbot",
            "a healthy account was disturbed",
        ),
    ),
    Bug(
        "cancel swallowed",
        "gateway/connection.py",
        "            await self._host.adapter.run(self)\n        except AdapterError:",
        "            while not self._over:\n"
        "                with contextlib.suppress(asyncio.CancelledError):\n"
        "                    await self._host.adapter.run(self)\n"
        "                    break\n"
        "        except AdapterError:",
        Cell("closed-session-loop", "stopped and started", "qqbot", "not connected within 60 s"),
    ),
    Bug(
        "heartbeat not restarted",
        "gateway/connection.py",
        "        if self._beat is not None:",
        "        if self._beat is not None and self.generation == 1:",
        Cell("heartbeat-task-lost", "after-reconnect", "discord", "not connected for"),
    ),
    Bug(
        "outbox refused while down",
        "gateway/sender.py",
        "if self._stopping or row.state not in",
        "if self._stopping or not self._up.is_set() or row.state not in",
        Cell("outbound-dropped-while-down", "finished while it is down", "qqbot", "lost: "),
    ),
    Bug(
        "sent again although it was answered, and marked",
        "gateway/sender.py",
        "                receipt = await self._try(row)\n",
        "                receipt = await self._try(row)\n"
        "                if not unknowns:\n"
        "                    raise TimeoutError\n",
        Cell("zombie-half-open", "cut", "telegram", "ambiguous: "),
    ),
    Bug(
        "no session is ever resumed",
        "adapters/qqbot_gateway.py",
        "        if resumable(link):\n            await talk.send_resume(token)\n",
        "        if False:\n            await talk.send_resume(token)\n",
        Cell("zombie-half-open", "cut", "qqbot", "lost: "),
    ),
    Bug(
        "a gap has no beginning",
        "gateway/account.py",
        "since = self._proof_before - GAP_LEAD",
        "since = 0.0",
        Cell("zombie-half-open", "cut", "dingtalk", "in which all was well"),
    ),
    Bug(
        "a server's wait is not waited for by sends",
        "gateway/sender.py",
        "            delay = max(delay, cause.retry_after)\n",
        "            pass\n",
        Cell("retry-after-ignored", "at a send", "telegram", "6775 s were asked for"),
    ),
)

BUGS = (*CORE, *GATEWAY)
