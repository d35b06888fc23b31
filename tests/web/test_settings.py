"""The table [web]: who may be let in is decided before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.config import Config, WebSettings, build, is_loopback
from holdfast.errors import ConfigError

TOKEN = "0123456789abcdef"


def built(**web: Any) -> Config:
    """A configuration with this table."""
    account = {"platform": "telegram", "token": "1:x"}
    return build({"accounts": {"bot": account}, "web": web}, Path("/etc/holdfast.toml"))


def test_it_is_on_at_loopback_without_a_word() -> None:
    config = built()
    assert config.web == WebSettings(listen="127.0.0.1:8787")
    assert not [warning for warning in config.warnings if "[web]" in warning]


@pytest.mark.parametrize(
    ("web", "key", "problem"),
    [
        ({"listen": "0.0.0.0:8787"}, "listen", "lets other machines in, and there is no token"),
        ({"listen": "[::]:8787"}, "listen", "lets other machines in"),
        ({"listen": "192.168.1.5:80"}, "listen", "lets other machines in"),
        ({"listen": "bots.example.org:80"}, "listen", "lets other machines in"),
        ({"listen": "localhost.example.org:80"}, "listen", "lets other machines in"),
        ({"url": "https://bots.example.org"}, "url", "lets other machines in"),
        ({"token": "short"}, "token", "is shorter than 16 characters"),
        ({"token": {"env": "HOLDFAST_NO_SUCH_VARIABLE"}}, "token", "is not set"),
        ({"listen": "8787"}, "listen", "is not HOST:PORT"),
        ({"listen": "127.0.0.1:http"}, "listen", "is not HOST:PORT"),
        ({"listen": "127.0.0.1:65536"}, "listen", "is not HOST:PORT"),
        ({"listen": 8787}, "listen", "must be text, not a whole number (put it in quotes)"),
        ({"url": "bots.example.org", "token": TOKEN}, "url", "is not a usable URL"),
        ({"lisen": "127.0.0.1:1"}, "", "did you mean `listen`?"),
    ],
)
def test_what_can_not_be_served(web: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(**web)
    assert caught.value.where == f"/etc/holdfast.toml: [web] {key}".strip()
    assert problem in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_token_opens_other_addresses_and_says_what_it_costs() -> None:
    config = built(listen="0.0.0.0:8787", token=TOKEN)
    (in_place, clear) = (one for one in config.warnings if "[web]" in one)
    assert "the secret is written in the file" in in_place
    assert "crosses the network in clear" in clear
    assert TOKEN not in repr(config)
    behind = built(listen="0.0.0.0:8787", token=TOKEN, url="https://bots.example.org")
    assert not [one for one in behind.warnings if "in clear" in one]


def test_it_can_be_switched_off() -> None:
    assert built(listen="").web.listen == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "128.0.0.1", "example.org", "127.0.0.1.nip.io"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)
