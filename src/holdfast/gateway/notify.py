"""The service manager's notification protocol (sd_notify(3)): a datagram to a Unix socket."""

from __future__ import annotations

import os
import socket


class ServiceManager:
    """Tells systemd that we are ready, what we do, and that we live; silent without systemd."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        env = dict(os.environ) if environ is None else environ
        address = env.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        micros = env.get("WATCHDOG_USEC", "")
        for_us = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval = int(micros) / 2e6 if micros.isdigit() and for_us else None
        """Seconds between two signs of life, half of what the manager demands; None if none."""

    def send(self, *lines: str) -> bool:
        """Send ``READY=1``, ``STATUS=...``, ``WATCHDOG=1`` and the like; False if not sent."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True
