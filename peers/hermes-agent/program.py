"""hermes-agent's gateway as its documentation starts it: `hermes gateway run`.

It gets a directory of its own, an answer for everybody, and a model that is always there. Telegram
and Mattermost have settings for their addresses. Patched: of Discord, Feishu and QQ the addresses
are constants.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import stub_model

HOME = Path(os.environ["PEER_HOME"])
PLATFORM = os.environ["PLATFORM"]


def telegram() -> tuple[dict[str, str], dict[str, Any]]:
    """Variables of its environment, and the platform's ``extra`` settings."""
    return (
        {"TELEGRAM_BOT_TOKEN": os.environ["TELEGRAM_TOKEN"]},
        {"base_url": f"{os.environ['TELEGRAM_BASE_URL']}/bot"},
    )


def mattermost() -> tuple[dict[str, str], dict[str, Any]]:
    """Its own names are those of the lab."""
    return {name: os.environ[name] for name in ("MATTERMOST_URL", "MATTERMOST_TOKEN")}, {}


def discord() -> tuple[dict[str, str], dict[str, Any]]:
    """The library's addresses, as in the program of discord.py."""
    import discord as library
    import yarl

    api = os.environ["DISCORD_API_URL"]
    library.http.Route.BASE = api
    gateway = yarl.URL(api).origin().with_scheme("ws") / "gw"
    library.gateway.DiscordWebSocket.DEFAULT_GATEWAY = gateway
    return {"DISCORD_BOT_TOKEN": os.environ["DISCORD_TOKEN"]}, {}


def feishu() -> tuple[dict[str, str], dict[str, Any]]:
    """The library's address, from which the adapter takes it."""
    import lark_oapi.core.const

    lark_oapi.core.const.FEISHU_DOMAIN = os.environ["FEISHU_BASE_URL"]
    return {name: os.environ[name] for name in ("FEISHU_APP_ID", "FEISHU_APP_SECRET")}, {}


def qqbot() -> tuple[dict[str, str], dict[str, Any]]:
    """The adapter's addresses."""
    from gateway.platforms.qqbot import adapter

    adapter.API_BASE = os.environ["QQBOT_API_URL"]
    adapter.TOKEN_URL = os.environ["QQBOT_TOKEN_URL"]
    who = {"QQ_APP_ID": os.environ["QQBOT_APP_ID"], "QQ_CLIENT_SECRET": os.environ["QQBOT_SECRET"]}
    return who, {"dm_policy": "open", "group_policy": "open"}


PLATFORMS: dict[str, Callable[[], tuple[dict[str, str], dict[str, Any]]]] = {
    "telegram": telegram,
    "mattermost": mattermost,
    "discord": discord,
    "feishu": feishu,
    "qqbot": qqbot,
}


def main() -> None:
    """Write the configuration, and run."""
    os.environ["HERMES_HOME"] = str(HOME / ".hermes")
    (HOME / ".hermes").mkdir(exist_ok=True)
    variables, extra = PLATFORMS[PLATFORM]()
    os.environ |= variables | {"GATEWAY_ALLOW_ALL_USERS": "true"}
    model = {"provider": "custom", "base_url": stub_model.start(), "api_key": "none"}
    settings = {
        "model": model | {"default": stub_model.MODEL, "context_length": 128_000},
        "platforms": {PLATFORM: {"enabled": True, "extra": extra}},
        # By default a message interrupts the answer to the one before, which is then never given.
        "display": {"busy_input_mode": "queue"},
    }
    # A JSON document is a YAML document.
    (HOME / ".hermes" / "config.yaml").write_text(json.dumps(settings))
    from hermes_cli.main import main as hermes

    sys.argv = ["hermes", "gateway", "run"]
    hermes()


if __name__ == "__main__":
    main()
