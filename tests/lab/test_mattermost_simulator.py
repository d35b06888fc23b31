"""The Mattermost simulator, spoken to frame by frame and call by call."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators import mattermost_rules
from holdfast.lab.simulators.mattermost import MattermostSimulator

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (3).to_bytes(4, "big") + (2).to_bytes(4, "big")
EXPIRED = "api.context.session_expired.app_error"
ROUTER = "api.web_socket_router"


class Socket:
    """One event socket of the raw client."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws, self.id = ws, ""

    async def put(self, action: str, seq: int = 1, **data: Any) -> None:
        await self.ws.send_json({"seq": seq, "action": action, "data": data})

    async def next(self, timeout: float = 5.0) -> Any:
        """The next frame, or a close code (None for EOF); TimeoutError when nothing comes."""
        message = await self.ws.receive(timeout=timeout)
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else message.data

    async def post(self) -> tuple[str, int, Any]:
        frame = await self.next()
        return frame["event"], frame["seq"], json.loads(frame["data"]["post"])

    async def texts(self, n: int) -> list[tuple[int, str]]:
        return [(seq, post["message"]) for _, seq, post in [await self.post() for _ in range(n)]]


class Raw:
    """A client without any manners of its own."""

    def __init__(self, sim: MattermostSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http = sim, http
        self.sockets: list[Socket] = []

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {more.pop('token', self.sim.token)}"}
        url = f"{self.sim.url}/api/v4{path}"
        async with self.http.request(method, url, json=body, headers=headers, **more) as response:
            if response.headers["Content-Type"] == "application/json":
                answer = await response.json()
                return response.status, answer.get("id") if response.status >= 400 else answer
            return response.status, await response.read()

    async def send(self, chat: str = "alice", **body: Any) -> tuple[int, Any]:
        channel = self.sim.channel_id(chat)
        return await self.call("POST", "/posts", {"channel_id": channel, "message": "hi"} | body)

    async def connect(self, token: str | None = None, **query: Any) -> Socket:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = self.sim.url + "/api/v4/websocket"
        ws = await self.http.ws_connect(url, headers=headers, params=query)
        self.sockets.append(Socket(ws))
        return self.sockets[-1]

    async def live(self) -> Socket:
        link = await self.connect(self.sim.token)
        hello = await link.next()
        assert (hello["event"], hello["seq"]) == ("hello", 0)
        link.id = hello["data"]["connection_id"]
        return link

    async def resume(self, old: Socket, seq: int) -> Socket:
        return await self.connect(self.sim.token, connection_id=old.id, sequence_number=seq)


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[tuple[MattermostSimulator, Raw]]:
    async with aiohttp.ClientSession() as http:
        async with MattermostSimulator() as sim:
            raw = Raw(sim, http)
            yield sim, raw
        for link in raw.sockets:
            await link.ws.close()


def facts(sim: MattermostSimulator, what: str) -> list[Any]:
    return [record.detail["id"] for record in sim.log if record.what == what]


async def test_header_login_ping_and_truth() -> None:
    async with server() as (sim, raw):
        assert not sim.listening()
        link = await raw.live()
        assert sim.listening()
        await link.put("ping", 1)
        reply = await link.next()
        assert (reply["status"], reply["seq_reply"], reply["data"]["text"]) == ("OK", 1, "pong")
        opening = ["ws-open", "login", "ready", "link-open", "beat"]
        assert [r.what for r in sim.log if r.what in opening] == opening
        await link.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert not sim.listening()


@pytest.mark.parametrize("first", ["OK", "hello"])
async def test_challenge_is_answered_in_either_order(first: str) -> None:
    async with server() as (sim, raw):
        if first == "hello":
            sim.faults.arm("hello_first")
        link = await raw.connect()
        await link.put("authentication_challenge", token=sim.token)
        frames = [await link.next(), await link.next()]
        if first == "hello":
            frames.reverse()
        assert frames[0] == {"status": "OK", "seq_reply": 1}
        assert frames[1]["event"] == "hello"
        assert sim.listening()


async def test_bad_tokens_end_in_eof_not_in_a_handshake_error() -> None:
    async with server() as (sim, raw):
        link = await raw.connect()
        await link.put("authentication_challenge", token="wrong")
        assert await link.next(0.5) is None
        link, before = await raw.connect("wrong"), sim.now()
        assert await link.next(6) is None
        assert sim.now() - before == pytest.approx(5, abs=0.1)
        assert link.ws.close_code == 1006
        assert sim.count("login") == 0


async def test_unauthenticated_and_wrong_actions_fail() -> None:
    async with server() as (_, raw):
        link = await raw.connect()
        await link.put("ping")
        reply = await link.next()
        assert (reply["status"], reply["seq_reply"]) == ("FAIL", 1)
        assert reply["error"]["id"] == f"{ROUTER}.not_authenticated.app_error"
        link = await raw.live()
        for action, seq, error in (("", 1, "no_action"), ("x", 0, "bad_seq"), ("x", 1, "bad_act")):
            await link.put(action, seq)
            reply = await link.next()
            assert reply["error"]["id"].startswith(f"{ROUTER}.{error}")
            assert ("seq_reply" in reply) is (error != "bad_seq")
        await link.ws.send_str("x" * 9000)
        assert await link.next() == 1009


@pytest.mark.parametrize("status", [403, 404, 429, 503])
async def test_refused_upgrade(status: int) -> None:
    async with server() as (sim, raw):
        sim.faults.arm("ws_refused", status=status, retry_after=7)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await raw.live()
        assert caught.value.status == status
        assert caught.value.headers is not None
        assert caught.value.headers["Retry-After"] == "7"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await raw.http.ws_connect(sim.url + "/api/v4/websocket", origin="http://other.example")


async def test_faults_of_the_opening() -> None:
    async with server() as (sim, raw):
        sim.faults.arm("close_after_accept", code=1001)
        assert await (await raw.connect(sim.token)).next() == 1001
        sim.faults.arm("close_after_accept", code=0)
        assert await (await raw.connect(sim.token)).next() is None
        sim.faults.arm("no_hello")
        link = await raw.connect(sim.token)
        sim.say("unheard")
        with pytest.raises(TimeoutError):
            await link.next(30)
        assert not sim.listening()
        sim.faults.arm("slow_hello", delay=5)
        before = sim.now()
        assert (await (await raw.connect(sim.token)).next(9))["event"] == "hello"
        assert sim.now() - before == pytest.approx(5, abs=0.1)


async def test_resume_replays_what_was_written_and_what_waited() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        first = sim.say("one")
        sim.say("two")
        assert await link.texts(2) == [(1, "one"), (2, "two")]
        sim.drop_all()
        sim.say("three")
        link = await raw.resume(link, 2)
        assert await link.texts(2) == [(2, "two"), (3, "three")]
        assert facts(sim, "ack") == [first]
        assert (sim.count("resumed"), sim.count("login"), sim.count("lost")) == (1, 1, 0)
        sim.say("four")
        assert await link.texts(1) == [(4, "four")]


async def test_resume_refused_or_unknown_gets_a_new_hello() -> None:
    async with server() as (sim, raw):
        old = await raw.live()
        sim.drop_all()
        key = sim.say("waited")
        sim.faults.arm("refuse_resume")
        hello = await (await raw.resume(old, 1)).next()
        assert (hello["seq"], hello["data"]["connection_id"] == old.id) == (0, False)
        assert facts(sim, "lost") == [key]
        old.id = hello["data"]["connection_id"]
        sim.restart()
        assert (await (await raw.resume(old, 1)).next())["event"] == "hello"


async def test_resume_without_a_number_is_closed_and_challenge_never_resumes() -> None:
    async with server() as (sim, raw):
        old = await raw.live()
        sim.drop_all()
        link = await raw.connect(sim.token, connection_id=old.id)
        assert await link.next() is None
        link = await raw.connect(connection_id=old.id, sequence_number=1)
        await link.put("authentication_challenge", token=sim.token)
        await link.next()
        assert (await link.next())["data"]["connection_id"] != old.id


async def test_resume_beyond_the_buffer_and_overflow() -> None:
    async with server() as (sim, raw):
        old = await raw.live()
        for n in range(130):
            sim.say(str(n))
        await old.texts(130)
        sim.drop_all()
        sim.say("waited")
        link = await raw.resume(old, 1)
        hello = await link.next()
        assert (hello["seq"], hello["data"]["connection_id"] != old.id) == (0, True)
        assert await link.texts(1) == [(1, "waited")]
        link.id = hello["data"]["connection_id"]
        sim.drop_all()
        for n in range(257):
            sim.say(str(n))
        assert sim.count("lost") == 257
        assert (await (await raw.resume(link, 2)).next())["event"] == "hello"


async def test_stale_connections_are_reaped() -> None:
    async with server() as (sim, raw):
        old = await raw.live()
        sim.drop_all()
        await asyncio.sleep(601)
        assert (await (await raw.resume(old, 1)).next())["event"] == "hello"
        assert sim.count("resumed") == 0


async def test_server_pings_and_drops_the_silent() -> None:
    async with server() as (sim, raw):
        url = sim.url + "/api/v4/websocket"
        headers = {"Authorization": f"Bearer {sim.token}"}
        async with raw.http.ws_connect(url, headers=headers, autoping=False) as ws:
            await ws.receive()
            before = sim.now()
            assert (await ws.receive()).type is aiohttp.WSMsgType.PING
            assert sim.now() - before == pytest.approx(60, abs=0.5)
            await sim.until(lambda: sim.count("link-lost") == 1, timeout=100)
            assert sim.now() - before == pytest.approx(100, abs=0.5)


async def test_ping_faults() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("no_ack")
        await link.put("ping", 1)
        with pytest.raises(TimeoutError):
            await link.next(20)
        link = await raw.live()
        sim.faults.arm("ack_once_late", delay=4)
        before = sim.now()
        await link.put("ping", 1)
        assert (await link.next())["seq_reply"] == 1
        assert sim.now() - before == pytest.approx(4, abs=0.1)
        sim.faults.arm("ping_fail")
        await link.put("ping", 2)
        assert (await link.next())["error"]["status_code"] == 401


async def test_revoked_token_leaves_a_silent_socket() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        sim.revoke()
        assert not sim.listening()
        key = sim.say("unheard")
        await link.put("ping", 1)
        assert (await link.next())["error"]["id"] == f"{ROUTER}.not_authenticated.app_error"
        assert facts(sim, "lost") == [key]
        assert await raw.call("GET", "/users/me") == (401, EXPIRED)
        sim.set_token("renewed")
        assert (await raw.call("GET", "/users/me"))[1]["id"] == sim.bot_id


async def test_zombie_and_half_open() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("mute", times=None)
        assert not sim.listening()
        sim.say("withheld")
        await link.put("ping", 1)
        assert (await link.next())["data"]["text"] == "pong"
        sim.faults.clear()
        assert sim.listening()
        sim.half_open()
        assert not sim.listening()
        sim.say("into the void")
        await link.put("ping", 2)
        with pytest.raises(TimeoutError):
            await link.next(30)
        sim.faults.arm("half_open")
        await raw.live()
        assert not sim.listening()


async def test_posts_look_like_the_servers() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        root = sim.say("status?", chat="team", sender="bob", group=True)
        frame = await link.next()
        post, data = json.loads(frame["data"]["post"]), frame["data"]
        assert (post["id"], post["message"]) == (root, "@holdfast status?")
        assert (data["channel_type"], data["mentions"]) == ("O", f'["{sim.bot_id}"]')
        sim.say("see", chat="team", sender="bob", group=True, reply_to=root, image=PNG)
        _, _, post = await link.post()
        [info] = post["metadata"]["files"]
        assert (post["root_id"], info["width"], info["mime_type"]) == (root, 3, "image/png")
        assert await raw.call("GET", f"/files/{post['file_ids'][0]}") == (200, PNG)
        key = sim.say("priv")
        assert (await link.next())["data"]["channel_type"] == "D"
        sim.say("private", edit_of=key)
        kind, _, post = await link.post()
        assert (kind, post["message"], post["edit_at"] > 0) == ("post_edited", "private", True)
        sim.erase(key)
        assert (await link.post())[0] == "post_deleted"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("seq_gap", [(2, "posted")]),
        ("dup_event", [(1, "posted"), (2, "posted"), (3, "posted")]),
        ("unknown_event", [(1, "something_new"), (2, "posted"), (3, "posted")]),
        ("split_frame", [(1, "posted"), (2, "posted")]),
    ],
)
async def test_event_faults(fault: str, expected: list[tuple[int, str]]) -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        sim.faults.arm(fault)
        sim.say("größer")
        sim.say("two")
        frames = [await link.next() for _ in expected]
        assert [(f["seq"], f["event"]) for f in frames] == expected
        assert json.loads(frames[-1]["data"]["post"])["message"] == "two"


async def test_unreadable_events() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("bad_frame", raw="<xml/>")
        sim.faults.arm("bad_post", raw="{")
        sim.say("one")
        assert (await link.ws.receive()).data == "<xml/>"
        assert (await link.next())["data"]["post"] == "{"


async def test_backfill_by_since_and_by_id() -> None:
    async with server() as (sim, raw):
        ids = [sim.say(str(n)) for n in range(3)]
        path = f"/channels/{sim.channel_id('alice')}/posts"
        date = sim.posts[ids[1]]["create_at"]
        sim.say("edited", edit_of=ids[0])
        sim.erase(ids[2])
        _, page = await raw.call("GET", path, params={"since": date})
        assert page["order"] == [ids[2], ids[0]]
        assert page["posts"][ids[2]]["delete_at"] > 0
        more = [sim.say(str(n)) for n in range(3)]
        _, page = await raw.call("GET", path, params={"after": ids[0], "per_page": 2})
        assert (page["order"], page["next_post_id"]) == ([more[0], ids[1]], more[1])
        assert page["prev_post_id"] == ids[0]
        _, page = await raw.call("GET", path, params={"per_page": 2})
        assert (page["order"], page["prev_post_id"]) == ([more[2], more[1]], more[0])
        assert set(facts(sim, "fetched")) == {*ids, *more}
        _, [channel] = await raw.call("GET", "/users/me/channels")
        assert channel["last_post_at"] == sim.posts[more[2]]["create_at"]


@pytest.mark.parametrize(("newest", "expected"), [(False, "dcba"), (True, "eda")])
async def test_a_full_answer_to_since_holds_those_changed_first_or_last(
    newest: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mattermost_rules, "MAX_SINCE", 3)
    async with server() as (sim, raw):
        sim.since_newest = newest
        a, b = sim.say("a"), sim.say("b")
        date = sim.posts[b]["create_at"]
        sim.say("c", reply_to=a)
        sim.say("b", edit_of=b)
        sim.say("d")
        sim.say("e", reply_to=a)
        path = f"/channels/{sim.channel_id('alice')}/posts"
        _, page = await raw.call("GET", path, params={"since": date})
        assert "".join(page["posts"][key]["message"] for key in page["order"]) == expected


async def test_send_reply_edit_delete_and_echo() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        status, root = await raw.send(pending_post_id="p:1")
        assert (status, root["props"]) == (201, {"from_bot": "true"})
        assert root["pending_post_id"] == "p:1"
        _, _, echo = await link.post()
        assert (echo["id"], echo["user_id"]) == (root["id"], sim.bot_id)
        assert (await raw.send(root_id=root["id"]))[0] == 201
        path = f"/posts/{root['id']}"
        assert (await raw.call("PUT", f"{path}/patch", {"message": "new"}))[1]["edit_at"] > 0
        assert [(h.text, h.reply_to, h.edit_of) for h in sim.heard] == [
            ("hi", None, None),
            ("hi", root["id"], None),
            ("new", None, root["id"]),
        ]
        assert (await raw.call("GET", path))[1]["pending_post_id"] == ""
        assert await raw.call("DELETE", path) == (200, {"status": "OK"})
        assert await raw.call("GET", path) == (404, "app.post.get.app_error")
        other = sim.say("mine")
        assert (await raw.call("DELETE", f"/posts/{other}"))[0] == 403


async def test_pending_post_id_is_idempotent_for_a_while() -> None:
    async with server() as (sim, raw):
        first = (await raw.send(pending_post_id="p:1"))[1]["id"]
        assert (await raw.send(pending_post_id="p:1"))[1]["id"] == first
        await asyncio.sleep(31)
        assert (await raw.send(pending_post_id="p:1"))[1]["id"] != first
        sim.faults.arm("send_slow", delay=3)
        slow = asyncio.create_task(raw.send(pending_post_id="p:2"))
        await asyncio.sleep(1)
        pending = (500, "api.post.deduplicate_create_post.pending")
        assert await raw.send(pending_post_id="p:2") == pending
        assert (await slow)[1]["id"] == (await raw.send(pending_post_id="p:2"))[1]["id"]
        assert len(sim.heard) == 3


async def test_refused_sends() -> None:
    async with server() as (sim, raw):
        assert await raw.send(message="x" * 16384) == (400, "model.post.is_valid.msg.app_error")
        wrong_root = (400, "api.post.create_post.root_id.app_error")
        assert await raw.send(root_id="nothing") == wrong_root
        assert (await raw.send(channel_id="nowhere"))[0] == 403
        sim.faults.arm("send_error", status=403, id="some.id")
        assert await raw.send() == (403, "some.id")
        sim.faults.arm("send_429")
        assert await raw.send() == (429, b"limit exceeded")
        sim.faults.arm("send_pending")
        assert await raw.send() == (500, "api.post.deduplicate_create_post.pending")
        assert sim.heard == []


async def test_lost_slow_and_swallowed_sends() -> None:
    async with server() as (sim, raw):
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientConnectionError):
            await raw.send(pending_post_id="p:1")
        sim.faults.arm("send_slow_but_delivered", delay=8)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.send(), 5)
        assert len(sim.heard) == 2
        assert (await raw.send(pending_post_id="p:1"))[1]["id"] == sim.heard[0].id
        sim.faults.arm("send_swallowed")
        assert (await raw.send())[0] == 201
        assert len(sim.heard) == 2


@pytest.mark.parametrize(
    ("fault", "params", "expected"),
    [
        ("api_500", {"id": "some.id"}, (500, "some.id")),
        ("api_503", {}, (503, "api.context.server_busy.app_error")),
        ("api_401", {}, (401, EXPIRED)),
        ("api_403", {}, (403, "api.context.permissions.app_error")),
        ("api_429", {"retry_after": None}, (429, b"limit exceeded")),
        ("api_html", {"status": 200}, (200, b"<html><body>Bad Gateway</body></html>")),
    ],
)
async def test_api_faults(fault: str, params: Any, expected: Any) -> None:
    async with server() as (sim, raw):
        sim.faults.arm(fault, **params)
        assert await raw.call("GET", "/users/me") == expected
        assert (await raw.call("GET", "/users/me"))[1]["username"] == "holdfast"


async def test_remaining_faults_of_calls() -> None:
    async with server() as (sim, raw):
        channel = sim.channel_id("alice")
        sim.faults.arm("posts_error")
        assert (await raw.call("GET", f"/channels/{channel}/posts"))[0] == 500
        sim.faults.arm("typing_busy")
        typing = "/users/me/typing", {"channel_id": channel}
        assert [(await raw.call("POST", *typing))[0] for _ in range(2)] == [503, 200]
        assert sim.count("typing") == 1
        sim.faults.arm("api_hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.call("GET", "/users/me"), 60)
        sim.faults.arm("upload_too_large")
        url, headers = f"{sim.url}/api/v4/files", {"Authorization": f"Bearer {sim.token}"}
        for status in (413, 201):
            form = aiohttp.FormData({"channel_id": channel})
            form.add_field("files", PNG, filename="a.png")
            async with raw.http.post(url, data=form, headers=headers) as response:
                assert response.status == status


async def test_a_live_socket_is_closed_at_once_and_so_is_one_that_resumes() -> None:
    async with server() as (sim, raw):
        first = await raw.live()
        sim.drop_all()
        sim.faults.arm("close_on_resume")
        assert await (await raw.resume(first, 1)).next() == 1011
        sim.faults.arm("close_when_live", code=1012)
        second = await raw.live()
        assert await second.next() == 1012
        assert not sim.listening()


async def test_a_huge_frame_precedes_the_event() -> None:
    async with server() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("huge_frame", size=100_000)
        sim.say("after it")
        assert len((await link.next())["data"]["id"]) == 100_000
        assert (await link.texts(1))[0][1] == "after it"


async def test_a_call_answers_with_json_that_breaks_off() -> None:
    async with server() as (sim, raw):
        sim.faults.arm("api_malformed")
        with pytest.raises(ValueError, match="Unterminated"):
            await raw.call("GET", "/users/me")
