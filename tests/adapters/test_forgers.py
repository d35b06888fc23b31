"""Strangers at a web hook's address: refused, counted, and no trouble for anybody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast.gateway.hooks import MAX_BODY
from holdfast.supervision import Published
from tests.adapters import fuzz_cases as cases
from tests.adapters.fuzzing import Call
from tests.harness import Running, running


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A web hook's address: what its platform signs, and how strangers are turned away."""

    road: str
    sign: Callable[[bytes, float], Call]
    """A genuine request, so many seconds old."""
    refused: int = 401
    signed: bool = True
    """The proof covers the body; else it is a mere secret."""
    dated: bool = False
    """The proof has a date."""
    once: bool = False
    """A request that comes a second time is refused; else its message is known already."""


GATES = [
    Gate(road="telegram-hook", sign=cases.telegram_call, refused=403, signed=False),
    Gate(road="qqbot-hook", sign=cases.qq_call, dated=True),
    Gate(road="feishu-hook", sign=cases.feishu_call, dated=True, once=True),
    Gate(road="whatsapp", sign=cases.whatsapp_call),
]

PROOFS = (b"", b"0" * 64, b"0" * 128, b"\xff\xfe", "签".encode(), b"9" * 5000, b"-1", b"1e9")
"""What a stranger may present in place of any header that proves who he is."""

gates = pytest.mark.parametrize("gate", [pytest.param(gate, id=gate.road) for gate in GATES])


@contextlib.asynccontextmanager
async def guarded(gate: Gate) -> AsyncIterator[tuple[Running, str]]:
    """A connected account behind its gate, and the gate's path."""
    (road,) = [road for road in cases.ROADS if road.name == gate.road]
    tape, _ = await asyncio.get_running_loop().run_in_executor(None, cases.taped, gate.road)
    async with road.simulator() as sim, running(road.kind, sim.account() | road.settings) as run:
        async with asyncio.timeout(600):
            while run.account.view().published is not Published.CONNECTED:
                await cases.called(sim, run.hooks.url + tape.hook_path)
                await asyncio.sleep(1.0)
        yield run, tape.hook_path


def event(gate: Gate) -> bytes:
    """The body of a real message."""
    tape, _ = cases.taped(gate.road)
    item = tape.items[tape.carriers[0]]
    assert isinstance(item, Call)
    return item.body


async def post(run: Running, path: str, body: bytes, headers: Mapping[str, Any]) -> int:
    """A request as raw as a stranger's: a header may hold any bytes. Its status."""
    pairs = {k: v if isinstance(v, bytes) else v.encode() for k, v in headers.items()}
    lines = b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in pairs.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", run.hooks.port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n" % path.encode()
        + b"Content-Length: %d\r\n%s\r\n%s" % (len(body), lines, body)
    )
    status = (await reader.readline()).split()[1]
    writer.close()
    await writer.wait_closed()
    return int(status)


@gates
async def test_forged_requests_are_refused_and_counted(gate: Gate) -> None:
    async with guarded(gate) as (run, path):
        body = event(gate)
        proof: dict[str, Any] = dict(gate.sign(body, 0.0).headers)
        forged: list[Mapping[str, Any]] = [{}]
        for name in proof:
            forged.append({k: v for k, v in proof.items() if k != name})
            forged += [proof | {name: value} for value in PROOFS]
        for headers in forged:
            before = run.account.skipped_frames
            assert await post(run, path, body, headers) == gate.refused, headers
            assert run.account.skipped_frames == before + 1, headers
        assert not run.messages
        assert await post(run, path, body, proof) == 200
        assert len(run.messages) == 1
        assert run.states()[-1] is Published.CONNECTED
        assert run.account.unknown_errors == 0


@gates
async def test_a_proof_is_good_for_its_own_body_and_for_a_while(gate: Gate) -> None:
    async with guarded(gate) as (run, path):
        body, stolen = event(gate), gate.sign(b"{}", 0.0).headers
        took = await post(run, path, body + b" ", gate.sign(body, 0.0).headers)
        assert took == (gate.refused if gate.signed else 200)
        assert await post(run, path, body, stolen) == (gate.refused if gate.signed else 200)
        for age in (-400.0, 400.0, 1e9):
            took = await post(run, path, body, gate.sign(body, age).headers)
            assert took == (gate.refused if gate.dated else 200)
        assert len(run.messages) == (0 if gate.signed and gate.dated else 1)
        assert run.account.unknown_errors == 0


@gates
async def test_a_replay_brings_nothing_new(gate: Gate) -> None:
    async with guarded(gate) as (run, path):
        body = event(gate)
        proof = gate.sign(body, 0.0).headers
        assert await post(run, path, body, proof) == 200
        assert await post(run, path, body, proof) == (gate.refused if gate.once else 200)
        assert run.account.skipped_frames == gate.once
        assert len(run.messages) == 1


@gates
async def test_what_is_for_nobody_or_for_no_memory_is_refused_at_the_door(gate: Gate) -> None:
    async with guarded(gate) as (run, path):
        assert await post(run, path + "/x", b"{}", {}) == 404
        assert await post(run, path, bytes(MAX_BODY + 1), {}) == 413
        assert run.hooks.refused >= 2
        assert run.account.skipped_frames == 0
        assert run.account.view().published is Published.CONNECTED
