"""T14: the process dies at the point and pass it was told, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import timeit
from collections.abc import Iterator

import pytest

from holdfast import killpoints
from holdfast.killpoints import POINTS, VARIABLE, BadKillPoint

PROGRAM = """
    import threading
    from holdfast.killpoints import POINTS, reach
    for n in range(1, 4):
        for point in POINTS:
            print(n, point, flush=True)
            worker = threading.Thread(target=reach, args=(point,))
            worker.start()
            worker.join()
    print("end", flush=True)
"""


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    killpoints.arm(None)


def run(spec: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if spec is not None:
        environment[VARIABLE] = spec
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("point", POINTS)
def test_each_point_kills_on_its_first_pass(point: str) -> None:
    done = run(point)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == f"1 {point}"
    assert done.stderr == f"holdfast: killed at {point}, pass 1\n"


def test_a_later_pass_can_be_chosen() -> None:
    done = run("after-persist:3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == "3 after-persist"


@pytest.mark.parametrize("spec", [None, "", "after-ack:4"])
def test_unarmed_or_not_reached_the_program_ends_well(spec: str | None) -> None:
    done = run(spec)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "end"
    assert done.stderr == ""


def test_an_unknown_name_stops_the_program_before_it_begins() -> None:
    done = run("after-lunch")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no kill point 'after-lunch'; known: after-receive, after-persist" in done.stderr


@pytest.mark.parametrize("spec", ["after-ack:", "after-ack:0", "after-ack:-1", "after-ack:x"])
@pytest.mark.usefixtures("disarmed")
def test_a_bad_pass_is_refused(spec: str) -> None:
    with pytest.raises(BadKillPoint, match="must be 1, 2, 3"):
        killpoints.arm(spec)


@pytest.mark.usefixtures("disarmed")
def test_a_misspelt_point_in_the_product_is_found_when_armed() -> None:
    killpoints.arm("after-ack:2")
    with pytest.raises(BadKillPoint, match="after-pay"):
        killpoints.reach("after-pay")  # type: ignore[arg-type]


def test_an_unset_variable_costs_next_to_nothing() -> None:
    killpoints.arm(None)
    calls = 100_000
    seconds = min(timeit.repeat(lambda: killpoints.reach("in-handler"), number=calls, repeat=3))
    assert seconds / calls < 2e-6
