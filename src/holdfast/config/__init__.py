"""The configuration: one TOML file, checked as a whole before anything starts.

Every mistake is one `ConfigError` line that says where it is, what is wrong and how to mend it.
Secrets come from the environment, files or the system keyring; the file needs to hold none.
"""

from __future__ import annotations

from holdfast.config.reading import TOKEN_LENGTH, build, check_identities, load, state_dir_of
from holdfast.config.settings import (
    AccountConfig,
    AccountKeys,
    AccountWay,
    AlertsConfig,
    AlertSettings,
    CommandWay,
    Config,
    GatewaySettings,
    HookWay,
    Way,
    WebSettings,
)
from holdfast.config.state_dir import check_state_dir
from holdfast.config.values import is_loopback

__all__ = [
    "TOKEN_LENGTH",
    "AccountConfig",
    "AccountKeys",
    "AccountWay",
    "AlertSettings",
    "AlertsConfig",
    "CommandWay",
    "Config",
    "GatewaySettings",
    "HookWay",
    "Way",
    "WebSettings",
    "build",
    "check_identities",
    "check_state_dir",
    "is_loopback",
    "load",
    "state_dir_of",
]
