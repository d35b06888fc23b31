"""What a model is told and can do, by the package's own client, in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from holdfast.config import Config
from holdfast.gateway.gateway import Gateway
from holdfast.mcp.desk import Desk
from holdfast.mcp.server import build
from holdfast.messages import Inbound
from holdfast.observe import status
from holdfast.store.protocol import Received
from holdfast.supervision import Published
from holdfast.testing import MemoryStore
from holdfast.web.control_server import ControlServer
from mcp import Client, MCPError
from tests.mcp.site import Model, Plucked, place
from tests.web.gateway import Parrot, connected
from tests.web.site import Site, serving

LOOKING = {"list_accounts", "explain_account", "account_history", "list_dead_letters"}
ACTING = {
    "kick_account",
    "pause_account",
    "resume_account",
    "send_message",
    "retry_dead_letters",
    "drop_dead_letters",
}


@contextlib.asynccontextmanager
async def model(home: Path, *, read_only: bool = False) -> AsyncIterator[Model]:
    desk = Desk(home / "holdfast.toml")
    async with Client(build(desk, read_only=read_only)) as client:
        yield Model(client)


@contextlib.asynccontextmanager
async def attended(
    home: Path, store: MemoryStore | None = None, **nests: str
) -> AsyncIterator[tuple[Site, Model]]:
    async with serving(place(home, Parrot, **nests), store) as site, model(home) as attending:
        yield site, attending


@contextlib.asynccontextmanager
async def unready(config: Config) -> AsyncIterator[Gateway]:
    """A gateway with its control socket, one of whose accounts will not connect."""
    gateway = Gateway(config, MemoryStore())
    await gateway.start()
    server = ControlServer(gateway)
    await server.start()
    try:
        await connected(gateway, "anna")
        await gateway.desk("polly").account.until(lambda view: view.published is Published.FATAL)
        yield gateway
    finally:
        await server.stop()
        await gateway.stop()


async def dead(store: MemoryStore, number: int = 1) -> list[Received]:
    """Messages that no agent could answer."""
    messages = tuple(
        Inbound(id=f"m{i}", chat="c", sender="u", text=f"help {i}") for i in range(number)
    )
    rows = await store.receive("polly", messages, None)
    for row in rows:
        await store.bury(row.row, "the agent raised")
    return rows


# -- looking --------------------------------------------------------------------------------------


async def test_a_healthy_account_is_told_as_healthy(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (_, model):
        answer = await model.call("list_accounts")
    assert answer["summary"] == "1 connected"
    assert (answer["freshness"]["source"], answer["freshness"]["warning"]) == ("gateway", "")
    (polly,) = answer["accounts"]
    assert (polly["account"], polly["platform"], polly["state"]) == ("polly", "parrot", "connected")
    assert (polly["why"], polly["who_acts"], polly["hint"]) == ("", "nobody", "Nothing to do.")
    assert polly["since"].endswith("Z")
    assert polly["last_proof_of_life"] is not None


@pytest.mark.real_time
async def test_an_account_that_needs_a_person_comes_first_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    Plucked.mended = False
    both = place(tmp_path, anna="elm", polly="oak")
    both.accounts["polly"] = replace(both.accounts["polly"], adapter=Plucked)
    async with unready(both) as gateway, model(tmp_path) as attending:
        answer = await attending.call("list_accounts")
        assert [one["account"] for one in answer["accounts"]] == ["polly", "anna"]
        (polly, _) = answer["accounts"]
        assert (polly["state"], polly["who_acts"]) == ("fatal", "operator")
        assert polly["why"] == "the token was refused [credentials: parrot_401]"
        assert polly["hint"] == "Make a new token."
        assert polly["next_try"] > polly["since"]
        explained = await attending.call("explain_account", account="polly")
        assert explained["account"]["state"] == "fatal"
        assert explained["sentences"]["What to do"] == "Make a new token."

        Plucked.mended = True
        done = await attending.call("kick_account", account="polly")
        assert done["done"] == "kicked"
        await connected(gateway, "polly")
        changes = (await attending.call("account_history", account="polly"))["changes"]
        assert changes[-1]["state"] == "connected"
        assert any("parrot_401" in change["why"] for change in changes)


async def test_an_account_that_there_is_not_is_told_with_those_there_are(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (_, model):
        for tool in ("explain_account", "kick_account", "account_history", "list_dead_letters"):
            said = await model.refused(tool, account="pollly")
            assert "there is no account 'pollly'" in said
            assert "polly" in said.replace("pollly", "")


async def test_arguments_are_checked(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (_, model):
        assert "limit" in await model.refused("account_history", limit=0)
        assert "names" in await model.refused("drop_dead_letters", names=[])


# -- acting ---------------------------------------------------------------------------------------


async def test_an_account_is_paused_and_resumed(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (site, model):
        done = await model.call("pause_account", account="polly")
        assert (done["done"], done["account"]["state"]) == ("paused", "stopped")
        assert done["account"]["flags"] == ["paused"]
        assert "resume_account('polly')" in done["account"]["hint"]
        assert "is paused" in await model.refused("kick_account", account="polly")
        done = await model.call("resume_account", account="polly")
        assert done["done"] == "resumed"
        await connected(site.gateway, "polly")


async def test_a_message_is_sent_only_to_a_chat_that_is_known_or_anyway(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (site, model):
        said = await model.refused("send_message", account="polly", chat="9", text="hello")
        assert "has no message of a chat '9'" in said
        sent = await model.call(
            "send_message", account="polly", chat="9", text="hello", anyway=True
        )
        (message,) = sent["messages"]
        assert (message["chat"], message["text"], message["direction"]) == ("9", "hello", "out")
        (listed,) = (await site.get("/outbox"))["messages"]
        assert listed["name"] == message["name"]


async def test_dead_letters_are_listed_retried_and_dropped(tmp_path: Path) -> None:
    store = MemoryStore()
    rows = await dead(store, 2)
    async with attended(tmp_path, store, polly="oak") as (_, model):
        found = await model.call("list_dead_letters")
        first, second = found["messages"]
        assert [first["name"], second["name"]] == [f"in-{row.row}" for row in rows]
        assert (first["state"], first["reason"]) == ("dead", "the agent raised")
        assert (first["text"], found["more"]) == ("help 0", False)
        limited = await model.call("list_dead_letters", account="polly", limit=1)
        assert ([one["name"] for one in limited["messages"]], limited["more"]) == (
            [second["name"]],
            True,
        )
        retried = await model.call("retry_dead_letters", names=[first["name"], "in-999"])
        assert [one["changed"] for one in retried["outcomes"]] == [True, False]
        assert "there is no message in-999" in retried["outcomes"][1]["problem"]
        dropped = await model.call("drop_dead_letters", names=[second["name"]])
        assert dropped["outcomes"][0]["state"] == "dropped"
        history = await model.call("account_history")
        assert any(f"dropped {second['name']}" in one["event"] for one in history["changes"])
        assert (await model.call("list_dead_letters"))["messages"] == []


# -- without a gateway ----------------------------------------------------------------------------


@pytest.mark.real_time
async def test_a_gateway_that_is_gone_leaves_its_status_file_and_a_warning(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak"):
        pass
    written = status.read(tmp_path / status.FILE_NAME)
    gone = msgspec.structs.replace(written, written_at=time.time() - 600)
    status.write(tmp_path / status.FILE_NAME, gone)
    async with model(tmp_path) as attending:
        answer = await attending.call("list_accounts")
        assert answer["freshness"]["source"] == "status file"
        assert answer["freshness"]["age_seconds"] >= 600
        warning = answer["freshness"]["warning"]
        assert "no gateway is running" in warning
        assert "can NOT be believed" in warning
        (polly,) = answer["accounts"]
        assert (polly["state"], polly["who_acts"]) == ("unknown", "operator")
        assert "holdfast run" in polly["hint"]
        explained = await attending.call("explain_account", account="polly")
        assert "can NOT be believed" in explained["freshness"]["warning"]
        assert explained["sentences"]["State"].startswith("unknown: ")
        assert "start one with `holdfast run`" in await attending.refused(
            "kick_account", account="polly"
        )


@pytest.mark.real_time
async def test_a_gateway_that_only_does_not_answer_is_believed_by_its_file(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (site, _):
        running = site.gateway.status()
    status.write(tmp_path / status.FILE_NAME, running)
    async with model(tmp_path) as attending:
        answer = await attending.call("list_accounts")
    assert answer["freshness"]["source"] == "status file"
    assert "recent enough to be believed" in answer["freshness"]["warning"]
    assert answer["accounts"][0]["state"] == "connected"


@pytest.mark.real_time
async def test_before_the_first_start_there_is_nothing_but_how_to_begin(tmp_path: Path) -> None:
    place(tmp_path, polly="oak")
    async with model(tmp_path) as attending:
        assert "start one with `holdfast run`" in await attending.refused("list_accounts")
        assert (await attending.call("account_history"))["changes"] == []
        assert (await attending.call("list_dead_letters"))["messages"] == []
    async with model(tmp_path / "nowhere") as attending:
        assert "make one with `holdfast init`" in await attending.refused("list_accounts")


# -- resources, and what is offered ---------------------------------------------------------------


async def test_resources_tell_what_the_tools_tell(tmp_path: Path) -> None:
    async with attended(tmp_path, polly="oak") as (_, model):
        listed = {str(one.uri) for one in (await model.client.list_resources()).resources}
        assert listed == {"holdfast://accounts"}
        templates = (await model.client.list_resource_templates()).resource_templates
        assert {one.uri_template for one in templates} == {
            "holdfast://accounts/{account}",
            "holdfast://accounts/{account}/history",
        }
        everything = await model.read("holdfast://accounts")
        assert everything["summary"] == "1 connected"
        assert (await model.read("holdfast://accounts/polly"))["account"]["state"] == "connected"
        history = await model.read("holdfast://accounts/polly/history")
        assert history["changes"][-1]["state"] == "connected"
        with pytest.raises(MCPError, match="there is no account 'pollly'"):
            await model.read("holdfast://accounts/pollly")


async def test_every_tool_is_described_and_says_whether_it_changes_anything(
    tmp_path: Path,
) -> None:
    async with model(tmp_path) as attending:
        tools = {tool.name: tool for tool in (await attending.client.list_tools()).tools}
        assert attending.client.instructions is not None
        assert "freshness.warning" in attending.client.instructions
    assert set(tools) == LOOKING | ACTING
    for name, tool in tools.items():
        assert tool.description
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert bool(tool.annotations.read_only_hint) == (name in LOOKING)
        for argument, schema in tool.input_schema["properties"].items():
            assert schema["description"], (name, argument)


async def test_a_read_only_server_offers_nothing_that_changes_anything(tmp_path: Path) -> None:
    async with model(tmp_path, read_only=True) as attending:
        names = {tool.name for tool in (await attending.client.list_tools()).tools}
        assert names == LOOKING
        assert "Unknown tool" in await attending.refused("pause_account", account="polly")
