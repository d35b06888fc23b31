"""Who judges the play of matrix_synapse.py: people at their client, and a reader of the status."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import nio

from holdfast.observe.status import AccountStatus, believed, doubt, read

BOT = "@bot:localhost"

SAMPLE = 0.1
"""Seconds between two looks at the status file."""


@dataclass(slots=True)
class Act:
    """A part of the play; the bot is deaf from ``struck`` to ``healed``. Monotonic seconds."""

    title: str
    silence: float
    """Seconds of deafness after which `connected` is a lie."""
    states: list[str] = field(default_factory=list)
    struck: float | None = None
    noticed: float | None = None
    healed: float | None = None
    recovered: float | None = None
    lie: float = 0.0
    seen: dict[str, Any] = field(default_factory=dict)
    """What else the act has to show."""

    def sample(self, state: str, since_last: float) -> None:
        """Hold what may be believed now against the truth."""
        now = monotonic()
        if self.states[-1:] != [state]:
            self.states.append(state)
        if self.healed is not None:
            if self.recovered is None and state == "connected":
                self.recovered = now
        elif self.struck is not None and state != "connected":
            self.noticed = self.noticed or now
        elif self.struck is not None and now - self.struck > self.silence:
            self.lie += since_last

    def figures(self) -> dict[str, Any]:
        """What the act showed, times in seconds."""

        def span(start: float | None, end: float | None) -> float | None:
            return None if start is None or end is None else round(end - start, 1)

        return {
            "act": self.title,
            "states": self.states,
            "deaf_s": span(self.struck, self.healed),
            "detection_s": span(self.struck, self.noticed),
            "recovery_s": span(self.healed, self.recovered),
            "lie_s": round(self.lie, 1),
            **self.seen,
        }


class StatusReader:
    """Reads the status file, as anybody may."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def account(self) -> AccountStatus | None:
        """What the file says of the bot; None when it may not be believed."""
        try:
            status = read(self._path)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return None if doubt(status) else status.accounts.get("bot")

    def state(self) -> str:
        """The state that may be believed now."""
        account = self.account()
        return "unknown" if account is None else believed(account)

    def blame(self) -> dict[str, str]:
        """Why the bot is not connected, and who must act."""
        account = self.account()
        cause = None if account is None else account.cause
        return {} if cause is None else {"code": cause.code, "who_acts": cause.who_acts}

    async def watch(self, acts: list[Act]) -> None:
        """Sample the state for the act that is on, until cancelled."""
        before = monotonic()
        while True:
            now = monotonic()
            acts[-1].sample(self.state(), now - before)
            before = now
            await asyncio.sleep(SAMPLE)


class People:
    """Ann and bob, and what ann sees: the order of her rooms is the server's own."""

    def __init__(self, url: str) -> None:
        config = nio.AsyncClientConfig(max_timeout_retry_wait_time=1)
        self.ann = nio.AsyncClient(url, "@ann:localhost", config=config)
        self.bob = nio.AsyncClient(url, "@bob:localhost", config=config)
        self.said: list[str] = []
        self._seen: dict[str, tuple[str, Any]] = {}
        """Event id -> room and event, in the order in which they came."""
        kinds = (nio.RoomMessageText, nio.RoomMessageNotice)
        self.ann.add_event_callback(self._hear, kinds)

    async def log_in(self, password: str) -> None:
        """Both log in."""
        for client in (self.ann, self.bob):
            answer = await client.login(password)
            assert isinstance(answer, nio.LoginResponse), answer

    async def close(self) -> None:
        """Both leave."""
        await self.ann.close()
        await self.bob.close()

    async def sync(self, hold: int = 0) -> None:
        """One sync of ann's client, which the server holds for so many milliseconds."""
        await self.ann.sync(hold, sync_filter={"room": {"timeline": {"limit": 1000}}})

    async def listen(self) -> None:
        """Ann's client syncs until cancelled."""
        while True:
            await self.sync(2000)

    async def say(self, who: nio.AsyncClient, room: str, text: str, **content: Any) -> str:
        """Write; the client repeats it under one transaction id until the server has taken it."""
        body = {"msgtype": "m.text", "body": text, **content}
        answer = await who.room_send(room, "m.room.message", body)
        assert isinstance(answer, nio.RoomSendResponse), answer
        self.said.append(text)
        return str(answer.event_id)

    def relation_of_answer(self, text: str) -> dict[str, Any]:
        """How the bot's answer to a text is tied to what was said."""
        found = (event for _, event in self._seen.values() if event.body == f"echo: {text}")
        return dict(next(found).source["content"].get("m.relates_to", {}))

    def unanswered(self) -> int:
        """How many of the messages the server has taken have no answer yet."""
        answers = {text for room in self._rooms() for text in self._lines(room, bots=True)}
        return sum(text not in answers for text in self.said)

    def books(self) -> dict[str, Any]:
        """Whether everything said was answered once, in the order of its room."""
        pairs = [(self._lines(r, bots=False), self._lines(r, bots=True)) for r in self._rooms()]
        answers = [text for _, answered in pairs for text in answered]
        return {
            "sent": len(self.said),
            "answered": len(self.said) - self.unanswered(),
            "lost": self.unanswered(),
            "doubled": len(answers) - len(set(answers)),
            "in_order": all(asked == answered for asked, answered in pairs),
        }

    async def _hear(self, room: nio.MatrixRoom, event: nio.RoomMessage) -> None:
        self._seen.setdefault(event.event_id, (room.room_id, event))

    def _rooms(self) -> set[str]:
        return {room for room, _ in self._seen.values()}

    def _lines(self, room: str, *, bots: bool) -> list[str]:
        """What was said in a room by people, or by the bot without its ``echo: ``."""
        events = [event for where, event in self._seen.values() if where == room]
        return [e.body.removeprefix("echo: ") for e in events if (e.sender == BOT) is bots]
