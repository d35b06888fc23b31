"""The platforms, each in files that begin with its name; `holdfast.platforms` finds them."""

from __future__ import annotations

BUILT_IN = {
    "telegram": "holdfast.adapters.telegram:Telegram",
    "qqbot": "holdfast.adapters.qqbot:QQBot",
    "dingtalk": "holdfast.adapters.dingtalk:DingTalk",
    "feishu": "holdfast.adapters.feishu:Feishu",
    "slack": "holdfast.adapters.slack:Slack",
    "mattermost": "holdfast.adapters.mattermost:Mattermost",
    "discord": "holdfast.adapters.discord:Discord",
    "whatsapp": "holdfast.adapters.whatsapp:WhatsApp",
    "webchat": "holdfast.adapters.webchat:WebChat",
    "matrix": "holdfast.adapters.matrix:Matrix",
}
"""Platform name -> where its adapter lives."""
