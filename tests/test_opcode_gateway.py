"""What Discord's and QQ's gateways share: frames, resuming, the login quota, the spacing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from holdfast.adapter import BadFrame, Link, WebSocket, WebSocketClosed
from holdfast.opcode_gateway import Frame, Op, Pace, StartLimit, Talk, close_cause, resumable
from holdfast.supervision import Cause, Kind

SESSION = {"session": "s1", "seq": 7}
LOST = Cause(Kind.LOST, "lost")


class Wire:
    """A link and its socket in one: plays frames, and keeps what it is told."""

    def __init__(self, *frames: str, cursor: dict[str, Any] | None = None) -> None:
        self.frames, self.resume = frames, True
        self.cursor = dict(cursor or {})
        self.sent, self.said = list[str | bytes](), list[Any]()

    @property
    def link(self) -> Link:
        """Itself."""
        return cast(Link, self)

    def talk(self) -> Talk:
        """A conversation over it."""
        return Talk(link=self.link, ws=cast(WebSocket, self))

    async def __aiter__(self) -> AsyncIterator[str]:
        for frame in self.frames:
            yield frame
        raise WebSocketClosed(1006)

    async def send(self, data: str | bytes) -> None:
        """See `holdfast.adapter.WebSocket`."""
        self.sent.append(data)

    def step(self, name: str, limit: float | None = None) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(name)

    def logged_in(self, *quota: float) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(quota)

    def acked(self) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append("acked")

    def skip(self, what: str, raw: bytes | str = b"") -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(("skip", raw))

    async def commit(self) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append("commit")


async def test_frames_come_in_order_and_junk_between_them_is_skipped() -> None:
    wire, taken = Wire('{"op":10}', "junk", '{"op":"1"}', '{"op":0,"s":3,"t":"X"}'), list[Frame]()

    async def take(frame: Frame) -> None:
        taken.append(frame)

    with pytest.raises(WebSocketClosed):
        await wire.talk().converse(take)
    assert [(frame.op, frame.s, frame.t) for frame in taken] == [(10, None, None), (0, 3, "X")]
    assert wire.said == [("skip", "junk"), ("skip", '{"op":"1"}')]


async def test_heartbeats_are_answered_and_acknowledgements_noted() -> None:
    wire, taken = Wire('{"op":1}', '{"op":11}'), list[Frame]()

    async def take(frame: Frame) -> None:
        taken.append(frame)

    with pytest.raises(WebSocketClosed):
        await wire.talk().converse(take)
    assert (wire.sent, wire.said, taken) == (['{"op":1,"d":null}'], ["acked"], [])


@pytest.mark.parametrize(("ready", "end"), [(False, BadFrame), (True, WebSocketClosed)])
async def test_only_an_unreadable_handshake_ends_a_connection(
    ready: bool, end: type[Exception]
) -> None:
    async def take(frame: Frame) -> None:
        raise BadFrame("unreadable")

    wire = Wire('{"op":10}')
    talk = wire.talk()
    talk.ready = ready
    with pytest.raises(end):
        await talk.converse(take)
    assert wire.said == [("skip", '{"op":10}')] * ready


async def test_a_heartbeat_claims_what_is_stored_and_no_more() -> None:
    wire = Wire()
    talk = wire.talk()
    seq = talk.reached(Frame(Op.DISPATCH, 5))
    await talk.send_beat()
    talk.done = seq
    await talk.send_beat()
    assert wire.sent == ['{"op":1,"d":null}', '{"op":1,"d":5}']
    assert talk.reached(Frame(Op.DISPATCH, 4)) == wire.cursor["seq"] == 5


@pytest.mark.parametrize(
    ("resume", "cursor", "possible"),
    [(True, SESSION, True), (False, SESSION, False), (True, {"session": "s1"}, False)],
)
def test_what_can_be_resumed(resume: bool, cursor: dict[str, Any], possible: bool) -> None:
    wire = Wire(cursor=cursor)
    wire.resume = resume
    assert resumable(wire.link) is possible


async def test_a_resume_names_session_and_number() -> None:
    wire = Wire(cursor=SESSION)
    talk = wire.talk()
    await talk.send_resume("secret")
    assert wire.sent == ['{"op":6,"d":{"token":"secret","session_id":"s1","seq":7}}']
    assert (talk.done, wire.said) == (7, ["resume"])


def test_a_spent_quota_waits_for_its_reset() -> None:
    assert StartLimit(remaining=1).exhausted("none_left") is None
    cause = StartLimit(remaining=0, total=9, reset_after=5_000).exhausted("none_left", "; sorry")
    message = "all 9 logins of the day are spent; sorry"
    assert cause == Cause(Kind.THROTTLED, "none_left", message, retry_after=5.0)


async def test_an_identify_is_counted_and_the_next_one_spaced() -> None:
    wire, pace = Wire(cursor=SESSION), Pace()
    assert await pace.settle(wire.link, LOST) == LOST
    pace.identify(wire.link, StartLimit(10, 4, 2_000, 2))
    assert (wire.cursor, wire.said) == ({}, ["identify", (3, 10, 2.0)])
    assert (await pace.settle(wire.link, LOST)).retry_after == 2.5
    await asyncio.sleep(2.5)
    assert await pace.settle(wire.link, LOST) == LOST


async def test_an_unknown_quota_is_spaced_for_one_at_a_time() -> None:
    wire, pace = Wire(), Pace()
    pace.identify(wire.link, None)
    assert wire.said == ["identify", ()]
    assert (await pace.settle(wire.link, LOST)).retry_after == 5.0
    longer = Cause(Kind.THROTTLED, "wait", retry_after=60.0)
    assert await pace.settle(wire.link, longer) == longer


async def test_a_session_that_lives_on_does_not_wait_for_an_identify() -> None:
    wire, pace = Wire(), Pace()
    pace.identify(wire.link, None)
    wire.cursor.update(SESSION)
    assert await pace.settle(wire.link, LOST) == LOST
    over = await pace.settle(wire.link, Cause(Kind.SESSION, "over"))
    assert (over.retry_after, wire.cursor, wire.said[-1]) == (5.0, {}, "commit")


def test_what_a_close_means_is_told_in_the_platforms_name() -> None:
    table = {4004: (Kind.CREDENTIALS, "bad token", "Get another.")}
    known = close_cause("Parrot", table, 4004, "who?")
    message = "Parrot closed the gateway with 4004: bad token (who?)"
    assert known == Cause(Kind.CREDENTIALS, "parrot_close_4004", message, "Get another.")
    assert close_cause("Parrot", table, 4444).kind is Kind.LOST
    assert close_cause("Parrot", table, 4008).retry_after == 60.0
