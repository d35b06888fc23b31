"""The main job on real input: a Matrix bot, a real homeserver, a real client, real faults.

    python examples/matrix_synapse.py [--json]

Synapse runs on loopback, its users ann and bob on matrix-nio, and `holdfast run` in a process of
its own behind a reverse proxy. Seven acts break what can break while people go on writing. Judged
is what people see: ann's own rooms, and the status file, read ten times a second. The exit code is
0 only if all is answered once, in order, and the status never lied: docs/examples/matrix-synapse.md
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

from matrix_audience import BOT, Act, People, StatusReader

from holdfast.lab.faults.reverse_proxy import Asked, Fate, ReverseProxy
from holdfast.lab.synapse import Synapse, find_synapse
from holdfast.observe.status import FILE_NAME

log = logging.getLogger("play")

POLL = 5
"""Seconds the server holds an idle /sync."""

SILENCE = POLL + 15.0
"""Seconds of deafness after which `connected` is a lie (docs/platforms/matrix.md)."""

PATIENCE = 60.0
"""Seconds for anything the play waits for; then it has failed."""

CONFIG = f"""\
[accounts.bot]
platform = "matrix"
homeserver = "%s"
user_id = "{BOT}"
access_token = {{ file = "bot-token" }}
sync_timeout = {POLL}
agent = "echo"
"""


class Holdfast:
    """``holdfast run`` in a process of its own, and the commands of its operator."""

    def __init__(self, home: Path, homeserver: str) -> None:
        self.log, self.token = home / "holdfast.log", home / "bot-token"
        self.status = StatusReader(home / "state" / FILE_NAME)
        self._config = home / "holdfast.toml"
        self._config.write_text(CONFIG % homeserver)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs, if any."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def command(self, *words: str) -> asyncio.subprocess.Process:
        """Start a command of the ``holdfast`` script."""
        argv = [sys.executable, "-m", "holdfast.cli", "--config", str(self._config), *words]
        with self.log.open("ab") as output:
            return await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output)

    async def start(self) -> None:
        """Start the gateway; how it gets on, its status says."""
        self._process = await self.command("run")

    async def end(self, *, kill: bool = False) -> int:
        """End the gateway, by SIGTERM or SIGKILL; returns its exit code."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill() if kill else process.terminate()
        return 0 if process is None else await process.wait()


class Play:
    """The seven acts."""

    def __init__(self, server: Synapse, proxy: ReverseProxy, gateway: Holdfast) -> None:
        self.server, self.proxy, self.gateway = server, proxy, gateway
        self.people = People(server.url)
        self.acts = [Act("before the curtain", SILENCE)]
        self.private = self.group = ""

    async def perform(self) -> None:
        """Everything, from the first connection to the last answer."""
        await self.gateway.start()
        await self.until(lambda: self.gateway.status.state() == "connected")
        await self.chat()
        await self.crash()
        async with self.act("Synapse frozen for 30 s"), self.talking(), self.deaf():
            self.server.freeze()
            await asyncio.sleep(30)
            self.server.thaw()
        async with self.act("proxy answers 502 for 10 s"), self.talking(), self.deaf():
            self.proxy.status(502)
            await asyncio.sleep(10)
            self.proxy.heal()
        await self.lost_answers()
        async with self.act("gateway killed with -9, back after 2 s"), self.talking(), self.deaf():
            await self.gateway.end(kill=True)
            await asyncio.sleep(2)
            await self.gateway.start()
        await self.revoked()

    async def chat(self) -> None:
        """Invitations, a private chat, a group with a mention, a quotation and a thread."""
        people, ann, bob = self.people, self.people.ann, self.people.bob
        async with self.act("private and group chat") as act:
            self.private = (await ann.room_create(invite=[BOT], is_direct=True)).room_id
            self.group = (await ann.room_create(invite=[BOT, bob.user_id])).room_id
            await bob.join(self.group)
            await people.say(ann, self.private, "hello bot")
            mention = {"m.mentions": {"user_ids": [BOT]}}
            asked = await people.say(ann, self.group, "bot: are you there?", **mention)
            await people.say(bob, self.group, "bob is here too")
            thread = {"rel_type": "m.thread", "event_id": asked}
            await people.say(ann, self.group, "in a thread", **{"m.relates_to": thread})
            await self.answered()
            quote = people.relation_of_answer("bot: are you there?")
            act.seen["quoted"] = quote.get("m.in_reply_to") == {"event_id": asked}
            tie = people.relation_of_answer("in a thread")
            act.seen["threaded"] = tie.get("rel_type") == "m.thread" and tie["event_id"] == asked

    async def crash(self) -> None:
        """The homeserver dies with messages on their way in and answers on their way out."""
        async with self.act("Synapse killed with -9, back after 4 s"), self.talking():
            burst = [asyncio.create_task(self.say_both(f"in flight {n}")) for n in range(5)]
            await asyncio.sleep(0.05)
            async with self.deaf():
                await self.server.kill()
                await asyncio.sleep(4)
                await self.server.start()
            await asyncio.gather(*burst)

    async def lost_answers(self) -> None:
        """Synapse takes the bot's message, the bot does not hear of it: it must not come twice."""
        async with self.act("three answers to one send lost on the way") as act:
            # Three: aiohttp repeats a PUT once by itself, below Holdfast.
            self.proxy.swallow_answer(3, method="PUT", path="/send/")
            self.proxy.log.clear()
            await self.people.say(self.people.ann, self.private, "did you get this?")
            await self.until(lambda: any(x.fate is Fate.ANSWERED for x in self.sends()))
            act.seen["lost_answers"] = sum(x.fate is Fate.SWALLOWED for x in self.sends())
            act.seen["transaction_ids"] = len({x.path for x in self.sends()})

    async def revoked(self) -> None:
        """A person is needed and told so; a file and a command mend it, without a restart."""
        async with self.act("token revoked, then replaced") as act, self.talking():
            pid, status = self.gateway.pid, self.gateway.status
            async with self.deaf():
                await self.server.revoke(BOT)
                await self.until(lambda: status.state() == "fatal")
                act.seen |= status.blame()
                await asyncio.sleep(2)
                await self.new_token()
            act.seen["reload"] = await (await self.gateway.command("reload")).wait()
            await self.recovered()
            act.seen["same_process"] = self.gateway.pid == pid

    # -- what acts are made of ----------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def act(self, title: str) -> AsyncIterator[Act]:
        """An act ends when all that was said is answered."""
        self.acts.append(act := Act(title, SILENCE))
        yield act
        await self.answered()
        told = [f"{k}={v}" for k, v in act.figures().items() if k != "act" and v is not None]
        log.info("%d. %s\n   %s", len(self.acts) - 1, title, " ".join(told))

    @contextlib.asynccontextmanager
    async def deaf(self) -> AsyncIterator[None]:
        """The time in which no message can reach the bot."""
        self.acts[-1].struck = monotonic()
        yield
        self.acts[-1].healed = monotonic()

    @contextlib.asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """People write all the time, until the status says connected again."""
        task = asyncio.create_task(self._talk(len(self.acts) - 1))
        try:
            await asyncio.sleep(0.5)
            yield
            await self.recovered()
            self._talking = False
            await task
        finally:
            task.cancel()  # on failure: who writes to a dead server writes for ever

    async def _talk(self, act: int) -> None:
        self._talking, number = True, 0
        while self._talking:
            number += 1
            await self.say_both(f"{act}.{number}")
            await asyncio.sleep(0.3)

    async def say_both(self, text: str) -> None:
        """Ann writes to the bot alone, bob in the group."""
        await self.people.say(self.people.ann, self.private, f"private {text}")
        await self.people.say(self.people.bob, self.group, f"group {text}")

    async def new_token(self) -> None:
        """Log the bot in and put its token where the configuration says."""
        self.gateway.token.touch(mode=0o600)
        self.gateway.token.write_text(await self.server.login("bot", "pw", device_id="HOLDFAST"))

    def sends(self) -> list[Asked]:
        """The bot's sends, as the proxy remembers them."""
        return [asked for asked in self.proxy.log if "/send/" in asked.path]

    async def answered(self) -> None:
        """Wait until ann sees an answer to everything said."""
        await self.until(lambda: not self.people.unanswered())

    async def recovered(self) -> None:
        """Wait until the status says connected again."""
        await self.until(lambda: self.acts[-1].recovered is not None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be seen. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)

    async def figures(self) -> dict[str, Any]:
        """End the gateway, so that nothing can follow, and close the books."""
        code = await self.gateway.end()
        await self.people.sync()
        acts = [act.figures() for act in self.acts[1:]]
        lie = round(sum(act["lie_s"] for act in acts), 1)
        return {**self.people.books(), "lie_s": lie, "exit_code": code, "acts": acts}


async def run(python: Path) -> dict[str, Any]:
    """Stage and perform the play; returns its figures."""
    began = monotonic()
    async with contextlib.AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-synapse-")))
        server = await stack.enter_async_context(Synapse(home / "synapse", python))
        proxy = await stack.enter_async_context(ReverseProxy(server.url))
        gateway = Holdfast(home, proxy.url)
        stack.push_async_callback(gateway.end, kill=True)
        play = Play(server, proxy, gateway)
        stack.push_async_callback(play.people.close)
        for name in ("ann", "bob", "bot"):
            await server.register(name, "pw")
        await play.people.log_in("pw")
        await play.new_token()
        log.info("Synapse, ann, bob and the proxy are there after %.0f s", monotonic() - began)
        try:
            async with asyncio.TaskGroup() as group:
                watch, listen = gateway.status.watch(play.acts), play.people.listen()
                seats = [group.create_task(watch), group.create_task(listen)]
                await play.perform()
                for seat in seats:
                    seat.cancel()
            figures = await play.figures()
        except BaseException:
            sys.stderr.write(gateway.log.read_text(encoding="utf-8")[-8000:])
            raise
    wrong = figures["lost"] or figures["doubled"] or figures["lie_s"] or figures["exit_code"]
    good = not wrong and figures["in_order"] and figures["sent"] == figures["answered"]
    return {"good": good, "seconds": round(monotonic() - began), **figures}


def main(argv: list[str]) -> int:
    """Perform and tell; returns 0 only if the verdict is good."""
    as_json = "--json" in argv
    output = logging.StreamHandler(sys.stderr if as_json else sys.stdout)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[output])
    logging.getLogger("nio").setLevel(logging.ERROR)
    python = find_synapse()
    if python is None:
        log.error("there is no Synapse: see docs/examples/matrix-synapse.md")
        return 2
    figures = asyncio.run(run(python))
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        told = [f"{name}={value}" for name, value in figures.items() if name != "acts"]
        log.info("%s: %s", "GOOD" if figures["good"] else "BAD", " ".join(told[1:]))
    return 0 if figures["good"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
