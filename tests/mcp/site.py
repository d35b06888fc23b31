"""A gateway with parrots, and the official client of what looks after them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_types import TextContent, TextResourceContents

from holdfast.adapter import Disconnect, Link
from holdfast.config import Config
from holdfast.supervision import Cause, Kind
from mcp import Client, StdioServerParameters
from tests.web.gateway import Parrot, parrots

REVOKED = Cause(Kind.CREDENTIALS, "parrot_401", "the token was refused", "Make a new token.")


class Plucked(Parrot):
    """A platform that refuses the credentials of its bots until they are mended."""

    mended = False

    async def run(self, link: Link) -> None:
        """Refuse, or be a parrot."""
        if not Plucked.mended:
            raise Disconnect(REVOKED)
        await super().run(link)


def place(home: Path, kind: type[Parrot] = Parrot, **nests: str) -> Config:
    """A configuration, of which a command needs the file alone."""
    lines = ["[gateway]", 'state_dir = "."']
    for name in nests:
        lines += [f"[accounts.{name}]", 'platform = "telegram"']
    (home / "holdfast.toml").write_text("\n".join(lines) + "\n")
    return parrots(home, kind, **nests)


@dataclass
class Model:
    """What a language model does, by the official client."""

    client: Client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured answer of a tool that works."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        assert result.structured_content is not None
        (text,) = result.content
        assert isinstance(text, TextContent)
        answer: dict[str, Any] = result.structured_content
        assert json.loads(text.text) == answer
        return answer

    async def refused(self, tool: str, **arguments: Any) -> str:
        """What a tool says that does not work."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error
        (text,) = result.content
        assert isinstance(text, TextContent)
        return text.text

    async def read(self, uri: str) -> dict[str, Any]:
        """A resource."""
        (content,) = (await self.client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        assert content.mime_type == "application/json"
        document: dict[str, Any] = json.loads(content.text)
        return document


@contextlib.asynccontextmanager
async def over_stdio(home: Path, *options: str, limit: float = 30.0) -> AsyncIterator[Model]:
    """``holdfast mcp`` as a client starts it, for so many seconds at most."""
    config = str(home / "holdfast.toml")
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "holdfast.cli", "--config", config, "mcp", *options]
    )
    async with asyncio.timeout(limit), Client(server) as client:
        yield Model(client)


@contextlib.asynccontextmanager
async def over_http(home: Path, *options: str) -> AsyncIterator[str]:
    """The URL of ``holdfast mcp --listen``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "--config", str(home / "holdfast.toml")),
        *("mcp", "--listen", "127.0.0.1:0", *options),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            line = (await process.stderr.readline()).decode()
        assert line.startswith("holdfast: listening on http://127.0.0.1:"), line
        yield line.split()[-1]
        os.kill(process.pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
