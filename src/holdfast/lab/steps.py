"""The words of which modes are made. Each gives a `Step`: what is said of it, and how it is done.

Waits give up after what is expected and some patience, and leave the verdict to the judge: a
subject that never comes back must be measured as well as one that does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.lab.fault import Fault
from holdfast.lab.faults.blocker import stall_virtual
from holdfast.lab.mode import Step
from holdfast.lab.record import Late
from holdfast.lab.scene import PATIENCE, SWITCHES, Scene
from holdfast.lab.terms import SILENCE, Ability, Play
from holdfast.testing import VirtualTimeLoop

ANSWER = 30.0
"""Seconds in which a healthy bot must have answered: some platforms let it speak once a second."""

ENDS = frozenset({"rst", "fin"})
"""Switches whose effect is told by the kernels, to whom it concerns."""

MOMENT = 0.5
"""Seconds in which it arrives, even on a machine that is busy."""

SLACK = 1.0
"""Seconds of grace, as the judge allows them."""

READY = 60.0
"""Seconds in which an account must connect when nothing is wrong."""


def _step(words: str, do: Any, *needs: Play | Ability, lasts: float = 0.0) -> Step:
    return Step(words, do, frozenset(needs), lasts)


def _seat(scene: Scene, number: int) -> Any:
    return list(scene.seats.values())[number]


# -- life ------------------------------------------------------------------------------------------


def start() -> Step:
    """Start the subject without waiting for anything."""

    async def do(scene: Scene) -> None:
        await scene.running.start()

    return _step("start", do)


def connected(within: float = READY) -> Step:
    """Start the subject if need be, and wait until every account is connected and listening."""

    async def do(scene: Scene) -> None:
        await scene.running.start()
        up = await scene.until(lambda: all(map(is_up, scene.seats.values())), within)
        if not up:
            scene.object(Late(f"not connected within {within:g} s"))

    return _step("connect", do)


def is_up(seat: Any) -> bool:
    """Whether an account is connected, as far as it is told, and listening."""
    last = seat.record.moments[-1] if seat.record.moments else None
    return last is not None and last.state in (None, "connected") and not last.deaf


def stop() -> Step:
    """Stop the subject as its users do."""

    async def do(scene: Scene) -> None:
        await scene.stop()

    return _step("stop the bot", do)


def kill() -> Step:
    """SIGKILL."""

    async def do(scene: Scene) -> None:
        scene.notes["gone"] = scene.now()
        await scene.running.kill()

    return _step("kill the bot with SIGKILL", do, Ability.KILL)


def again(within: float = READY) -> Step:
    """Start the subject again after its death, and wait until it is connected."""

    async def do(scene: Scene) -> None:
        await scene.running.start()
        scene.absent(scene.notes.pop("gone", scene.now()))
        if not await scene.until(lambda: all(map(is_up, scene.seats.values())), within):
            scene.object(Late(f"not connected again within {within:g} s"))

    return _step("start it again", do)


def freeze(seconds: float) -> Step:
    """SIGSTOP, and SIGCONT so much later."""

    async def do(scene: Scene) -> None:
        began = scene.now()
        await scene.running.freeze()
        await asyncio.sleep(seconds)
        await scene.running.thaw()
        scene.absent(began)

    return _step(f"freeze the bot for {seconds:g} s", do, Ability.FREEZE, lasts=seconds)


def stall(seconds: float) -> Step:
    """Block the bot's event loop."""

    async def do(scene: Scene) -> None:
        began = scene.now()
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualTimeLoop):
            stall_virtual(loop, seconds)
        else:
            await scene.running.stall(seconds)
        scene.absent(began)

    return _step(f"block the bot's event loop for {seconds:g} s", do, Ability.STALL)


def order(verb: str) -> Step:
    """An operator's order."""

    async def do(scene: Scene) -> None:
        await scene.running.order(verb, scene.seat.name)

    return _step(f"an operator says {verb}", do, Ability.CONTROL)


# -- people ----------------------------------------------------------------------------------------


def say(
    times: int = 1, *, chat: str = "ann", ask: str = "", every: float = 0.0, seat: int = 0
) -> Step:
    """Users speak. Chats whose name begins with ``team`` are groups where there are any."""

    async def do(scene: Scene) -> None:
        for number in range(times):
            if number:
                await asyncio.sleep(every)
            _seat(scene, seat).say(scene.wall(), chat, ask)

    what = f"{times} messages" if times > 1 else "a message"
    words = f"{what} in {chat}" + (f" asking {ask}" if ask else "")
    return _step(words, do, *([Ability.AGENT] if ask else []))


def crowd(chats: int, *, times: int = 1, ask: str = "", every: float = 0.0) -> Step:
    """As many users speak in turn, each so often, in a private chat of his own."""

    async def do(scene: Scene) -> None:
        for number in range(times * chats):
            if number and every:
                await asyncio.sleep(every)
            scene.seat.say(scene.wall(), f"user{number % chats}", ask)

    words = f"{times * chats} messages in {chats} chats" + (f" asking {ask}" if ask else "")
    return _step(words, do, *([Ability.AGENT] if ask else []))


def answered(within: float = ANSWER, *, chat: str | None = None) -> Step:
    """Everything said so far, in a chat or in all, is answered."""

    async def do(scene: Scene) -> None:
        def done() -> bool:
            return not any(seat.owed(chat) for seat in scene.seats.values())

        if not await scene.until(done, within):
            left = sum(seat.owed(chat) for seat in scene.seats.values())
            scene.object(Late(f"{left} messages not answered within {within:g} s"))

    where = f" in {chat}" if chat else ""
    return _step(f"everything{where} is answered within {within:g} s", do)


def accounted_for(within: float = ANSWER) -> Step:
    """Everything said so far is answered, or in a reported gap where the platform keeps nothing."""

    async def do(scene: Scene) -> None:
        def done() -> bool:
            return not any(seat.unaccounted() for seat in scene.seats.values())

        # A platform that repeats in its own time is given that time.
        repeats = max(seat.profile.redelivery for seat in scene.seats.values())
        if not await scene.until(done, within + repeats):
            left = sum(seat.unaccounted() for seat in scene.seats.values())
            scene.object(Late(f"{left} messages neither answered nor reported within {within:g} s"))
        for seat in scene.seats.values():  # what is reported missing is not asked for again
            seat.excused_until = scene.wall()

    return _step(f"everything is answered or reported missing within {within:g} s", do)


def quiet(seconds: float) -> Step:
    """Nothing more is answered for a while."""

    async def do(scene: Scene) -> None:
        before = len(scene.seat.heard)
        await asyncio.sleep(seconds)
        scene.look()
        if len(scene.seat.heard) > before:
            scene.object(f"{len(scene.seat.heard) - before} answers too many")

    return _step(f"nothing more is said for {seconds:g} s", do, lasts=seconds)


# -- faults ----------------------------------------------------------------------------------------


def network(
    switch: str, *args: Any, fault: bool = True, everywhere: bool = False, seat: int = 0
) -> Step:
    """Break the network of one account, or of every one, see `SWITCHES`."""

    async def do(scene: Scene) -> None:
        faults: list[Fault] = []
        for struck in scene.seats.values() if everywhere else [_seat(scene, seat)]:
            struck.throw(SWITCHES[switch], *args)
            if fault:
                faults.append(scene.strike(f"network: {switch}", struck))
        scene.look()
        if switch in ENDS:  # a connection that is over but not known to be has not survived
            await scene.until(lambda: all(f.noticed for f in faults), MOMENT)

    return _step(f"network: {switch} {' '.join(map(str, args))}".rstrip(), do)


def platform(what: Play, *, fault: bool = True) -> Step:
    """Let the platform misbehave; ``fault``: from now on the account is not well."""

    async def do(scene: Scene) -> None:
        if fault:
            scene.strike(f"platform: {what.name}")
        await scene.play(what)
        scene.look()

    return _step(f"let the platform {what.value}", do, what)


def server(up: bool) -> Step:
    """Stop the platform's server, or start it again."""

    async def do(scene: Scene) -> None:
        if up:
            await scene.seat.simulator.start()
        else:
            scene.strike("the server is down")
            await scene.play(Play.DOWN)

    return _step("start the server again" if up else "stop the server", do, Play.DOWN)


def heal() -> Step:
    """Mend network and platform."""

    async def do(scene: Scene) -> None:
        scene.heal()

    return _step("mend everything", do)


# -- waits -----------------------------------------------------------------------------------------


def wait(seconds: float) -> Step:
    """Let time pass."""

    async def do(scene: Scene) -> None:
        await asyncio.sleep(seconds)

    return _step(f"wait {seconds:g} s", do, lasts=seconds)


def noticed(within: float | None = None) -> Step:
    """Wait until the status says otherwise than connected; ``within`` is a stricter limit than that
    of the mode."""

    async def do(scene: Scene) -> None:
        if not scene.running.publishes:
            await asyncio.sleep(SILENCE)
            return
        limit = within or (scene.expect.detect or SILENCE) + PATIENCE
        told = await scene.until(lambda: all(f.noticed for f in scene.open_faults()), limit)
        if within is not None and not told:
            scene.object(f"not noticed within {within:g} s")

    return _step("it is noticed" + (f" within {within:g} s" if within else ""), do)


def up(within: float) -> Step:
    """Every account is connected and listening, although nothing was mended.

    ``within`` is for a first wait of a second; it is longer where the platform's is.
    """

    async def do(scene: Scene) -> None:
        limit = within + scene.seat.profile.first_wait - 1.0
        if not await scene.until(lambda: all(map(is_up, scene.seats.values())), limit):
            scene.object(Late(f"not connected within {limit:g} s"))

    return _step(f"it is connected by itself within {within:g} s", do)


def untouched(seat: int = 0) -> Step:
    """An account has been connected ever since it first was, by one and the same connection."""

    async def do(scene: Scene) -> None:
        moments = _seat(scene, seat).record.moments
        since = next((n for n, m in enumerate(moments) if m.state == "connected"), len(moments))
        if {(m.state, m.generation) for m in moments[since:]} != {
            ("connected", moments[-1].generation)
        }:
            scene.object("a healthy account was disturbed", _seat(scene, seat))

    return _step("the healthy account was not disturbed", do, Ability.STATUS)


def unacked() -> Step:
    """It is noticed when three heartbeats in a row are not acknowledged and the next one is due."""

    async def do(scene: Scene) -> None:
        limit = max(SILENCE, 4 * scene.seat.profile.beat) + 1.0
        if not await scene.until(lambda: all(f.noticed for f in scene.open_faults()), limit):
            scene.object(f"not noticed within {limit:g} s")

    words = "it is noticed after three heartbeats without acknowledgement"
    return _step(words, do, Ability.STATUS, Play.NO_ACK)


def beats() -> Step:
    """The platform hears a heartbeat, or the answer to its own, within one and a half of them."""

    async def do(scene: Scene) -> None:
        simulator, limit = scene.seat.simulator, 1.5 * scene.seat.profile.beat

        def heard() -> int:
            return int(simulator.count("beat") + simulator.count("pong"))

        before = heard()
        if not await scene.until(lambda: heard() > before, limit):
            scene.object(f"no heartbeat within {limit:g} s")

    return _step("a heartbeat arrives", do, Play.NO_ACK)


def recovered(within: float | None = None) -> Step:
    """Wait until every fault is recovered from; ``within`` is a stricter limit than that of the
    mode, and as little as that shorter than the platform's first wait."""

    async def do(scene: Scene) -> None:
        limit = (scene.expect.recover or SILENCE) + PATIENCE
        if within is not None:
            limit = max(within, scene.seat.profile.first_wait) + SLACK
        back = await scene.until(lambda: not scene.open_faults(), limit)
        if within is not None and not back:
            scene.object(Late(f"not back within {limit:g} s"))

    words = "it is connected again" + (f" within {within:g} s" if within else "")
    return _step(words, do)


def blocked(within: float = SILENCE) -> Step:
    """Wait until a person is called: fatal, with attention."""

    async def do(scene: Scene) -> None:
        def done() -> bool:
            last = scene.seat.record.moments[-1]
            return last.state == "fatal" and last.attention

        if scene.running.publishes and not await scene.until(done, within):
            last = scene.seat.record.moments[-1]
            scene.object(f"nobody was called within {within:g} s: {last.state} {last.code}")

    return _step(f"a person is called within {within:g} s", do, Ability.STATUS)


def stays(state: str, seconds: float) -> Step:
    """The published state does not change for a while."""

    async def do(scene: Scene) -> None:
        def other() -> bool:
            last = scene.seat.record.moments[-1]
            return last.state not in (None, state)

        if await scene.until(other, seconds):
            scene.object(f"{scene.seat.record.moments[-1].state}, not {state} for {seconds:g} s")

    return _step(f"it stays {state} for {seconds:g} s", do, lasts=seconds)


def attempts(at_most: int, since: str = "fault") -> Step:
    """No more attempts than so many since the last fault began."""

    async def do(scene: Scene) -> None:
        faults = scene.seat.record.faults
        began = faults[-1].began if faults else scene.seat.record.moments[0].at
        made = sum(at > began for at in scene.seat.record.opens)
        if made > at_most:
            scene.object(f"{made} attempts, {at_most} are allowed")

    return _step(f"at most {at_most} attempts since the {since}", do)
