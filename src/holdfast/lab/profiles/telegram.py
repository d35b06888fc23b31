"""What Telegram can play."""

from __future__ import annotations

from typing import Final

import aiohttp

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.terms import Play

ELSEWHERE: Final = "http://127.0.0.1:9/"
"""Where a forgotten web hook leads: the discard port, at which nobody listens."""

POLL = "a poll is a request of its own: there is no connection that could be told anything"
TOKEN = "the token is all there is: it is good or not"
OFFSET = (
    "an update is handed out until a later offset confirms it, in order, and the offset is stored "
    "together with the message"
)


async def leave_hook(telegram: TelegramSimulator) -> None:
    """Somebody sets a web hook with the bot's token, and forgets it."""
    url = f"{telegram.url}/bot{telegram.token}/setWebhook"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"url": ELSEWHERE}, raise_for_status=True),
    ):
        pass


def rename(telegram: TelegramSimulator, number: int) -> None:
    """A bot's id is the first part of its token."""
    bot, _, secret = telegram.token.partition(":")
    telegram.token = f"{int(bot) + number}:{secret}"


PROFILE = Profile(
    platform="telegram",
    slow_cap=60.0,
    replays=True,
    # Each poll has a connection of its own: the next one to arrive has found a way.
    links=lambda telegram: int(telegram.count("polled")),
    mend=TelegramSimulator.restore,
    rename=rename,
    logins_throttled=Throttle(arm("rate_limited", retry_after=ASKED), "rate_limited"),
    sends_throttled=Throttle(arm("send_429", retry_after=ASKED), "send_429", granted="heard"),
    plays={
        Play.POLL_HANGS: "poll_hangs",
        Play.POLL_DRIPS: "poll_drips",
        Play.POLL_FAILS: "poll_fails",
        Play.STALL_LOGIN: "poll_hangs",
        Play.SLOW_LOGIN: arm("poll_slow", times=1),
        Play.ACCEPT_ONLY: "close_before_answer",
        Play.ERROR_ONCE: arm("http_502", times=1),
        Play.MALFORMED_ONCE: arm("malformed_json", times=1),
        Play.THROTTLE: arm("rate_limited", retry_after=30),
        Play.REVOKE: TelegramSimulator.revoke_token,
        Play.REPAIR: TelegramSimulator.restore,
        Play.REPLACED: "conflict",
        Play.LINGERING: arm("lingering_poll", times=1, seconds=30),
        Play.LOGGED_OUT: "unauthorized",
        Play.FOREIGN_HOOK: leave_hook,
        Play.IDENTITY_FAILS: arm("http_502", times=1),
        Play.BAD_FRAME: arm("malformed_json", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_429", times=1, retry_after=5),
        Play.DOWN: TelegramSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.GOODBYE, Play.NOTICE, Play.RESTART_CODE), POLL),
        **dict.fromkeys((Play.NO_ACK, Play.ACK_LATE), "a poll is answered or not: nothing beats"),
        **dict.fromkeys((Play.DUPLICATE, Play.REDELIVER, Play.ACK_LOST, Play.REORDER), OFFSET),
        Play.ZOMBIE: "an empty answer to a poll is the server's word that nothing waits",
        Play.HUGE_FRAME: "an answer holds a hundred updates of at most a few kilobytes each",
        Play.EXPIRE: TOKEN,
        Play.CLOSE_AT_ONCE: "a poll that was answered is complete: what follows is the next one",
        Play.REFUSE_RESUME: "the server keeps the place: an offset is a confirmation, no wish",
        Play.RESUME_BROKEN: "there is no session: every poll is as good as the first",
        Play.QUOTA: "nobody counts how often a bot logs in",
        Play.FORBID: TOKEN,
        Play.TOKEN_HANG: "the token is configured and never fetched",
        Play.SPLIT: "two polls of one bot are never served side by side: one gets 409 (REPLACED)",
        Play.HISTORY: "nothing older than a day is kept, and what was confirmed is gone",
        Play.SKEWED: "nothing is signed or judged by the date",
    },
)
