"""One gateway on a machine for each account."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import pytest

from holdfast.errors import AccountInUse
from holdfast.gateway.claims import AVAILABLE, Claims, Owned
from holdfast.lab.faults.process import Child
from holdfast.supervision import Published
from tests.gateway.house import house, parrot, reach
from tests.gateway.parrot import Aviary

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="no abstract socket namespace here")

HOLDER = """
import asyncio, json
from holdfast.gateway.claims import Claims, Owned

async def main():
    Claims().hold({Owned("parrot", sys.argv[1], "there"): "polly"}, "its.toml")
    print(json.dumps({}), flush=True)
    await asyncio.sleep(60)
"""


def owned(identity: str = "") -> Owned:
    """An account that no other test has."""
    return Owned("parrot", identity or uuid.uuid4().hex, "there")


async def test_a_second_owner_is_told_who_has_it() -> None:
    one, two, account = Claims(), Claims(), owned()
    one.hold({account: "polly"}, "one.toml")
    with pytest.raises(AccountInUse, match=rf"two.toml: \[accounts.lora\]: process {os.getpid()} "):
        two.hold({account: "lora"}, "two.toml")
    one.release()
    two.hold({account: "lora"}, "two.toml")
    two.release()


async def test_who_is_refused_one_gets_none() -> None:
    one, two, third = Claims(), Claims(), Claims()
    taken, free = owned(), owned()
    one.hold({taken: "polly"}, "one.toml")
    with pytest.raises(AccountInUse):
        two.hold({free: "lora", taken: "polly"}, "two.toml")
    third.hold({free: "lora"}, "third.toml")
    one.release()
    third.release()


async def test_what_is_no_longer_wanted_is_free_and_what_is_still_wanted_is_kept() -> None:
    one, two = Claims(), Claims()
    left, kept = owned(), owned()
    one.hold({left: "polly", kept: "lora"}, "one.toml")
    one.hold({kept: "lora"}, "one.toml")
    two.hold({left: "polly"}, "two.toml")
    with pytest.raises(AccountInUse):
        two.hold({left: "polly", kept: "lora"}, "two.toml")
    one.release()
    two.release()


async def test_another_server_of_the_platform_is_another_world() -> None:
    one, two, here = Claims(), Claims(), owned()
    one.hold({here: "polly"}, "one.toml")
    two.hold({Owned(here.platform, here.identity, "elsewhere"): "polly"}, "two.toml")
    one.release()
    two.release()


@pytest.mark.real_time
async def test_the_kernel_frees_what_a_killed_process_had() -> None:
    account = owned()
    code = f"import sys\n{HOLDER}\nasyncio.run(main())"
    async with Child([sys.executable, "-c", code, account.identity]) as holder:
        with pytest.raises(AccountInUse, match=f"process {holder.pid} "):
            Claims().hold({account: "polly"}, "ours.toml")
    claims = Claims()
    claims.hold({account: "polly"}, "ours.toml")
    claims.release()


async def test_a_gateway_has_its_accounts_until_it_has_stopped(tmp_path: Path) -> None:
    async with Aviary() as aviary:
        claims, others = Claims(), Claims()
        async with house(tmp_path, parrot("bot", aviary.url), claims=claims) as gateway:
            await reach(gateway, "bot", Published.CONNECTED)
            adapter = gateway.desk("bot").account.adapter
            account = Owned(adapter.platform, adapter.identity, adapter.endpoint)
            assert bool(adapter.endpoint)
            with pytest.raises(AccountInUse):
                others.hold({account: "bot"}, "others.toml")
        others.hold({account: "bot"}, "others.toml")
        others.release()
