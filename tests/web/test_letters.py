"""The journal's messages, gaps and copies over the real socket, at a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapter import Outcome, SendFailed
from holdfast.errors import StoreError
from holdfast.gateway.gateway import Gateway
from holdfast.messages import Attachment, Gap, Inbound, MediaKind, Outbound, Receipt
from holdfast.store.protocol import Box, Owed
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Cause, Kind
from holdfast.testing import MemoryStore
from holdfast.web.letters import Letter
from tests.web.gateway import Parrot, connected, parrots, running
from tests.web.site import Site, serving

DOCS = Path(__file__).parents[2] / "docs"


def inbound(id: str, chat: str = "den", **others: Any) -> Inbound:
    return Inbound(
        id=id, chat=chat, sender="u1", text=others.pop("text", f"text of {id}"), **others
    )


async def buried(gateway: Gateway, *messages: Inbound, account: str = "polly") -> list[int]:
    """Dead letters that no lane ever saw."""
    rows = await gateway.store.receive(account, messages, None)
    for row in rows:
        await gateway.store.bury(row.row, f"no answer to {row.message.id}")
    return [row.row for row in rows]


async def held(gateway: Gateway, key: str, account: str = "polly") -> int:
    """A message of which nobody knows whether it arrived."""
    outbound = Outbound(key=key, chat="den", text=f"text of {key}")
    (row,) = await gateway.store.post(account, [outbound])
    await gateway.store.sending(row.row)
    await gateway.store.hold(row.row, "timeout: no answer")
    return row.row


def names(page: dict[str, Any]) -> list[str]:
    return [message["name"] for message in page["messages"]]


async def settled(site: Site, name: str) -> dict[str, Any]:
    """A message once nobody has to do anything with it any more."""
    async with asyncio.timeout(60.0):
        while True:
            message: dict[str, Any] = await site.get(f"/messages/{name}")
            if message["state"] in ("done", "sent", "dead", "ambiguous", "dropped"):
                return message
            await asyncio.sleep(0.1)


# -- looking --------------------------------------------------------------------------------------


async def test_a_box_in_pages_the_newest_last(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", jack="elm")) as site:
        rows = await buried(site.gateway, *(inbound(f"m{n}") for n in range(5)))
        first = await site.get("/inbox?limit=2")
        assert (names(first), first["more"]) == ([f"in-{row}" for row in rows[3:]], True)
        second = await site.get(f"/inbox?limit=3&before={names(first)[0]}")
        assert (names(second), second["more"]) == ([f"in-{row}" for row in rows[:3]], False)


async def test_what_a_box_can_be_filtered_by(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", jack="elm")) as site:
        (den,) = await buried(site.gateway, inbound("a"))
        (attic,) = await buried(site.gateway, inbound("b", chat="attic"))
        (other,) = await buried(site.gateway, inbound("c"), account="jack")
        await site.gateway.store.drop(Box.INBOX, other)
        assert names(await site.get("/inbox?account=polly")) == [f"in-{den}", f"in-{attic}"]
        assert names(await site.get("/inbox?chat=attic")) == [f"in-{attic}"]
        assert names(await site.get("/inbox?state=dropped&state=done")) == [f"in-{other}"]
        assert names(await site.get("/outbox?account=jack")) == []


async def test_dead_is_what_waits_for_a_person_in_both_boxes(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        (lost,) = await buried(site.gateway, inbound("a"))
        unsure = await held(site.gateway, "k1")
        found = await site.get("/dead")
        assert sorted(names(found)) == [f"in-{lost}", f"out-{unsure}"]
        reasons = {message["name"]: message["reason"] for message in found["messages"]}
        assert reasons == {f"in-{lost}": "no answer to a", f"out-{unsure}": "timeout: no answer"}
        assert all(message["mendable"] for message in found["messages"])
        assert names(await site.get("/dead?state=ambiguous")) == [f"out-{unsure}"]
        newest = await site.get("/dead?limit=1")
        assert (len(newest["messages"]), newest["more"]) == (1, True)


async def test_lists_cut_texts_and_one_message_is_told_whole(tmp_path: Path) -> None:
    photo = Attachment(kind=MediaKind.IMAGE, name="cat.png", size=7, ref="https://x/?token=s3cret")
    async with serving(parrots(tmp_path, polly="oak")) as site:
        message = inbound(
            "a",
            text="long " * 1000,
            sender_name="Ann",
            attachments=(photo,),
            context={"webhook": "https://x/?session=s3cret"},
        )
        (row,) = await buried(site.gateway, message)
        (listed,) = (await site.get("/inbox"))["messages"]
        assert len(listed["text"]) == 200
        assert listed["text"].endswith("…")
        whole = await site.get(f"/messages/in-{row}")
        assert whole["text"] == message.text
        assert whole["sender"] == "Ann (u1)"
        assert whole["files"] == [{"kind": "image", "name": "cat.png", "mime": "", "size": 7}]
        assert "s3cret" not in json.dumps([listed, whole])


# -- mending --------------------------------------------------------------------------------------


async def test_a_retried_dead_letter_is_answered(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        (row,) = await buried(site.gateway, inbound("a", text="hello"))
        (result,) = await site.post("/messages/retry", {"names": [f"in-{row}"]})
        assert (result["name"], result["message"]["state"]) == (f"in-{row}", "received")
        assert (await settled(site, f"in-{row}"))["state"] == "done"
        (answer,) = (await site.get("/outbox"))["messages"]
        assert (await settled(site, answer["name"]))["text"] == "echo: hello"
        assert names(await site.get("/dead")) == []


async def test_a_held_send_is_marked_when_it_is_retried(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        row = await held(site.gateway, "k1")
        (result,) = await site.post("/messages/retry", {"names": [f"out-{row}"]})
        assert result["message"]["state"] == "owed"
        sent = await settled(site, f"out-{row}")
        assert (sent["state"], sent["receipt"], sent["maybe_doubled"]) == ("sent", "1", True)


async def test_dropped_is_dropped(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        (row,) = await buried(site.gateway, inbound("a"))
        (result,) = await site.post("/messages/drop", {"names": [f"in-{row}"]})
        assert result["message"]["state"] == "dropped"
        assert names(await site.get("/dead")) == []


async def test_each_message_is_mended_by_itself(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        (row,) = await buried(site.gateway, inbound("a"))
        asked = ["in-999", f"in-{row}", "letter", f"in-{row}"]
        results = await site.post("/messages/drop", {"names": asked})
        assert [bool(result["error"]) for result in results] == [True, False, True]
        assert "999" in results[0]["error"]
        assert "not the name of a message" in results[2]["error"]
        (again,) = await site.post("/messages/retry", {"names": [f"in-{row}"]})
        assert "dropped" in again["error"]
        assert again["message"] is None


async def test_a_message_of_a_lost_account_can_only_be_dropped(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        (row,) = await buried(site.gateway, inbound("a"), account="ghost")
        (result,) = await site.post("/messages/retry", {"names": [f"in-{row}"]})
        assert result["error"] == "there is no account 'ghost'; there are: polly"
        assert "drop" in result["hint"]
        assert (await site.get(f"/messages/in-{row}"))["state"] == "dead"
        (result,) = await site.post("/messages/drop", {"names": [f"in-{row}"]})
        assert result["message"]["state"] == "dropped"
        (line,) = await site.get("/history?limit=1")
        assert (line["account"], line["state"]) == ("ghost", "stopped")


async def test_the_history_says_what_the_operator_did(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        rows = await buried(site.gateway, *(inbound(f"m{n}") for n in range(7)))
        asked = [f"in-{row}" for row in rows]
        await site.post("/messages/drop", {"names": asked})
        (line,) = await site.get("/accounts/polly/history?limit=1")
        assert line["trigger"] == f"operator: dropped {', '.join(asked[:5])} and 2 more"
        assert (line["state"], line["generation"]) == ("connected", 1)


class Forgetful(MemoryStore):
    async def record(self, transition: Any) -> None:
        raise StoreError("store_full", "there is no room left")


async def test_what_was_done_is_done_also_without_a_line_of_history(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(parrots(tmp_path, polly="oak"), Forgetful()) as site:
        (row,) = await buried(site.gateway, inbound("a"))
        (result,) = await site.post("/messages/drop", {"names": [f"in-{row}"]})
        assert result["message"]["state"] == "dropped"
    assert "history not written account=polly" in caplog.text


async def test_a_retried_message_takes_its_place_behind_its_chat(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        gateway = site.gateway
        (row,) = await buried(gateway, inbound("late", text="late"))
        waiting = await gateway.store.receive("polly", [inbound("n1", text="now")], None)
        gateway.desk("polly").lanes.put(waiting)
        await site.post("/messages/retry", {"names": [f"in-{row}"]})
        await settled(site, f"in-{row}")
        texts = [message["text"] for message in (await site.get("/outbox"))["messages"]]
        assert texts == ["echo: now", "echo: late"]


class Slow(MemoryStore):
    """Takes its time where a desk that opens and a retry could meet."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    async def owed(self, account: str) -> list[Owed]:
        await asyncio.sleep(1.0)
        return await super().owed(account)

    async def begin(self, row: int) -> int:
        self.begun += 1
        await asyncio.sleep(5.0)
        return await super().begin(row)


async def test_a_message_retried_while_its_desk_opens_is_taken_up_once(tmp_path: Path) -> None:
    store = Slow()
    async with running(parrots(tmp_path, polly="oak"), store) as gateway:
        (row,) = await buried(gateway, inbound("a", text="once"))
        reloading = asyncio.create_task(gateway.reload(parrots(tmp_path, polly="ash")))
        await asyncio.sleep(0.5)
        entry = await gateway.retry(Box.INBOX, row)
        assert entry.state == "received"
        assert await reloading == ["polly: restarted"]
        await connected(gateway, "polly")
        await asyncio.sleep(30.0)
        assert store.begun == 1
        sent = await gateway.store.entries(Box.OUTBOX)
        assert [one.message.text for one in sent] == ["echo: once"]


# -- sending --------------------------------------------------------------------------------------


async def test_a_message_that_answers_none(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        await buried(site.gateway, inbound("a"))
        (owed,) = await site.post("/accounts/polly/send", {"chat": "den", "text": "news"})
        assert (owed["chat"], owed["text"], owed["state"]) == ("den", "news", "owed")
        sent = await settled(site, owed["name"])
        assert (sent["state"], sent["receipt"]) == ("sent", "1")
        (line,) = await site.get("/accounts/polly/history?limit=1")
        assert line["trigger"] == f"operator: queued {owed['name']}"


async def test_a_long_message_is_sent_in_parts_each_with_its_own_key(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        body = {"chat": "den", "text": "word " * 50, "anyway": True}
        owed = await site.post("/accounts/polly/send", body)
        assert len(owed) == 3
        assert len({one["id"] for one in owed}) == 3
        await asyncio.gather(*(settled(site, one["name"]) for one in owed))
        twice = await site.post("/accounts/polly/send", body)
        assert {one["id"] for one in twice}.isdisjoint(one["id"] for one in owed)


@pytest.mark.parametrize(
    ("account", "body", "status", "error", "hint"),
    [
        ("poly", {"chat": "den", "text": "x"}, 404, "there are: polly", ""),
        ("polly", {"chat": "dne", "text": "x"}, 404, "no message of a chat 'dne'", "--anyway"),
        ("polly", {"chat": "den", "text": " \n"}, 400, "no text", "more than blanks"),
        ("polly", {"chat": "", "text": "x", "anyway": True}, 400, "no chat", "inbox list"),
        ("polly", None, 400, "is empty", "JSON object with chat, text, anyway"),
        ("polly", {"chat": "den"}, 400, "`text`", "JSON object with"),
        ("polly", {"chat": "den", "text": "x", "to": "y"}, 400, "`to`", ""),
    ],
)
async def test_what_can_not_be_sent(
    tmp_path: Path, account: str, body: dict[str, Any], status: int, error: str, hint: str
) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        await buried(site.gateway, inbound("a"))
        answer = await site.ask("POST", f"/api/v1/accounts/{account}/send", body)
        assert answer[0] == status
        assert error in answer[1]["error"]
        assert hint in answer[1]["hint"]
        assert await site.gateway.store.entries(Box.OUTBOX) == []


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/inbox?state=lost", 400, "'lost' is no state"),
        ("/inbox?state=sent", 400, "'sent' is no state"),
        ("/dead?state=done", 400, "'done' is no state"),
        ("/inbox?before=out-1", 400, "out-1 is in the outbox"),
        ("/inbox?before=1", 400, "not the name of a message"),
        ("/inbox?limit=0", 400, "limit='0'"),
        ("/inbox?acount=polly", 400, "/api/v1/inbox has no parameter 'acount'"),
        ("/status?account=polly", 400, "/api/v1/status has no parameter 'account'"),
        ("/outbox?account=poly", 404, "there is no account 'poly'"),
        ("/dead?account=poly", 404, "there is no account 'poly'"),
        ("/gaps?account=poly", 404, "there is no account 'poly'"),
        ("/messages/in-7", 404, "there is no message in-7"),
        ("/messages/in-07", 400, "not the name of a message"),
    ],
)
async def test_questions_that_have_no_answer(
    tmp_path: Path, path: str, status: int, error: str
) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        answer = await site.ask("GET", "/api/v1" + path)
        assert answer[0] == status
        assert error in answer[1]["error"]
        assert answer[1]["hint"] or status == 404


@pytest.mark.parametrize("body", [None, [], {"names": []}, {"names": ["in-1"] * 1001}, {"x": 1}])
async def test_orders_that_can_not_be_understood(tmp_path: Path, body: Any) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        status, answer = await site.ask("POST", "/api/v1/messages/drop", body)
        assert status == 400
        assert answer["error"]
        assert answer["hint"]


# -- gaps and copies ------------------------------------------------------------------------------


async def test_gaps_until_they_are_dismissed(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", jack="elm")) as site:
        account = site.gateway.desk("polly").account
        account.missed("a fresh login", 1000.0)
        await asyncio.sleep(0.1)
        await site.gateway.store.add_gap("jack", Gap(since=1.0, until=2.0, reason="another"))
        both = await site.get("/gaps")
        assert [gap["account"] for gap in both] == ["polly", "jack"]
        (gap,) = await site.get("/gaps?account=polly")
        assert (gap["since"], gap["reason"]) == (1000.0, "a fresh login")
        assert (await site.get("/accounts/polly"))["gap"]["since"] == 1000.0
        dismissed = await site.post(f"/gaps/{gap['number']}/dismiss")
        assert dismissed == gap
        assert (await site.get("/accounts/polly"))["gap"] is None
        assert [gap["account"] for gap in await site.get("/gaps")] == ["jack"]
        (line,) = await site.get("/accounts/polly/history?limit=1")
        assert line["trigger"] == f"operator: dismissed gap {gap['number']}"
        status, again = await site.ask("POST", f"/api/v1/gaps/{gap['number']}/dismiss")
        assert (status, bool(again["error"])) == (409, True)
        status, _ = await site.ask("POST", "/api/v1/gaps/first/dismiss")
        assert status == 400


async def test_a_newer_gap_is_still_told_when_an_older_one_is_dismissed(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak")) as site:
        account = site.gateway.desk("polly").account
        for since in (1000.0, 2000.0):
            account.missed("a fresh login", since)
            await asyncio.sleep(0.1)
        old, _ = await site.get("/gaps")
        await site.post(f"/gaps/{old['number']}/dismiss")
        assert (await site.get("/accounts/polly"))["gap"]["since"] == 2000.0


async def test_a_copy_is_written_where_the_caller_says(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with serving(parrots(tmp_path, polly="oak"), store) as site:
        path = tmp_path / "copy.db"
        copy = await site.post("/backup", {"path": str(path)})
        assert copy == {"path": str(path), "bytes": path.stat().st_size}
        status, body = await site.ask("POST", "/api/v1/backup", {"path": str(path)})
        assert status == 503
        assert str(path) in body["error"]
        status, body = await site.ask("POST", "/api/v1/backup", {"path": "copy.db"})
        assert (status, body["error"]) == (400, "'copy.db' is not an absolute path")


# -- documents ------------------------------------------------------------------------------------


def test_every_field_of_a_message_is_documented() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    heads = re.findall(
        r"^\| (`[^|]+) \|", text.split("A message is the same there")[1], re.MULTILINE
    )
    told = {name for head in heads for name in re.findall(r"`(\w+)`", head)}
    assert told >= set(Letter.__struct_fields__)


# -- refused again --------------------------------------------------------------------------------


class Deaf(Parrot):
    """Refuses what it is asked to send."""

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        raise SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, "parrot_gone", "the chat is gone"))


async def test_what_is_refused_again_waits_again(tmp_path: Path) -> None:
    async with serving(parrots(tmp_path, polly="oak", kind=Deaf)) as site:
        body = {"chat": "den", "text": "x", "anyway": True}
        (owed,) = await site.post("/accounts/polly/send", body)
        assert (await settled(site, owed["name"]))["reason"] == "parrot_gone: the chat is gone"
        await site.post("/messages/retry", {"names": [owed["name"]]})
        again = await settled(site, owed["name"])
        assert (again["state"], again["mendable"]) == ("dead", True)
