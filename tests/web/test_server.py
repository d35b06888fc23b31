"""The history over the API, and who did what."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from holdfast.adapter import Continuity, Disconnect, Link
from holdfast.cli import main
from holdfast.store.protocol import Transition
from holdfast.supervision import Cause, Kind
from holdfast.web.control_server import ControlServer
from tests.web.gateway import Parrot, parrots
from tests.web.http import BEARER, TOKEN, Site, flock, guarded, serving


async def kick(site: Site, name: str = "polly", **how: Any) -> int:
    """The status that an order is answered with."""
    status, _ = await site.ask(f"/api/v1/accounts/{name}/kick", "POST", **how)
    return status


# -- who did what ---------------------------------------------------------------------------------


async def test_every_action_is_noted_with_who_and_how_it_ended(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        assert await kick(site) == 200
        assert await kick(site, "poly") == 404
        assert (await site.ask("/api/v1/messages/drop", "POST", data=b"{"))[0] == 400
        await site.get("/status")
        told = await site.get("/actions")
        assert [(one["who"], one["what"], one["path"], one["status"]) for one in told] == [
            ("loopback 127.0.0.1", "kick", "/api/v1/accounts/polly/kick", 200),
            ("loopback 127.0.0.1", "kick", "/api/v1/accounts/poly/kick", 404),
            ("loopback 127.0.0.1", "drop", "/api/v1/messages/drop", 400),
        ]
        assert await site.get("/actions?limit=1") == told[-1:]


async def test_tokens_and_sessions_are_told_apart(tmp_path: Path) -> None:
    async with serving(guarded(tmp_path)) as site:
        assert await kick(site, headers=BEARER) == 200
        for _ in range(2):
            own = {"Origin": site.url}
            form = {"token": TOKEN}
            async with site.session.post(site.url + "/login", data=form, headers=own) as answer:
                assert answer.ok
            assert await kick(site, headers=own) == 200
        assert await kick(site, headers={"Origin": "https://evil.example"}) == 403
        whos = [one["who"] for one in await site.get("/actions", **BEARER)]
        assert whos[0] == "token 127.0.0.1"
        assert all(who.startswith("session ") for who in whos[1:])
        assert len(set(whos)) == 3
        cookies = [cookie.value for cookie in site.session.cookie_jar]
        assert not [cookie for cookie in cookies if cookie in "".join(whos)]


async def test_on_the_control_socket_the_kernel_says_who(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        server = ControlServer(site.gateway, site.history)
        await server.start()
        connector = aiohttp.UnixConnector(str(server.path))
        async with aiohttp.ClientSession(connector=connector) as session:
            url = "http://localhost/api/v1/"
            async with session.post(url + "accounts/polly/kick") as answer:
                assert answer.status == 200
            async with session.get(url + "actions") as answer:
                (told,) = await answer.json()
            async with session.get(url + "events") as answer:
                assert answer.status == 404
        await server.stop()
        assert (told["who"], told["what"]) == (f"uid {os.getuid()}", "kick")


class Frail(Parrot):
    """Loses its first connection, if it is from the oak."""

    falls = 0

    async def run(self, link: Link) -> None:
        """Connect, and fall once."""
        link.ready(Continuity.CAUGHT_UP, silence=86_400.0, grace=60.0)
        if self._nest == "oak" and not self.falls:
            self.falls += 1
            await asyncio.sleep(400.0)
            raise Disconnect(Cause(Kind.LOST, "parrot_fell", "it has fallen from its perch"))
        await asyncio.Event().wait()


# -- looking back ---------------------------------------------------------------------------------


async def test_an_incident_is_told_with_its_way(tmp_path: Path) -> None:
    config = replace(parrots(tmp_path, Frail, polly="oak", jack="elm"), web=flock(tmp_path).web)
    async with serving(config) as site:
        account = site.gateway.desk("polly").account
        await account.until(lambda view: view.generation == 2 and view.published == "connected")
        (told,) = await site.get("/accounts/polly/incidents")
        assert (told["account"], told["end"], told["attempts"]) == ("polly", "recovered", 1)
        assert told["cause"]["message"] == "it has fallen from its perch"
        assert [one["state"] for one in told["moments"]][-2:] == ["retrying", "connected"]
        assert told["since"] <= told["until"]
        assert await site.get("/incidents") == [told]
        assert await site.get("/accounts/jack/incidents") == []
        assert await site.get(f"/incidents?since={told['until']}") == [told]
        assert await site.get(f"/incidents?since={told['until'] + 0.001:f}") == []
        assert await site.get(f"/incidents?since={int(told['until']) + 60}") == []


async def test_uptime_by_the_minute_and_by_the_hour(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        for size, count in ((60, 60), (3600, 2160)):
            told = await site.get(f"/accounts/polly/uptime?size={size}&count={count}")
            assert len(told) == count
            assert {one["size"] for one in told} == {size}
            assert [one["start"] for one in told] == sorted(one["start"] for one in told)
        assert len(await site.get("/accounts/polly/uptime")) == 24


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/accounts/poly/uptime", "there is no account 'poly'"),
        ("/accounts/poly/incidents", "there is no account 'poly'"),
        ("/accounts/polly/uptime?size=61", "size='61' is not 60 or 3600"),
        ("/accounts/polly/uptime?count=0", "count='0' is not a number from 1 to 2160"),
        ("/accounts/polly/uptime?count=9e9", "count='9e9' is not"),
        ("/incidents?since=yesterday", "since='yesterday' is not a number"),
        ("/incidents?since=inf", "since='inf' is not a number"),
        ("/incidents?since=-1.5", "since='-1.5' is not a number"),
        ("/actions?limit=1001", "limit='1001' is not a number from 1 to 1000"),
    ],
)
async def test_what_can_not_be_asked(tmp_path: Path, path: str, error: str) -> None:
    async with serving(flock(tmp_path)) as site:
        status, body = await site.ask("/api/v1" + path)
        assert status in (400, 404)
        assert body["error"].startswith(error)


async def test_a_history_in_trouble_is_503_and_hinders_no_action(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        await site.history.stop()
        status, body = await site.ask("/api/v1/incidents")
        assert (status, body["error"]) == (503, "the history is not open")
        assert await kick(site) == 200


async def test_the_socket_and_the_address_answer_alike(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        line = Transition(account="polly", at=1.0, state="retrying", trigger="kick", generation=9)
        await site.gateway.store.record(line)
        server = ControlServer(site.gateway, site.history)
        await server.start()
        connector = aiohttp.UnixConnector(str(server.path))
        async with aiohttp.ClientSession(connector=connector) as session:
            for path in ("/history", "/accounts/polly/history", "/inbox", "/dead", "/incidents"):
                async with session.get("http://localhost/api/v1" + path) as answer:
                    assert await answer.json() == await site.get(path)
        await server.stop()


# -- the command ----------------------------------------------------------------------------------


async def test_the_command_lists_incidents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holdfast.toml").write_text('[gateway]\nstate_dir = "."\n')
    config = replace(parrots(tmp_path, Frail, polly="oak"), web=flock(tmp_path).web)
    async with serving(config) as site:
        account = site.gateway.desk("polly").account
        await account.until(lambda view: view.generation == 2 and view.published == "connected")
        server = ControlServer(site.gateway, site.history)
        await server.start()
        command = ["--config", str(tmp_path / "holdfast.toml"), "history", "--incidents"]
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, main, command) == 0
        await server.stop()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["LOST", "ACCOUNT", "FOR", "END", "TRIES", "WHY"]
    assert "polly" in lines[1]
    assert "recovered" in lines[1]
    assert "it has fallen from its perch" in " ".join(lines)
