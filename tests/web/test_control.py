"""The control socket: private, and replaced when its owner died."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from holdfast.web import control


def talk(path: Path) -> None:
    with control.listen(path) as server, control.connect(path, 1.0) as client:
        peer, _ = server.accept()
        with peer:
            peer.setblocking(True)
            client.sendall(b"hello")
            assert peer.recv(5) == b"hello"


def test_only_its_owner_can_use_it(tmp_path: Path) -> None:
    path = tmp_path / control.SOCKET_NAME
    before = os.umask(0)
    try:
        with control.listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert [p.name for p in tmp_path.iterdir()] == [control.SOCKET_NAME]
    finally:
        os.umask(before)


def test_the_socket_of_a_dead_gateway_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / control.SOCKET_NAME
    control.listen(path).close()
    assert path.exists()
    with pytest.raises(ConnectionRefusedError):
        control.connect(path, 1.0)
    talk(path)


def test_a_path_too_long_for_an_address_still_works(tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 20) / ("er" * 20)
    directory.mkdir(parents=True)
    talk(directory / control.SOCKET_NAME)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        control.connect(tmp_path / control.SOCKET_NAME, 1.0)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        control.listen(tmp_path / "nowhere" / control.SOCKET_NAME)
