"""More words for modes: what must be so of messages, of the journal, and of a life that ended.

Each gives a `Step`, as those of `holdfast.lab.steps` do; what is not as it must be is noted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from holdfast.lab.agent import PARTS
from holdfast.lab.checker import Row
from holdfast.lab.judge import STOP
from holdfast.lab.mode import Step
from holdfast.lab.record import Late
from holdfast.lab.scene import SWITCHES, Scene, Seat
from holdfast.lab.steps import READY, connected, is_up
from holdfast.lab.subjects import Left
from holdfast.lab.terms import BACK, SILENCE, Ability, Play
from holdfast.store.protocol import InboxState

DEATH = 30.0
"""Seconds in which a process must have met the death that was prepared for it."""

UNHARMED = 5.0
"""Seconds connected after which a life is taken to have got over what killed those before."""

JITTER = 2
"""Sockets, tasks, threads or descriptors that may be on their way at a moment of counting."""

GROWTH = 1.05
"""What hundreds of reconnects may add to the memory. In the lab's own process that holds for the
platform's log, too, which takes a few hundred kilobytes of it."""


# -- messages --------------------------------------------------------------------------------------


def newest_answered(chat: str, within: float) -> Step:
    """What was said last in a chat is answered, whatever became of the rest."""

    async def do(scene: Scene) -> None:
        seat = scene.seat
        newest = [asked for asked in seat.said if asked.chat == chat][-1]
        if not await scene.until(lambda: (chat, newest.token) not in seat.waiting, within):
            scene.object(Late(f"{newest.token} not answered within {within:g} s"))

    return Step(f"the newest message in {chat} is answered within {within:g} s", do)


def repeated() -> Step:
    """Give a platform that repeats in its own time that time."""

    async def do(scene: Scene) -> None:
        await asyncio.sleep(scene.seat.profile.redelivery)

    return Step("everything not taken yet is sent again", do)


def told_in_parts() -> Step:
    """The last answer came in all its parts, in their order, each once."""

    async def do(scene: Scene) -> None:
        texts = [one.text for one in scene.seat.simulator.heard if one.edit_of is None]
        parts = [n for text in texts for n in range(1, PARTS + 1) if f"part {n} of" in text]
        if parts != [*range(1, PARTS + 1)]:
            scene.object(f"the parts of one answer came as {parts}")

    return Step(f"one answer came in {PARTS} parts, in order", do)


def asked_once() -> Step:
    """Every answer to ``#attempt`` is that of the first try: the agent was asked no second time."""

    async def do(scene: Scene) -> None:
        heard = [one for one in scene.seat.simulator.heard if "#attempt" in one.text]
        again = [one.text for one in heard if "attempt 1:" not in one.text]
        if again or not heard:
            scene.object(f"the agent was asked again: {again or 'no answer at all'}")

    return Step("the agent was asked once", do, frozenset({Ability.AGENT}))


def told_once() -> Step:
    """No answer came twice where the platform knows repetitions; elsewhere the law of marks."""

    async def do(scene: Scene) -> None:
        for seat in scene.seats.values():
            heard = Counter((answer.chat, answer.token) for answer in seat.heard)
            doubled = [token for (_, token), times in heard.items() if times > 1]
            if doubled and seat.profile.idempotent:
                scene.object(f"told twice: {', '.join(doubled)}", seat)

    return Step("nothing is told twice where the platform can tell", do)


def passed_over(age: float) -> Step:
    """What was older than ``age`` seconds when the bot was started last is heard of by nobody, and
    is in the journal as dropped."""

    async def do(scene: Scene) -> None:
        seat = scene.seat
        waited, moment = scene.notes["waited"], scene.notes["back"] - age
        old = [q for q in seat.said if (q.chat, q.token) in waited and q.at < moment]
        answered = sum((asked.chat, asked.token) not in seat.waiting for asked in old)
        if answered or not old:
            scene.object(f"of {len(old)} stale messages {answered} were answered")
        # They are accounted for: the owner wanted it so, and can read of them in the journal.
        seat.said = [asked for asked in seat.said if asked not in old]
        seat.waiting -= {(asked.chat, asked.token) for asked in old}

        def listed(rows: Sequence[Row]) -> None:
            kept = {row.token for row in rows if row.state == InboxState.DROPPED}
            if missing := [asked.token for asked in old if asked.token not in kept]:
                scene.object(f"{len(missing)} stale messages are not listed: {missing[:3]}")

        scene.epilogue.append(listed)

    words = f"what was older than {age:g} s is passed over, and listed"
    return Step(words, do, frozenset({Ability.JOURNAL}))


def buried(number: int) -> Step:
    """What is not answered by now are dead letters, so many, and wait for a person."""

    async def do(scene: Scene) -> None:
        scene.seat.waiting.clear()

        def listed(rows: Sequence[Row]) -> None:
            dead = [row.token for row in rows if row.state == InboxState.DEAD]
            if len(dead) != number:
                scene.object(f"{len(dead)} dead letters, not {number}: {', '.join(dead)}")

        scene.epilogue.append(listed)

    return Step(f"{number} messages are dead letters", do, frozenset({Ability.JOURNAL}))


# -- lives -----------------------------------------------------------------------------------------


def back() -> Step:
    """Start the subject after a clean end, and take note of when."""

    async def do(scene: Scene) -> None:
        scene.notes["back"], scene.notes["waited"] = scene.wall(), set(scene.seat.waiting)
        await connected().do(scene)

    return Step("start it again", do)


def charge(point: str) -> Step:
    """The next life ends at a kill point (T14), by SIGKILL, the first time it comes there."""

    async def do(scene: Scene) -> None:
        scene.running.charge(point)

    needs: set[Play | Ability] = {Ability.KILL_POINT}
    if point == "after-ack":
        needs.add(Play.REDELIVER)  # elsewhere nothing comes again that a death there could lose
    return Step(f"prepare its death {point.replace('-', ' ')}", do, frozenset(needs))


def dies(within: float = DEATH) -> Step:
    """The subject ends by itself, as it was prepared or asked to."""

    async def do(scene: Scene) -> None:
        scene.notes["gone"] = scene.now()
        if not await scene.until(lambda: _gone(scene), within):
            scene.object(f"it lived on for {within:g} s")

    return Step("it dies", do, frozenset({Ability.KILL}))


def survives(deaths: int) -> Step:
    """Start the subject again as often as it dies, which it may do so many times."""

    async def do(scene: Scene) -> None:
        began = scene.now()
        for died in range(deaths + 1):
            await scene.running.start()
            up = await scene.until(lambda: _gone(scene) or is_up(scene.seat), READY)
            if up and not await scene.until(lambda: _gone(scene), UNHARMED):
                scene.tell(f"it has died {died} times more")
                break
        else:
            scene.object(f"it died more than {deaths} times")
        scene.absent(began)

    return Step(f"start it again; it dies {deaths} times at most", do, frozenset({Ability.KILL}))


def _gone(scene: Scene) -> bool:
    """A process that has ended has nothing in use; one that begins publishes nothing yet."""
    return scene.running.census() == Left()


def silent_server(within: float = STOP) -> Step:
    """The platform sees nobody listening any more: the subject's sockets are closed. One that
    calls by itself can not see that; there no call is under way."""

    async def do(scene: Scene) -> None:
        stage = scene.seat.stage

        def closed() -> bool:
            if stage.called:
                return not stage.cable.inward.connections
            return not stage.simulator.listening()

        if not await scene.until(closed, within):
            scene.object(f"somebody still listens {within:g} s after the stop")

    return Step(f"nobody listens any more within {within:g} s", do)


def never(state: str) -> Step:
    """So far, no account was ever in this state."""

    async def do(scene: Scene) -> None:
        for seat in scene.seats.values():
            if any(moment.state == state for moment in seat.record.moments):
                scene.object(f"it was {state}", seat)

    return Step(f"it never was {state}", do, frozenset({Ability.STATUS}))


# -- connections -----------------------------------------------------------------------------------


def cut_off() -> Step:
    """The connection is ended, and none can be opened until that is noticed: nobody can go on as if
    nothing had been. Where it is not the bot that calls, those who do lose theirs."""

    async def do(scene: Scene) -> None:
        seat = scene.seat
        scene.look()
        scene.notes["made"] = _made(seat)
        seat.throw(SWITCHES["rst"])
        fault = scene.strike("cut off")
        if seat.stage.called:
            return
        seat.throw(SWITCHES["refuse"])
        if not scene.running.publishes:
            await asyncio.sleep(SILENCE)
        elif not await scene.until(lambda: fault.noticed is not None, SILENCE):
            scene.object(f"not noticed within {SILENCE:g} s")

    return Step("the connection is cut off, and no other can be opened", do)


def renewed() -> Step:
    """There is another connection than the one that was `cut_off`, as the platform counts them and
    as the status does."""

    async def do(scene: Scene) -> None:
        seat, before = scene.seat, scene.notes["made"]

        def anew() -> bool:
            return all(now > then for now, then in zip(_made(seat), before, strict=True))

        limit = max(seat.profile.returns, seat.profile.first_wait) + BACK
        if not await scene.until(anew, limit):
            scene.object(f"no other connection within {limit:g} s")

    return Step("it has another connection", do)


def _made(seat: Seat) -> tuple[int, ...]:
    """How many connections there have been."""
    links = seat.profile.links(seat.simulator)
    told = seat.record.moments[-1].generation
    return (links,) if seat.stage.called or told is None else (links, told)


# -- resources -------------------------------------------------------------------------------------


def counted() -> Step:
    """Take note of what the subject has in use (T17), for `flat`."""

    async def do(scene: Scene) -> None:
        scene.notes["census"] = scene.running.census()

    return Step("count what is in use", do)


def flat() -> Step:
    """No more is in use than was `counted`, but for `JITTER` and `GROWTH`."""

    async def do(scene: Scene) -> None:
        before, now = scene.notes["census"], scene.running.census()
        for what in ("tasks", "threads", "sockets", "descriptors"):
            was, has = getattr(before, what), getattr(now, what)
            if has > was + JITTER:
                scene.object(f"{what} grew from {was} to {has}")
        if now.memory > before.memory * GROWTH:
            scene.object(f"memory grew from {before.memory} to {now.memory} bytes")

    return Step("no more is in use than before", do)
