"""Every request over the real socket, to a real gateway."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from holdfast.config import WebSettings
from holdfast.errors import ConfigError, StoreError
from holdfast.observe.status import AccountStatus, Status
from holdfast.store.protocol import Transition
from holdfast.testing import MemoryStore
from holdfast.web.api import reload
from holdfast.web.control_server import ControlServer
from tests.web.gateway import ParrotSettings, connected, parrots, running
from tests.web.site import serving


async def test_status_is_the_document_of_the_file(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", jack="elm")) as site:
        status = msgspec.convert(await site.get("/status"), Status)
        assert {n: a.state for n, a in status.accounts.items()} == {
            "polly": "connected",
            "jack": "connected",
        }
        accounts = msgspec.convert(await site.get("/accounts"), dict[str, AccountStatus])
        assert {name: a.generation for name, a in accounts.items()} == {"polly": 1, "jack": 1}
        one = await site.get("/accounts/polly")
        assert (one["platform"], one["generation"]) == ("parrot", 1)


async def test_kick_connects_anew(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        answer = await site.post("/accounts/polly/kick")
        assert (answer["account"], answer["done"]) == ("polly", "kicked")
        account = site.gateway.desk("polly").account
        await account.until(lambda view: view.generation == 2)
        await connected(site.gateway, "polly")


async def test_pause_and_resume(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", jack="elm")) as site:
        paused = await site.post("/accounts/polly/pause")
        assert (paused["status"]["state"], paused["status"]["paused"]) == ("stopped", True)
        assert (await site.get("/accounts/jack"))["state"] == "connected"
        refused = await site.ask("POST", "/api/v1/accounts/polly/kick")
        assert refused == (
            409,
            {"error": "account 'polly' is paused", "hint": "run `holdfast resume polly`"},
        )
        resumed = await site.post("/accounts/polly/resume")
        assert (resumed["done"], resumed["status"]["paused"]) == ("resumed", False)
        await connected(site.gateway, "polly")


async def test_history_of_all_or_of_one(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", jack="elm")) as site:
        for number in range(5):
            for name in ("polly", "jack"):
                line = Transition(
                    account=name, at=number, state="retrying", trigger="kick", generation=9
                )
                await site.gateway.store.record(line)
        polly = await site.get("/accounts/polly/history?limit=3")
        assert [(line["account"], line["at"]) for line in polly] == [
            ("polly", 2.0),
            ("polly", 3.0),
            ("polly", 4.0),
        ]
        assert [line["account"] for line in await site.get("/history?limit=2")] == ["polly", "jack"]
        assert len(await site.get("/history")) > 10


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", ""])
async def test_a_limit_must_be_a_number(tmp_path: Path, limit: str) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        status, body = await site.ask("GET", f"/api/v1/history?limit={limit}")
        assert status == 400
        assert "1000" in body["error"]


@pytest.mark.parametrize(
    ("method", "verb"),
    [("GET", ""), ("GET", "/history"), ("POST", "/kick"), ("POST", "/pause"), ("POST", "/resume")],
)
async def test_an_unknown_account_is_404(tmp_path: Path, method: str, verb: str) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        status, body = await site.ask(method, "/api/v1/accounts/poly" + verb)
        assert status == 404
        assert body["error"] == "there is no account 'poly'; there are: polly"
        assert "holdfast status" in body["hint"]


async def test_foreign_paths_and_methods_get_json_too(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        status, body = await site.ask("GET", "/")
        assert (status, body["hint"]) == (
            404,
            "/api/v1/openapi.json names all requests; backup is on the control socket alone",
        )
        status, body = await site.ask("GET", "/api/v1/accounts/polly/kick")
        assert status == 405
        assert site.gateway.desk("polly").account.view().generation == 1


async def test_a_journal_in_trouble_is_503(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        store = site.gateway.store
        assert isinstance(store, MemoryStore)
        store.fail = StoreError("store_full", "there is no room left", "free some space")
        status, body = await site.ask("POST", "/api/v1/accounts/polly/pause")
        assert (status, body) == (
            503,
            {"error": "there is no room left", "hint": "free some space"},
        )
        store.fail = None


class Defective(MemoryStore):
    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        raise ZeroDivisionError("a secret detail")


async def test_a_defect_of_ours_is_500_without_detail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        site.gateway.store = Defective()
        status, body = await site.ask("GET", "/api/v1/history")
        assert status == 500
        assert body == {
            "error": "internal error",
            "hint": "the gateway's log has the details",
        }
    assert "request failed method=GET path=/api/v1/history" in caplog.text


# -- reload ---------------------------------------------------------------------------------------


async def test_reload_over_the_socket_reads_the_file_again(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        (tmp_path / "holdfast.toml").write_text('[accounts.polly]\nplatform = "irc"')
        status, body = await site.ask("POST", "/api/v1/reload")
        assert status == 422
        assert "unknown platform 'irc'" in body["error"]
        assert "known are" in body["hint"]
        assert (await site.get("/accounts/polly"))["state"] == "connected"


async def test_reload_touches_only_what_changed(tmp_path: Path) -> None:
    old = parrots(tmp_path, polly="oak", jack="elm")
    async with running(old) as gateway:
        new = parrots(tmp_path, polly="oak", jack="ash", iago="fir")
        gateway.read = lambda _: new
        reloaded = await reload(gateway)
        assert sorted(reloaded.done) == ["iago: added", "jack: restarted"]
        await connected(gateway, "jack")
        await connected(gateway, "iago")
        assert gateway.desk("polly").account.view().generation == 1
        assert gateway.desk("jack").config.settings == ParrotSettings(nest="ash")


async def test_reload_says_what_waits_for_a_restart(tmp_path: Path) -> None:
    old = parrots(tmp_path, polly="oak")
    async with running(old) as gateway:
        changed = msgspec.structs.replace(old.gateway, handlers=3, hook_listen="127.0.0.1:1")
        web = WebSettings(listen="127.0.0.1:1")
        new = replace(old, gateway=changed, web=web, warnings=("look here",))
        gateway.read = lambda _: new
        reloaded = await reload(gateway)
        assert reloaded.done == []
        assert sorted(reloaded.warnings) == [
            "[gateway] handlers: takes effect at the next start",
            "[gateway] hook_listen: takes effect at the next start",
            "[web]: takes effect at the next start",
            "look here",
        ]


async def test_the_state_directory_can_not_move_under_a_running_gateway(tmp_path: Path) -> None:
    old = parrots(tmp_path, polly="oak")
    async with running(old) as gateway:
        moved = replace(old, gateway=msgspec.structs.replace(old.gateway, state_dir="other"))
        gateway.read = lambda _: moved
        with pytest.raises(ConfigError, match=r"state_dir.*restart the gateway"):
            await reload(gateway)
        assert gateway.config is old


# -- the server -----------------------------------------------------------------------------------


async def test_stop_does_not_wait_for_a_client_that_stays(tmp_path: Path) -> None:
    async with running(parrots(tmp_path, polly="oak")) as gateway:
        server = ControlServer(gateway)
        await server.start()
        _, writer = await asyncio.open_unix_connection(str(server.path))
        writer.write(b"GET /api/v1/status HTTP/1.1\r\n")
        await asyncio.sleep(1.0)
        began = asyncio.get_running_loop().time()
        await server.stop()
        await server.stop()
        assert asyncio.get_running_loop().time() - began <= 1.0
        writer.close()


async def test_a_socket_that_can_not_be_made_is_an_os_error(tmp_path: Path) -> None:
    async with running(parrots(tmp_path, polly="oak")) as gateway:
        server = ControlServer(gateway)
        server.path = tmp_path / "nowhere" / "control.sock"
        with pytest.raises(FileNotFoundError):
            await server.start()
