"""The configuration `holdfast init` writes."""

from __future__ import annotations

from collections.abc import Sequence

HEAD = """\
# Holdfast's configuration. Every key is explained in docs/configuration.md.
#
# 1. Fill in the accounts below. Secrets stay outside this file:
#        token = { env = "NAME" }           an environment variable
#        token = { file = "secrets/name" }  a file, relative to this one
# 2. holdfast check     do the credentials work?
# 3. holdfast run       run the gateway; `holdfast status` shows how every account is

[gateway]
# Journal, status file and control socket; relative to this file.
state_dir = "state"

# What answers: "echo", or your own function: "python:my_bot:answer" calls answer(message)
# of my_bot.py beside this file and sends what it returns.
agent = "echo"

# HTTP proxy for all accounts.
# proxy = "http://127.0.0.1:3128"

# Only for accounts with mode = "webhook": where to listen, and the public address of that.
# hook_listen = "127.0.0.1:8070"
# hook_url = "https://bots.example.org"
"""

ACCOUNTS = {
    "telegram": """\
# Telegram: talk to https://t.me/BotFather, send /newbot, and keep the token it gives you.
[accounts.my-telegram-bot]
platform = "telegram"
token = { env = "TELEGRAM_TOKEN" }
""",
    "qqbot": """\
# QQ: make a bot on https://q.qq.com; AppID and AppSecret are under its development settings.
[accounts.my-qq-bot]
platform = "qqbot"
app_id = "100000000"
secret = { env = "QQBOT_SECRET" }
""",
    "matrix": """\
# Matrix: make a user for the bot on any homeserver.
[accounts.my-matrix-bot]
platform = "matrix"
homeserver = "https://matrix.example.org"
user_id = "@bot:example.org"
password = { env = "MATRIX_PASSWORD" }
""",
}
"""Platform -> a table to fill in."""

ANY = """\
[accounts.my-{platform}-bot]
platform = "{platform}"
# Its own keys are explained in docs/platforms/{platform}.md.
"""

FOOT = """\
# Every account may also have:
#   enabled = false             leave it out
#   agent = "python:..."        its own agent
#   proxy = "http://..."        its own proxy; "" for none
#   ambiguous = "hold"          ask a person before sending again what may have arrived
#   policy = { backoff_cap = 30 }   see docs/configuration.md
"""


def starter(platforms: Sequence[str]) -> str:
    """A commented configuration with an account for each platform."""
    unique = dict.fromkeys(platforms)
    accounts = [ACCOUNTS.get(name) or ANY.format(platform=name) for name in unique]
    return "\n".join([HEAD, *accounts, FOOT])
