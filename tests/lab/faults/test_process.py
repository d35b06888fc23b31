"""T2 and T6: children start, freeze, thaw and die as told, and none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from holdfast.lab.faults.process import KEEP, Child, ChildFailed

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

ECHO = """
    import json, os, socket, sys
    server = socket.create_server(("127.0.0.1", 0))
    print("starting", flush=True)
    print("a word on stderr", file=sys.stderr, flush=True)
    print(json.dumps({"port": server.getsockname()[1], "mode": os.environ.get("MODE")}), flush=True)
    while True:
        peer, _ = server.accept()
        while data := peer.recv(1000):
            peer.sendall(data)
"""


def child(source: str, **options: object) -> Child:
    return Child([sys.executable, "-c", textwrap.dedent(source)], **options)  # type: ignore[arg-type]


def state(pid: int) -> str:
    """The kernel's letter for it: R or S, T for stopped, empty when it is gone or a zombie."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
    return letter.removeprefix("Z")


def exists(pid: int) -> bool:
    return state(pid) != ""


async def test_the_ready_line_is_the_first_json_object() -> None:
    async with child(ECHO, env={"MODE": "test"}) as echo:
        assert echo.ready["mode"] == "test"
        assert echo.ready["port"] > 0
        assert echo.returncode is None
        assert echo.stdout.startswith("starting\n")
    assert echo.returncode == -signal.SIGKILL
    assert "a word on stderr" in echo.stderr
    assert not exists(echo.pid)


async def test_a_module_runs_under_this_interpreter(tmp_path: Path) -> None:
    source = 'import json, sys; print(json.dumps({"argv": sys.argv[1:], "exe": sys.executable}))'
    (tmp_path / "served.py").write_text(source)
    async with Child.module("served", "a", "b", cwd=tmp_path) as served:
        assert served.ready == {"argv": ["a", "b"], "exe": sys.executable}
        assert await served.wait() == 0


async def test_frozen_means_alive_in_the_kernel_and_dead_above_it() -> None:
    async with child(ECHO) as echo:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo.ready["port"])
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"

        await echo.freeze()
        assert echo.frozen
        await echo.freeze()
        assert state(echo.pid) == "T"
        _, second = await asyncio.open_connection("127.0.0.1", echo.ready["port"])
        writer.write(b"2")
        await writer.drain()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)

        await echo.thaw()
        assert not echo.frozen
        async with asyncio.timeout(5):
            assert await reader.readexactly(1) == b"2"
        writer.close()
        second.close()


async def test_terminate_is_heard_by_a_frozen_process() -> None:
    async with child(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print("{}", flush=True)
        time.sleep(60)
        """
    ) as polite:
        await polite.freeze()
        assert await polite.terminate() == 7


async def test_terminate_kills_after_its_timeout() -> None:
    async with child(
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("{}", flush=True)
        time.sleep(60)
        """
    ) as deaf:
        assert await deaf.terminate(timeout=0.1) == -signal.SIGKILL


async def test_kill9_kills_a_frozen_process_and_may_be_repeated() -> None:
    async with child(ECHO) as echo:
        await echo.freeze()
        assert await echo.kill9() == -signal.SIGKILL
        assert await echo.kill9() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            await echo.freeze()


async def test_a_grandchild_does_not_survive() -> None:
    async with child(
        """
        import json, subprocess, sys, time
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(json.dumps({"pid": grandchild.pid}), flush=True)
        time.sleep(60)
        """
    ) as parent:
        pid = parent.ready["pid"]
        assert exists(pid)
    for _ in range(1_000):
        if not exists(pid):
            break
        await asyncio.sleep(0.005)
    assert not exists(pid)


async def test_a_child_that_ends_before_it_is_ready_says_why() -> None:
    failing = child("import sys; sys.exit('no such account')")
    with pytest.raises(ChildFailed, match=r"stdout ended, status (1|-9)\nno such account"):
        await failing.start()
    assert not exists(failing.pid)


async def test_a_child_that_is_never_ready_is_killed() -> None:
    slow = child("import time; time.sleep(60)", ready_timeout=0.2)
    with pytest.raises(ChildFailed, match="no ready line in time, status -9"):
        await slow.start()
    assert not exists(slow.pid)


async def test_a_talkative_child_neither_blocks_nor_fills_memory() -> None:
    async with child(
        """
        import sys
        print("{}", flush=True)
        for stream in (sys.stdout, sys.stderr):
            for n in range(300):
                stream.write(f"{n} " + "x" * 1000 + "\\n")
        """
    ) as talker:
        async with asyncio.timeout(10):
            assert await talker.wait() == 0
    assert len(talker.stdout) == len(talker.stderr) == KEEP
    assert talker.stderr.splitlines()[-1].startswith("299 ")


async def test_children_leave_no_task_and_no_descriptor() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a count of one directory

    async with child(ECHO):
        pass
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(3):
        async with child(ECHO) as echo:
            await echo.freeze()
    assert descriptors() == before
    assert len(asyncio.all_tasks()) == tasks


def test_a_child_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = child(ECHO).pid
