"""Mission row M5.6: what reads the status. Of its readers, the command line and the API exist."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from holdfast.cli.exits import Exit
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.observe.status import FILE_NAME, read
from tests.cli.gateway import Place


@pytest.mark.real_time
async def test_m5_6_file_command_line_and_api_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator() as sim, Relay("127.0.0.1", sim.port) as relay:
        place.write(bot={**sim.account(), "base_url": f"http://127.0.0.1:{relay.port}"})
        async with place.gateway() as process:
            await process.answers()
            await sim.until(sim.listening)
            for state in ("connected", "retrying"):
                if state == "retrying":
                    relay.refuse()
                await process.logged("lost account=bot" if state == "retrying" else "connected")
                capsys.readouterr()
                assert await place.command("status", "--json") == Exit.OK
                told = json.loads(capsys.readouterr().out)["accounts"]["bot"]
                written = read(place.state / FILE_NAME).accounts["bot"]
                assert told["state"] == written.state == state
                assert abs(told["since"] - written.since) < 1.0
            assert await place.command("explain", "bot") == Exit.OK
            explained = capsys.readouterr().out
            assert "telegram_network_error" in explained
            assert "nothing to do" in explained.lower()
            # Killed, the writer can not say so itself; the reader finds out.
            process.signal(signal.SIGKILL)
            await process.ended()
            assert await place.command("status", "--json") == Exit.UNANSWERED
            told = json.loads(capsys.readouterr().out)
            assert told["accounts"]["bot"]["believed"].startswith("unknown")
