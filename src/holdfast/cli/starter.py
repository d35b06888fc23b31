"""The configuration `holdfast init` writes."""

from __future__ import annotations

from collections.abc import Sequence

HEAD = """\
# Holdfast's configuration. Every key is explained in docs/configuration.md.
#
# 1. Fill in the accounts below. Secrets stay outside this file:
#        token = { env = "NAME" }           an environment variable
#        token = { file = "secrets/name" }  a file, relative to this one
#        token = { keyring = "holdfast/x" } the system keyring, with holdfast[keyring]
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

# Only for web hooks and web chat: where to listen, and the public address of that.
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
    "dingtalk": """\
# DingTalk: make an app with a robot in Stream mode on https://open-dev.dingtalk.com.
[accounts.my-dingtalk-bot]
platform = "dingtalk"
client_id = "dingxxxxxxxxxxxxxxxx"
client_secret = { env = "DINGTALK_SECRET" }
""",
    "feishu": """\
# Feishu: make a custom app with a bot on https://open.feishu.cn/app; for Lark see base_url.
[accounts.my-feishu-bot]
platform = "feishu"
app_id = "cli_xxxxxxxxxxxxxxxx"
app_secret = { env = "FEISHU_SECRET" }
# base_url = "https://open.larksuite.com"
""",
    "slack": """\
# Slack: make an app with Socket Mode on https://api.slack.com/apps; it has two tokens, the bot's
# (xoxb-...) and an app-level one (xapp-...). docs/platforms/slack.md has a manifest for it.
[accounts.my-slack-bot]
platform = "slack"
bot_token = { env = "SLACK_BOT_TOKEN" }
app_token = { env = "SLACK_APP_TOKEN" }
""",
    "mattermost": """\
# Mattermost: make a bot account under Integrations, Bot Accounts, and keep its token.
[accounts.my-mattermost-bot]
platform = "mattermost"
url = "https://chat.example.org"
token = { env = "MATTERMOST_TOKEN" }
""",
    "discord": """\
# Discord: make an application with a bot on https://discord.com/developers/applications, and switch
# on its Message Content Intent.
[accounts.my-discord-bot]
platform = "discord"
token = { env = "DISCORD_TOKEN" }
""",
    "whatsapp": """\
# WhatsApp: make an app on https://developers.facebook.com/apps; its API Setup shows the two ids.
# It needs hook_url above. The verify token is any text of yours.
[accounts.my-whatsapp-bot]
platform = "whatsapp"
phone_number_id = "100000000000000"
business_account_id = "100000000000000"
access_token = { env = "WHATSAPP_TOKEN" }
app_secret = { env = "WHATSAPP_APP_SECRET" }
verify_token = { env = "WHATSAPP_VERIFY_TOKEN" }
""",
    "webchat": """\
# Web chat: a page at http://127.0.0.1:8070/chat, or below hook_url; the token keeps strangers out.
[accounts.my-webchat-bot]
platform = "webchat"
token = { env = "WEBCHAT_TOKEN" }
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
