"""One caller at the token service, renewal before the end, one repeat after a refusal."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import pytest

from holdfast.access_token import AccessToken, Issued
from holdfast.adapter import BadFrame, Disconnect, Http, HttpFailed, HttpReply
from holdfast.supervision import Cause, Kind

HTTP = cast(Http, None)
"""Handed through, and never used by a token itself."""

LOST = Cause(Kind.LOST, "reset", "gone")


class Service:
    """Hands out t1, t2, ... of 100 s each, or raises the next of its troubles; takes a second."""

    def __init__(self, *troubles: Exception) -> None:
        self.asked = 0
        self.troubles = deque(troubles)

    async def issue(self, http: Http) -> Issued:
        """See `holdfast.access_token.Issue`."""
        self.asked += 1
        await asyncio.sleep(1.0)
        if self.troubles:
            raise self.troubles.popleft()
        return Issued(f"t{self.asked}", 100.0)


def token_of(service: Service) -> AccessToken:
    """A token that is renewed 10 s before its end."""
    return AccessToken(service.issue, renew_before=10.0)


async def test_callers_at_the_same_time_share_one_request() -> None:
    service = Service()
    token = token_of(service)
    assert await asyncio.gather(*(token.get(HTTP) for _ in range(5))) == ["t1"] * 5
    assert service.asked == 1


async def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    service = Service()
    token = token_of(service)
    assert await token.get(HTTP) == "t1"
    await asyncio.sleep(88.0)  # its life counts from the question
    assert await token.get(HTTP) == "t1"
    await asyncio.sleep(2.0)
    assert await token.get(HTTP) == "t2"


async def test_only_the_refused_token_is_replaced() -> None:
    service = Service()
    token = token_of(service)
    first = await token.get(HTTP)
    refused = [token.get(HTTP, refused=first) for _ in range(3)]
    assert await asyncio.gather(*refused) == ["t2"] * 3
    assert await token.get(HTTP, refused=first) == "t2"


async def test_a_forgotten_token_is_asked_for_anew() -> None:
    service = Service()
    token = token_of(service)
    await token.get(HTTP)
    token.forget()
    assert await token.get(HTTP) == "t2"


@pytest.mark.parametrize("trouble", [HttpFailed(LOST, sent=True), BadFrame("?"), Disconnect(LOST)])
async def test_every_trouble_is_a_disconnect_and_the_next_caller_asks_again(
    trouble: HttpFailed | BadFrame | Disconnect,
) -> None:
    service = Service(trouble)
    token = token_of(service)
    with pytest.raises(Disconnect) as failed:
        await token.get(HTTP)
    assert failed.value.cause == trouble.cause
    assert await token.get(HTTP) == "t2"


async def test_whoever_waits_asks_in_the_place_of_a_cancelled_caller() -> None:
    service = Service()
    token = token_of(service)
    first, second = (asyncio.ensure_future(token.get(HTTP)) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == "t2"
    assert first.cancelled()


class Platform:
    """Refuses some tokens with 401."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.seen = refused, list[str]()

    async def ask(self, token: str) -> HttpReply:
        """A call with the token."""
        self.seen.append(token)
        return HttpReply(401 if token in self.refused else 200, {}, token.encode())


def refuses(reply: HttpReply) -> bool:
    """Whether it was the token."""
    return reply.status == 401


@pytest.mark.parametrize(
    ("refused", "seen", "status"),
    [((), ["t1"], 200), (("t1",), ["t1", "t2"], 200), (("t1", "t2"), ["t1", "t2"], 401)],
)
async def test_a_refused_call_is_repeated_once(
    refused: tuple[str, ...], seen: list[str], status: int
) -> None:
    platform = Platform(*refused)
    reply = await token_of(Service()).call(HTTP, platform.ask, refuses)
    assert (reply.status, platform.seen) == (status, seen)


async def test_nothing_is_called_without_a_token() -> None:
    platform = Platform()
    with pytest.raises(Disconnect):
        await token_of(Service(BadFrame("?"))).call(HTTP, platform.ask, refuses)
    assert platform.seen == []
