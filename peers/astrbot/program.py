"""AstrBot as its documentation starts it: `astrbot run`, in a directory of its own.

It gets a model that is always there. Telegram and Feishu have settings for their addresses: nothing
is patched. Its dashboard is off, for the start would fetch the page from the network.
"""

import asyncio
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


def telegram() -> dict[str, Any]:
    """The platform's settings."""
    url = os.environ["TELEGRAM_BASE_URL"]
    return {
        "id": "telegram",
        "type": "telegram",
        "enable": True,
        "telegram_token": os.environ["TELEGRAM_TOKEN"],
        "start_message": "Hello, I'm AstrBot!",
        "telegram_api_base_url": f"{url}/bot",
        "telegram_file_base_url": f"{url}/file/bot",
        "telegram_command_register": True,
        "telegram_command_auto_refresh": True,
        "telegram_command_register_interval": 300,
    }


def feishu() -> dict[str, Any]:
    """The platform's settings."""
    return {
        "id": "lark",
        "type": "lark",
        "enable": True,
        "lark_bot_name": "",
        "app_id": os.environ["FEISHU_APP_ID"],
        "app_secret": os.environ["FEISHU_APP_SECRET"],
        "domain": os.environ["FEISHU_BASE_URL"],
        "lark_connection_mode": "socket",
        "webhook_uuid": "",
        "lark_encrypt_key": "",
        "lark_verification_token": "",
    }


PLATFORMS: dict[str, Callable[[], dict[str, Any]]] = {"telegram": telegram, "feishu": feishu}


def configure(root: Path) -> None:
    """What `astrbot init` and the dashboard would write; everything else is its own default."""
    for folder in ("config", "plugins", "temp"):
        (root / "data" / folder).mkdir(parents=True, exist_ok=True)
    (root / ".astrbot").touch()
    source = {
        "id": "stub",
        "provider": "openai",
        "type": "openai_chat_completion",
        "provider_type": "chat_completion",
        "enable": True,
        "key": ["none"],
        "api_base": stub_model.start(),
    }
    model = {"id": "stub/echo", "enable": True, "provider_source_id": "stub"}
    config = {
        "platform": [PLATFORMS[PLATFORM]()],
        "provider_sources": [source],
        "provider": [model | {"model": stub_model.MODEL}],
        "provider_settings": {"default_provider_id": model["id"]},
        "dashboard": {"enable": False},
    }
    (root / "data" / "cmd_config.json").write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    """Write the configuration, and run as the command does after it has fetched its page."""
    os.environ |= {"ASTRBOT_ROOT": str(HOME), "ASTRBOT_CLI": "1"}
    os.chdir(HOME)
    configure(HOME)
    from astrbot.core import LogBroker, LogManager, db_helper, logger
    from astrbot.core.initial_loader import InitialLoader

    broker = LogBroker()
    LogManager.set_queue_handler(logger, broker)
    asyncio.run(InitialLoader(db_helper, broker).start())


if __name__ == "__main__":
    main()
