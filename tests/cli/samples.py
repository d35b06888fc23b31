"""Status documents to show."""

from __future__ import annotations

import os
import time

import msgspec

from holdfast.observe.status import AccountStatus, CauseStatus, ProofStatus, Status, boot_id
from tests.observe.test_status import supervised

LOST = CauseStatus(
    kind="lost",
    code="reset",
    message="connection lost",
    who_acts="nobody",
    hint="Nothing to do: Holdfast keeps trying.",
    retryable=True,
)

REFUSED = CauseStatus(
    kind="credentials",
    code="telegram_unauthorized",
    message="getMe was answered with 401",
    who_acts="operator",
    hint="Get the token from @BotFather.",
    retryable=False,
)


def account(state: str = "connected", **changes: object) -> AccountStatus:
    """An account whose evidence lasts another minute."""
    now = time.time()
    fields: dict[str, object] = {
        "state": state,
        "since": now - 300,
        "valid_until": now + 60,
        "transport": ProofStatus(at=now - 4, age=4.0),
        "cause": None,
    }
    return msgspec.structs.replace(supervised(), **(fields | changes))


def document(pid: int | None = None, age: float = 0.0, **accounts: AccountStatus) -> Status:
    """A document written ``age`` seconds ago by this process, or another."""
    now = time.time()
    return Status(
        pid=os.getpid() if pid is None else pid,
        boot_id=boot_id(),
        started_at=now - 3600,
        written_at=now - age,
        version="9.9",
        accounts=accounts,
    )
