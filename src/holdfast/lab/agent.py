"""The agent that subjects answer with: an echo that can be told to misbehave by what it is asked.

A message ``#sleep 60 ... token`` is answered after a minute. The last word is always the token, and
the answer ends with it, whatever stands before. ``#attempt`` tells which try it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from holdfast.agents import Turn
from holdfast.lab.faults.blocker import block
from holdfast.messages import Inbound

EXIT = 9
"""The status with which ``#exit`` ends the process."""

PARTS = 3
"""Replies to ``#parts``; only the last ends with the token."""


async def answer(message: Inbound, turn: Turn) -> str | Sequence[str]:
    """Do what the message asks, then answer with its text."""
    text = message.text
    order, _, rest = text[text.find("#") :].partition(" ") if "#" in text else ("", "", "")
    argument = rest.split(" ", 1)[0]
    match order:
        case "#sleep":
            await asyncio.sleep(float(argument))
        case "#hang":
            await asyncio.Event().wait()
        case "#fail":
            raise RuntimeError("asked to fail")
        case "#fail-once" if turn.attempt == 1:
            raise RuntimeError("asked to fail once")
        case "#block-once" if turn.attempt == 1:
            block(float(argument))
        case "#block":
            block(float(argument))
        case "#exit":
            os._exit(EXIT)
        case "#attempt":
            return f"attempt {turn.attempt}: {text}"
        case "#parts":
            *before, last = (f"part {number} of" for number in range(1, PARTS + 1))
            return [*(f"{part} it" for part in before), f"{last} {text}"]
    return f"echo: {text}"
